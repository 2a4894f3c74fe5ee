"""A contribution in words a moderator reads: "author's discards 7 of 20 posts in 180 days (raises)"."""

from __future__ import annotations

from deployments.review_gate.values import AuthorHistory, Contribution, GateInput


def in_words(contribution: Contribution, post: GateInput) -> str:
    return f"{_fact(contribution.feature, post)} ({'raises' if contribution.log_odds > 0 else 'lowers'})"


def _fact(feature: str, post: GateInput) -> str:
    match feature:
        case "score":
            return f"score {post.nsfw_score:.2f}"
        case "author_history":
            return _history(post.history)
        case "age_h":
            return f"reached {post.milestone} views {_hours(post.age_h)} after its creation"
        case "views_per_hour":
            return f"{post.views_per_hour:,.0f} views an hour"
        case "milestone":
            return f"milestone of {post.milestone} views"
        case "language":
            return f"language {post.language or 'unknown'}"
        case "content_type":
            return f"a post of type {post.content_type}"
    score = post.category_scores.get(feature)
    return f"{feature} {'not scored' if score is None else format(score, '.2f')}"


def _history(history: AuthorHistory) -> str:
    if history.status == "missing":
        return "author's history is not known"
    said = f"author's discards {history.discards} of {history.posts} posts in {history.window_days} days"
    return f"{said}, as last known" if history.status == "stale" else said


def _hours(age_h: float) -> str:
    return f"{age_h * 60:.0f} min" if age_h < 2 else f"{age_h:.0f} h" if age_h < 72 else f"{age_h / 24:.0f} days"

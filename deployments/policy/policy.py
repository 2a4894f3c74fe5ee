"""A policy: thresholds as versioned data, and the one function that turns scores into an action.

YAML -> Policy (validated whole, errors name file and field) -> decide(scores, language, modalities, segments)
-> PolicyDecision -> with_matches(decision, matches) -> PolicyDecision. The severest triggered action counts. Raising
the score of a category or of a segment never lowers the action; a modality that failed, nothing usable at all, or a
segment at its category's review threshold makes it at least `review`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deployments.policy.matches import ACTIONS, Action, MatchFact, MatchPolicy, severest
from deployments.policy.streams import StreamPolicy
from deployments.policy.strict_yaml import StrictYamlError, read_strict_yaml
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Modality, ModalityStatus, Status

CATEGORIES: tuple[str, ...] = ("safe", "nudity", "sexual", "violence", "abusive", "hate", "dangerous")
UNSAFE = CATEGORIES[1:]
ANY = "any"

Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class PolicyError(InvalidInput):
    """The policy file is wrong: the message names the file and the field."""

    code = "invalid_policy"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Thresholds(_Data):
    review: Threshold = Field(description="At or above this score a moderator looks.")
    block: Threshold = Field(description="At or above this score the post is blocked.")

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.block < self.review:
            raise ValueError(f"block threshold {self.block} is below review threshold {self.review}")
        return self

    def action(self, score: float) -> Action:
        if score >= self.block:
            return "block"
        return "review" if score >= self.review else "allow"

    def of(self, action: Action) -> float:
        return self.block if action == "block" else self.review


@dataclass(frozen=True)
class PolicyDecision:
    action: Action
    category: str | None  # the category that decided; None where no threshold was reached
    threshold: float | None
    policy_version: str
    reason: str  # one sentence a moderator can read
    use: str | None = None  # the use of the match that decided; None where the scores did
    legal_hold: bool = False  # the evidence is kept
    no_preview: bool = False  # nobody is shown it


class Policy(_Data):
    version: str = Field(min_length=1, max_length=64, description="Stands in every verdict; change it with every edit.")
    default_action: Action = Field("allow", description="The action where no threshold is reached.")
    on_failed_modality: Literal["review", "block"] = Field("review", description="At least this where one failed.")
    categories: Mapping[str, Thresholds] = Field(description="One entry for each category but `safe`.")
    any: Thresholds = Field(description="Thresholds on nsfw_score = 1 - P(safe).")
    languages: Mapping[str, Mapping[str, Thresholds]] = Field(
        default_factory=dict, description="BCP-47 prefix -> category (or `any`) -> thresholds that replace the above."
    )
    severity: Annotated[list[Threshold], Field(min_length=3, max_length=3)] = Field(
        [0.25, 0.5, 0.8], description="Scores at which severity 2, 4 and 6 begin."
    )
    matches: MatchPolicy = Field(default_factory=MatchPolicy, description="What matches with other content do.")
    streams: StreamPolicy = Field(default_factory=StreamPolicy, description="How the clips of a livestream add up.")

    @field_validator("categories")
    @classmethod
    def _all_six(cls, value: Mapping[str, Thresholds]) -> Mapping[str, Thresholds]:
        _refuse_unknown(value, UNSAFE)
        if missing := [name for name in UNSAFE if name not in value]:
            raise ValueError(f"missing category {', '.join(missing)}")
        return value

    @field_validator("languages")
    @classmethod
    def _known_overrides(cls, value: Mapping[str, Mapping[str, Thresholds]]) -> Mapping[str, Mapping[str, Thresholds]]:
        for tag, overrides in value.items():
            if not all(part.isascii() and part.isalnum() and len(part) <= 8 for part in tag.split("-")):
                raise ValueError(f"{tag!r} is not a BCP-47 language tag")
            _refuse_unknown(overrides, (*UNSAFE, ANY))
        folded = {tag.lower(): overrides for tag, overrides in value.items()}
        if len(folded) < len(value):
            raise ValueError("the same language stands there twice in different case")
        return folded

    @field_validator("severity")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value:
            raise ValueError("severity cut points must rise")
        return value

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read and validate a policy file. Raises PolicyError that names the file and the field."""
        try:
            return cls.model_validate(read_strict_yaml(path))
        except OSError as error:
            raise PolicyError(f"{path}: cannot be read: {error.strerror}") from None
        except StrictYamlError as error:
            raise PolicyError(f"{path}: {error}") from None
        except ValidationError as error:
            raise PolicyError(f"{path}: {_first(error)}") from None

    def thresholds(self, category: str, language: str | None = None) -> Thresholds:
        """The thresholds that count for a category (or `any`) in a language."""
        return self._resolve(category, language)[0]

    def _resolve(self, category: str, language: str | None) -> tuple[Thresholds, str | None]:
        """RFC 4647 lookup: hi-Latn-IN asks hi-latn-in, hi-latn, hi, then the general entry."""
        parts = language.lower().split("-") if language else []
        while parts:
            tag = "-".join(parts)
            if found := self.languages.get(tag, {}).get(category):
                return found, tag
            parts.pop()
        return (self.any if category == ANY else self.categories[category]), None

    def severity_of(self, score: float) -> int:
        """0, 2, 4 or 6: the steps moderation interfaces show for harm severity, cut at `severity`."""
        return 2 * sum(score >= cut for cut in self.severity)

    def decide(
        self,
        category_scores: Mapping[str, float],
        language: str | None,
        modalities: Mapping[Modality, ModalityStatus],
        segments: Iterable[tuple[str, float]] = (),
    ) -> PolicyDecision:
        """The action for one post. Scores are ignored, and may be empty, where no modality was usable.

        `segments`: category and score of each stretch that a verdict lists. They stand on their own, because a short
        stretch may hardly move the score of the whole post.

        Raises InvalidInput where the scores lack a category or hold a number outside 0..1, or a segment does.
        """
        if not any(status.usable for status in modalities.values()):
            return self._without_scores(modalities)
        scored = self._by_scores(_checked(category_scores), language)
        return self._with_failures(self._with_segments(scored, _checked_segments(segments), language), modalities)

    def with_matches(self, decision: PolicyDecision, matches: Iterable[MatchFact]) -> PolicyDecision:
        """`decision`, raised where a match asks for more. Known-bad content decides also where nothing is raised."""
        effect = severest(self.matches, list(matches))
        if effect is None:
            return decision
        rises = ACTIONS.index(effect.action) > ACTIONS.index(decision.action)
        if effect.use == "known_bad":
            known_bad = self.matches.known_bad
            return PolicyDecision(
                effect.action if rises else decision.action,
                known_bad.category,
                None,
                self.version,
                effect.reason,
                use=effect.use,
                legal_hold=known_bad.legal_hold,
                no_preview=known_bad.no_preview,
            )
        if not rises:
            return decision
        return PolicyDecision(effect.action, None, None, self.version, effect.reason, use=effect.use)

    def without_search(self, decision: PolicyDecision) -> PolicyDecision:
        """`decision` where the search for matches failed."""
        if ACTIONS.index(decision.action) >= ACTIONS.index(self.matches.on_failed_search):
            return decision
        reason = "The search for known content failed, so a person must look."
        return replace(decision, action=self.matches.on_failed_search, reason=reason)

    def known_bad(self, matches: Iterable[MatchFact]) -> PolicyDecision:
        """The decision on content whose digest is on a hash list: nothing of it is judged."""
        allowed = PolicyDecision("allow", None, None, self.version, "")
        return self.with_matches(allowed, matches)

    def known_bad_scores(self) -> dict[str, float]:
        """What known-bad content counts as: its category, with certainty."""
        return {name: float(name == self.matches.known_bad.category) for name in CATEGORIES}

    def _by_scores(self, scores: Mapping[str, float], language: str | None) -> PolicyDecision:
        worst = max(UNSAFE, key=lambda name: scores[name])
        candidates = [(name, name, scores[name]) for name in UNSAFE] + [(ANY, worst, 1.0 - scores["safe"])]
        best: tuple[int, float, PolicyDecision] | None = None
        for key, category, score in candidates:
            thresholds, tag = self._resolve(key, language)
            action = thresholds.action(score)
            if action == "allow" or ACTIONS.index(action) < ACTIONS.index(self.default_action):
                continue
            rank = (ACTIONS.index(action), score if key != ANY else 0.0)  # a category explains better than `any`
            if best is None or rank > best[:2]:
                limit = thresholds.of(action)
                what = f"The score of {category}" if key != ANY else f"1 - P(safe), mostly {category},"
                reason = _reason(what, score, action, limit, tag)
                best = (*rank, PolicyDecision(action, category, limit, self.version, reason))
        if best is not None:
            return best[2]
        reason = f"No score reached a threshold; the highest was {worst} at {scores[worst]:.2f}."
        return PolicyDecision(self.default_action, None, None, self.version, reason)

    def _with_segments(
        self, scored: PolicyDecision, segments: list[tuple[str, float]], language: str | None
    ) -> PolicyDecision:
        """A segment makes an `allow` a `review`, never more: a person looks at the seconds it names."""
        if scored.action != "allow":
            return scored
        for category, score in sorted(segments, key=lambda segment: -segment[1]):
            thresholds, tag = self._resolve(category, language)
            if score >= thresholds.review:
                reason = _reason(f"The score of a segment of {category}", score, "review", thresholds.review, tag)
                return PolicyDecision("review", category, thresholds.review, self.version, reason)
        return scored

    def _with_failures(self, scored: PolicyDecision, modalities: Mapping[Modality, ModalityStatus]) -> PolicyDecision:
        failures = _failures(modalities)
        if not failures:
            return scored
        if ACTIONS.index(scored.action) >= ACTIONS.index(self.on_failed_modality):
            reason = f"{scored.reason.removesuffix('.')}; {failures}."
            return PolicyDecision(scored.action, scored.category, scored.threshold, self.version, reason)
        reason = f"{_capital(failures)}, so a person must look; no score of the rest decided more."
        if self.on_failed_modality == "block":
            reason = f"{_capital(failures)}, and the policy blocks such posts."
        return PolicyDecision(self.on_failed_modality, None, None, self.version, reason)

    def _without_scores(self, modalities: Mapping[Modality, ModalityStatus]) -> PolicyDecision:
        failures = _failures(modalities)
        floor = self.on_failed_modality if failures else "review"
        action = max(floor, self.default_action, "review", key=ACTIONS.index)
        cause = f": {failures}" if failures else ""
        return PolicyDecision(action, None, None, self.version, f"Nothing of this post could be judged{cause}.")


@cache
def default_policy() -> Policy:
    return Policy.load(Path(__file__).with_name("default.yaml"))


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name == "safe":
            raise ValueError("`safe` takes no threshold; use `any` for 1 - P(safe)")
        if name not in known:
            raise ValueError(f"unknown category {name!r}; known are {', '.join(known)}")


def _checked(scores: Mapping[str, float]) -> Mapping[str, float]:
    for name in CATEGORIES:
        score = scores.get(name)
        if score is None or not math.isfinite(score) or not -1e-6 <= score <= 1 + 1e-6:
            raise InvalidInput(f"The category score of {name} is missing or not between 0 and 1.")
    return scores


def _checked_segments(segments: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    checked = list(segments)
    for category, score in checked:
        if category not in UNSAFE or not math.isfinite(score) or not -1e-6 <= score <= 1 + 1e-6:
            raise InvalidInput(f"A segment of {category!r} has no score between 0 and 1, or no such category is known.")
    return checked


def _reason(what: str, score: float, action: Action, limit: float, tag: str | None) -> str:
    where = f" for language {tag}" if tag else ""
    return f"{what} is {score:.2f}, at or above the {action} threshold of {limit:.2f}{where}."


def _failures(modalities: Mapping[Modality, ModalityStatus]) -> str:
    unseen = (Status.FAILED, Status.SKIPPED)
    failed = [(name, status) for name, status in modalities.items() if status.status in unseen]
    parts = [
        f"{name.value} {'could not be' if s.status is Status.FAILED else 'was not'} judged"
        + (f" ({s.reason.rstrip('.')})" if s.reason else "")
        for name, s in failed
    ]
    return " and ".join(parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "the document"
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{others}"

"""What a match with other content does to a decision, as data: a part of every policy.

A match only ever raises an action. Known-bad content decides whatever the scores say; a protected work acts as its
owner's policy says; a duplicate may inherit what was decided of the post it repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Action = Literal["allow", "review", "block"]
ACTIONS: tuple[Action, ...] = ("allow", "review", "block")  # in rising order
Unsafe = Literal["nudity", "sexual", "violence", "abusive", "hate", "dangerous"]

SURE_STAGES = frozenset({"sha256", "digest", "pdq"})
"""Stages that mean the same pictures or bytes; a match of embeddings means likeness, and inherits at most `review`."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class KnownBadPolicy(_Data):
    action: Literal["review", "block"] = Field("block", description="At least this for content on a hash list.")
    category: Unsafe = Field("dangerous", description="The category that known-bad content counts as, with certainty.")
    legal_hold: bool = Field(True, description="Its media is kept as evidence: no retention, no erasure.")
    no_preview: bool = Field(True, description="No moderator is shown it.")


class ProtectedPolicy(_Data):
    action: Literal["by_reference", "allow", "review", "block"] = Field(
        "by_reference", description="by_reference: as the matched reference's own policy says."
    )
    default: Action = Field("review", description="Where a reference names no policy of its own.")


class DuplicatePolicy(_Data):
    action: Literal["allow", "inherit"] = Field(
        "inherit", description="allow: duplicates decide nothing. inherit: at least what the repeated post got."
    )


class MatchPolicy(_Data):
    known_bad: KnownBadPolicy = Field(default_factory=KnownBadPolicy, description="Content on hash lists.")
    protected: ProtectedPolicy = Field(default_factory=ProtectedPolicy, description="Works of the reference bank.")
    duplicate: DuplicatePolicy = Field(default_factory=DuplicatePolicy, description="Earlier posts.")
    on_failed_search: Literal["allow", "review"] = Field(
        "review", description="At least this where the search for matches failed and nobody could wait for it."
    )


@dataclass(frozen=True)
class MatchFact:
    """What a decision needs to know of one match."""

    use: str  # known_bad, protected or duplicate
    id: str
    stage: str
    action: str | None = None  # protected: the reference's policy; duplicate: what the repeated post got


@dataclass(frozen=True)
class MatchEffect:
    use: str
    action: Action
    reason: str


def severest(policy: MatchPolicy, matches: list[MatchFact]) -> MatchEffect | None:
    """The effect that counts: known-bad content first, then the severest action; None where nothing acts."""
    known_bad = next((match for match in matches if match.use == "known_bad"), None)
    if known_bad is not None:
        reason = f"It is known-bad content, found by {known_bad.stage}."  # which entry is not for everybody
        return MatchEffect("known_bad", policy.known_bad.action, reason)
    effects = [effect for match in matches if (effect := _effect(policy, match)) is not None]
    return max(effects, key=lambda effect: ACTIONS.index(effect.action), default=None)


def _effect(policy: MatchPolicy, match: MatchFact) -> MatchEffect | None:
    if match.use == "protected":
        asked = match.action if policy.protected.action == "by_reference" else policy.protected.action
        action = _known(asked) or policy.protected.default
        return MatchEffect("protected", action, f"It matches the protected work {_found(match)}.")
    inherited = _known(match.action)
    if match.use != "duplicate" or policy.duplicate.action == "allow" or inherited is None:
        return None
    if match.stage not in SURE_STAGES and inherited == "block":
        return MatchEffect("duplicate", "review", f"It resembles the blocked post {_found(match)}.")
    return MatchEffect("duplicate", inherited, f"It repeats the post {_found(match)}, whose action it inherits.")


def _known(action: str | None) -> Action | None:
    return next((known for known in ACTIONS if known == action), None)


def _found(match: MatchFact) -> str:
    return f"{match.id!r}, found by {match.stage}"

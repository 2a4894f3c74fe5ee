"""Is a candidate a match? What a search found near is held against the whole of both: order, coverage, duration.

Stills have no order: one near signature, or a near vector, is all there is to know. Where both move, the seconds that
match must lie on a line, be enough of the longer one, and be told.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.similarity.content import FrameSignatures, MatchedSegment
from deployments.similarity.uses.alignment import Alignment, Order, align_signatures, align_vectors
from deployments.similarity.uses.settings import UseSettings
from deployments.similarity.values import FrameVectors

_SHORT_S = 1.0  # durations of containers differ by this for the same content


@dataclass(frozen=True)
class Verified:
    segments: tuple[MatchedSegment, ...] = ()


def verify_signatures(
    ours: FrameSignatures,
    theirs: FrameSignatures,
    max_bits: int,
    use: UseSettings,
    quality: int,
    *,
    duration_s: float | None,
    other_duration_s: float | None,
) -> Verified | None:
    """None: no match. At least one pair of frames is known to be within `max_bits`."""
    still, other_still = len(ours.hashes) == 1 and not duration_s, len(theirs.hashes) == 1 and not other_duration_s
    if still and other_still:
        return Verified()
    both_move = not still and not other_still
    alignment = align_signatures(
        ours,
        theirs,
        max_bits,
        duration_s=duration_s,
        other_duration_s=other_duration_s,
        min_quality=quality,
        min_frames=use.matched_frames if both_move else 1,
    )
    if not both_move:
        return Verified(alignment.segments)
    return _held(alignment, use, duration_s, other_duration_s)


def verify_vectors(
    ours: FrameVectors | None,
    theirs: FrameVectors | None,
    threshold: float,
    use: UseSettings,
    *,
    duration_s: float | None,
    other_duration_s: float | None,
) -> Verified | None:
    """None: no match. The mean vectors are known to reach `threshold`."""
    if ours is not None and theirs is not None and len(ours.vectors) > 1 and len(theirs.vectors) > 1:
        alignment = align_vectors(
            ours,
            theirs,
            threshold,
            duration_s=duration_s,
            other_duration_s=other_duration_s,
            min_frames=use.matched_frames,
        )
        return _held(alignment, use, duration_s, other_duration_s)
    if duration_s and other_duration_s:
        longer = max(duration_s, other_duration_s)
        if abs(duration_s - other_duration_s) > max(_SHORT_S, use.duration_tolerance * longer):
            return None
    return Verified()


def _held(
    alignment: Alignment, use: UseSettings, duration_s: float | None, other_duration_s: float | None
) -> Verified | None:
    """One frame is enough for a use that asks for no more: then its order says nothing."""
    ordered = alignment.order is not Order.DISAGREES or use.matched_frames == 1
    if not alignment.segments or not ordered:
        return None
    longer = max(duration_s or 0.0, other_duration_s or 0.0)
    matched = min(alignment.matched_s, alignment.other_matched_s)
    if longer and matched < use.covered_share * longer:
        return None
    return Verified(alignment.segments)

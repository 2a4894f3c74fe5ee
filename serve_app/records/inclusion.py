"""How probable it was that a person would see a post: what makes outcomes count for the posts that nobody saw."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple


class Net(NamedTuple):
    """One decision of the gate, as far as it bears on this."""

    action: str
    probability: float  # of an audit, where the action is skip
    verdict_action: str


def inclusion_probability(nets: Iterable[Net]) -> float:
    """Of being reviewed by any of the decisions made of one revision of a post so far.

    1 where the verdict or one decision asked for a person: chance had no part in it. Otherwise the draws at each
    milestone are independent. 1 without any decision: the post came to review another way.
    """
    all_nets = list(nets)
    if not all_nets or any("review" in (net.action, net.verdict_action) for net in all_nets):
        return 1.0
    return 1.0 - prod(1.0 - net.probability for net in all_nets)

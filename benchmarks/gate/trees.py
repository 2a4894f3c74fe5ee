"""What does the tree save over the score alone, and how fast does the gate decide with it?

Both sides calibrate for the same recall bound on the same span and are judged on the span after it. Then the tree's own
directory is loaded by a node, and the test span's posts are decided: one after the other, by many callers at once, and
as whole batches. All on generated decisions: the figures describe the generator, and the machine.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row, against, percentile
from deployments.policy.policy import CATEGORIES
from deployments.review_gate.artefact import CalibrationSettings
from deployments.review_gate.make_tree import make_tree
from deployments.review_gate.node import GateNode
from deployments.review_gate.settings import GateSettings
from deployments.review_gate.table import DecisionTable
from deployments.review_gate.train import TreeSettings
from deployments.review_gate.values import NO_HISTORY, AuthorHistory, GateInput

CALLERS = 64
HISTORY_DAYS = 180


def tree_rows(table: DecisionTable, *, quick: bool, recall: float = 0.95, seed: int = 0) -> list[Row]:
    """Rows for the report: volume saved by the tree against the score alone, then decisions per second and p99."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        card = make_tree(table, tree, TreeSettings(seed=seed), CalibrationSettings(target=recall, seed=seed))
        posts = posts_of(table.select(np.arange(max(0, len(table) - (2_000 if quick else 20_000)), len(table))))
        speed = asyncio.run(_speeds(tree, posts))
    return [*saved_rows(card.metrics["comparison"]), *speed]


def saved_rows(comparison: dict[str, Any]) -> list[Row]:
    """Of a card's comparison: shares of all posts that reach the first milestone, with the score alone as baseline."""
    score, tree = comparison["score_only"], comparison["tree"]
    rows = [
        against("review_volume_saved_tree", tree["first_net"]["value"], "share", score["first_net"]["value"]),
        against("review_volume_saved_tree_both_nets", tree["both_nets"]["value"], "share", score["both_nets"]["value"]),
        against("test_recall_tree", tree["first_recall"]["value"], "share", score["first_recall"]["value"]),
    ]
    for name, title in (("first_net_gain", "tree_gain"), ("both_nets_gain", "tree_gain_both_nets")):
        rows += [Row(f"{title}_{end}", comparison[name][end], "share") for end in ("low", "value", "high")]
    return rows


def posts_of(table: DecisionTable) -> list[GateInput]:
    """Rows of a table as the posts that would reach the gate."""
    languages, kinds = table.languages.values(), table.content_types.values()
    return [
        GateInput(
            post_id=str(table.post_ids[row]),
            milestone=int(table.milestones[row]),
            views=max(int(table.views[row]), int(table.milestones[row])),
            nsfw_score=float(table.scores[row]),
            category_scores={n: float(v[row]) for n, v in table.category_scores.items() if n in CATEGORIES},
            language=languages[row] or None,
            content_type=str(kinds[row]),
            created_at=table.created_at[row].item().replace(tzinfo=UTC),
            reached_at=table.reached_at[row].item().replace(tzinfo=UTC),
            history=_history(table, row),
        )
        for row in range(len(table))
    ]


def _history(table: DecisionTable, row: int) -> AuthorHistory:
    if table.author_posts is None or table.author_discards is None or np.isnan(table.author_posts[row]):
        return NO_HISTORY
    return AuthorHistory("ok", int(table.author_posts[row]), int(table.author_discards[row]), HISTORY_DAYS)


async def _speeds(tree: Path, posts: Sequence[GateInput]) -> list[Row]:
    node, plain = GateNode(GateSettings(tree=tree)), GateNode(GateSettings())
    try:
        alone, without = await _one_by_one(node, posts), await _one_by_one(plain, posts)
        together, waits = await _many_callers(node, posts)
        batched = await _per_second(lambda: node.decide_many(posts), len(posts))
    finally:
        await node.close()
        await plain.close()
    return [
        against("gate_decision_p50_ms", percentile(alone, 0.5), "ms", percentile(without, 0.5)),
        against("gate_decision_p99_ms", percentile(alone, 0.99), "ms", percentile(without, 0.99)),
        Row("gate_decision_p99_ms_64_callers", percentile(waits, 0.99), "ms"),
        against("gate_decisions_per_s", together, "1/s", 1e3 * len(alone) / sum(alone)),
        against("gate_decisions_per_s_batched", batched, "1/s", 1e3 * len(alone) / sum(alone)),
    ]


async def _one_by_one(node: GateNode, posts: Sequence[GateInput]) -> list[float]:
    return [await _timed_ms(node, post) for post in posts]


async def _many_callers(node: GateNode, posts: Sequence[GateInput]) -> tuple[float, list[float]]:
    waiting, waits = iter(posts), list[float]()

    async def caller() -> None:
        waits.extend([await _timed_ms(node, post) for post in waiting])

    per_second = await _per_second(lambda: asyncio.gather(*(caller() for _ in range(CALLERS))), len(posts))
    return per_second, waits


async def _timed_ms(node: GateNode, post: GateInput) -> float:
    started = time.perf_counter()
    await node.decide(post)
    return (time.perf_counter() - started) * 1e3


async def _per_second(run: Callable[[], Awaitable[object]], count: int) -> float:
    started = time.perf_counter()
    await run()
    return count / (time.perf_counter() - started)

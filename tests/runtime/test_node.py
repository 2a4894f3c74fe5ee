"""An encoder node around the smallest encoder: warm-up, model card, limits, and what counts as a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from deployments.runtime import health
from deployments.runtime.errors import InvalidInput, MissingWeights, Overloaded
from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.runtime.values import ModelCard, TextEmbedding

CARD = ModelCard(name="letters", version="1", weights="random", dimension=1)


class Letters:
    """Counts letters. `?` is refused, `!` fails, `!!` raises for its whole batch."""

    card = CARD

    def __init__(self, example: str = "abc") -> None:
        self._example = example
        self.loaded = False
        self.batches: list[list[str]] = []

    def load(self) -> None:
        self.loaded = True

    def example(self) -> str:
        return self._example

    def weight(self, item: str) -> int:
        return len(item)

    def bucket(self, item: str) -> None:
        return None

    def encode(self, items: Sequence[str]) -> list[TextEmbedding | Exception]:
        self.batches.append(list(items))
        if "!!" in items:
            raise RuntimeError
        return [self._count(item) for item in items]

    def _count(self, item: str) -> TextEmbedding | Exception:
        if item in ("?", "!"):
            return InvalidInput() if item == "?" else ValueError()
        return TextEmbedding(np.array([len(item)], np.float32), tokens=len(item), truncated=False)


Node = EncoderNode[str, TextEmbedding]


def node(encoder: Letters | None = None, **settings: float) -> Node:
    return EncoderNode("letters", encoder or Letters(), NodeSettings.model_validate(settings))


async def test_the_constructor_loads_and_warms_up() -> None:
    encoder = Letters()
    subject = node(encoder)
    assert encoder.loaded
    assert encoder.batches == [["abc"]]
    assert (await subject.status()).model == CARD
    await subject.close()


@pytest.mark.parametrize(("example", "error"), [("?", InvalidInput), ("!", ValueError), ("!!", RuntimeError)])
def test_an_encoder_that_fails_its_own_example_makes_no_node(example: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        node(Letters(example))


def test_an_encoder_without_weights_makes_no_node() -> None:
    class Empty(Letters):
        def load(self) -> None:
            raise MissingWeights

    with pytest.raises(MissingWeights):
        node(Empty())


async def test_results_carry_the_card_of_the_model_that_made_them() -> None:
    subject = node()
    result = await subject.encode("hello")
    assert result.model == CARD
    assert result.tokens == 5
    await subject.close()


async def test_limits_change_while_the_node_runs() -> None:
    encoder = Letters()
    subject = node(encoder)
    await asyncio.gather(*(subject.encode("ab") for _ in range(3)))
    subject.reconfigure({"max_batch_weight": 4})
    await asyncio.gather(*(subject.encode("ab") for _ in range(3)))
    assert [len(batch) for batch in encoder.batches] == [1, 3, 2, 1]
    subject.reconfigure({"max_queue_items": 1})
    answers = await asyncio.gather(*(subject.encode("ab") for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TextEmbedding, Overloaded, Overloaded]
    await subject.close()


@pytest.mark.parametrize("limits", [{"workers": 2}, {"stuck_after_s": 1.0}, {"max_batch_weight": 0}])
async def test_other_settings_do_not_change_while_the_node_runs(limits: dict[str, float]) -> None:
    subject = node()
    with pytest.raises(ValidationError):
        subject.reconfigure(limits)
    await subject.close()


def test_one_batch_runs_at_a_time() -> None:
    """An encoder is driven from one thread at a time: more replicas, never more threads."""
    with pytest.raises(ValidationError):
        NodeSettings.model_validate({"workers": 2})


async def test_an_answer_is_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = node()
    await asyncio.sleep(0.6)
    await asyncio.gather(subject.encode("a"), subject.encode("?"), subject.encode("!"), return_exceptions=True)
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", 0.5)
    assert (await subject.status()).state == "ready"
    await subject.close()


@pytest.mark.parametrize(("item", "error"), [("?", InvalidInput), ("!", ValueError), ("!!", RuntimeError)])
async def test_refused_input_is_no_pass_and_no_failure_and_a_failure_is_one(
    item: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = node()
    await asyncio.sleep(0.05)
    with pytest.raises(error):
        await subject.encode(item)
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", 0.04)
    status = await subject.status()
    assert status.state == "sick"
    assert status.reason is not None
    assert ("Error" in status.reason) is (item != "?")
    if item == "?":
        await subject.check_health()  # nothing has failed: no cause to replace it
    await subject.close()

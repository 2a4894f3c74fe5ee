"""The pipeline's nodes over Ray handles: what Ray raises becomes an error of ours, and health is told node by node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.runtime.errors import NodeUnavailable, Overloaded, UnsupportedMedia
from deployments.runtime.values import ModelCard, NodeStatus, TextEmbedding
from deployments.similarity.content import Content, Use
from serve_app import graph
from serve_app.graph import RayNodes

CARD = ModelCard("m", "1", "random", 3)
NODES = ("media", "clip", "vggish", "xlmr", "fusion")


class FakeHandle:
    """Stands where a DeploymentHandle stands: `handle.method.remote(...)` is awaited."""

    def __init__(self, name: str, answer: Callable[[str], Any] | None = None) -> None:
        self.name = name
        self.answer = answer or (lambda method: NodeStatus(name, "ready", None, 1.0, CARD))
        self.calls: list[str] = []

    def options(self, **_: object) -> FakeHandle:
        return self

    def __getattr__(self, method: str) -> Any:
        handle = self

        class Method:
            @staticmethod
            async def remote(*_: object) -> Any:
                handle.calls.append(method)
                result = handle.answer(method)
                if isinstance(result, BaseException):
                    raise result
                return await result if asyncio.iscoroutine(result) else result

        return Method()


def nodes(**answers: Callable[[str], Any]) -> tuple[RayNodes, dict[str, FakeHandle]]:
    handles = {name: FakeHandle(name, answers.get(name)) for name in NODES}
    return RayNodes(handles), handles


def task_error(cause: Exception) -> Exception:
    error: Exception = ray.exceptions.RayTaskError("decode", "a traceback", cause)
    return error


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ray.exceptions.ActorDiedError(), NodeUnavailable),
        (ray.exceptions.ActorUnavailableError("gone", None), NodeUnavailable),
        (ray.exceptions.ObjectLostError("00" * 28, None, ""), NodeUnavailable),
        (ray.exceptions.WorkerCrashedError(), NodeUnavailable),
        (DeploymentUnavailableError("d"), NodeUnavailable),
        (BackPressureError(num_queued_requests=9, max_queued_requests=8), Overloaded),
        (task_error(UnsupportedMedia("not a picture")), UnsupportedMedia),
        (UnsupportedMedia("not a picture"), UnsupportedMedia),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_what_ray_raises_becomes_an_error_of_ours(raised: Exception, told: type[Exception]) -> None:
    subject, _ = nodes(xlmr=lambda method: raised)
    with pytest.raises(told):
        await subject.encode_text("hello")


async def test_a_poisoned_input_stays_what_it_is() -> None:
    subject, _ = nodes(xlmr=lambda method: task_error(ValueError("boom")))
    with pytest.raises(ray.exceptions.RayTaskError):
        await subject.encode_text("hello")


async def test_traffic_that_succeeded_is_proof_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = TextEmbedding(np.ones(3, np.float32), tokens=3, truncated=False, model=CARD)
    subject, handles = nodes(xlmr=lambda method: embedding)
    await subject.encode_text("hello")
    statuses = {status.node: status for status in await subject.status()}
    assert statuses["xlmr"].state == "ready"
    assert handles["xlmr"].calls == ["encode"]  # a busy node was not asked: the question would queue behind the traffic
    assert handles["clip"].calls == ["status"]


async def test_one_hanging_node_is_loading_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "STATUS_TIMEOUT_S", 0.05)

    async def never() -> None:
        await asyncio.sleep(60)

    subject, _ = nodes(vggish=lambda method: never())
    started = time.monotonic()
    states = {status.node: status.state for status in await subject.status()}
    assert time.monotonic() - started < 5
    assert states == dict.fromkeys(NODES, "ready") | {"vggish": "loading"}


@pytest.mark.parametrize(
    ("raised", "state"),
    [(NodeUnavailable("stuck"), "sick"), (RuntimeError("strange"), "sick"), (Overloaded(), "ready")],
)
async def test_one_failing_node_hides_no_other(raised: Exception, state: str) -> None:
    subject, _ = nodes(clip=lambda method: raised)
    statuses = {status.node: status for status in await subject.status()}
    assert {name: status.state for name, status in statuses.items()} == dict.fromkeys(NODES, "ready") | {"clip": state}
    assert "strange" not in str(statuses["clip"].reason)


async def test_the_index_is_asked_by_reference_and_its_errors_are_ours() -> None:
    def answer(method: str) -> Any:
        return NodeUnavailable("away") if method == "match" else NodeStatus("similarity", "ready", "one is damaged")

    handle = FakeHandle("similarity", answer)
    subject = RayNodes({**{name: FakeHandle(name) for name in NODES}, "similarity": handle})
    assert subject.similarity is not None
    with pytest.raises(NodeUnavailable, match="away"):
        await subject.similarity.match(Content(id="p1", content_type="image"), [Use.DUPLICATE])
    await subject.similarity.remove("p1")
    assert handle.calls == ["match", "remove"]
    status = {status.node: status for status in await subject.status()}["similarity"]
    assert status.reason == "one is damaged"  # always asked: a search that succeeded does not hide a sick partition


async def test_without_the_node_there_is_no_index() -> None:
    subject, _ = nodes()
    assert subject.similarity is None

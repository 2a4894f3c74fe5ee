"""The Milvus backend's parts without a server: expressions, names, gathered writes, errors and retries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pymilvus.exceptions import MilvusException

from deployments.runtime.errors import InvalidInput, NodeUnavailable, TooLarge
from deployments.similarity.errors import IndexClosed
from deployments.similarity.milvus.collection import collection_name, index_name
from deployments.similarity.milvus.connection import MilvusConnection
from deployments.similarity.milvus.filter import expression_of, id_chunks, ids_after, one_of
from deployments.similarity.milvus.gather import Gather
from deployments.similarity.milvus.rows import MAX_FRAMES_BYTES, RowFormat, request_bytes
from deployments.similarity.milvus.settings import MilvusSettings
from deployments.similarity.milvus.writes import Writes
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import space_of
from deployments.similarity.values import Filter, FrameVectors, Item

SETTINGS = MilvusSettings(uri="http://nowhere:1", backoff_s=0.001, timeout_s=1.0)
BUSY = MilvusException(code=2, message="secret internals: service unavailable")
REFUSED = MilvusException(code=1100, message="secret internals: invalid parameter")
BROKEN = MilvusException(code=65535, message="secret internals: unexpected")


class ScriptedClient:
    """Answers as MilvusClient; `answer` gets (method, arguments) and may raise."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any], version: str = "v2.3.5") -> None:
        self._answer = answer
        self._version = version
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, **kwargs: Any) -> ScriptedClient:
        return self

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if method == "get_server_version":
                return self._version
            self.calls.append((method, {"args": args, **kwargs}))
            return self._answer(method, self.calls[-1][1])

        return call

    def close(self) -> None:
        pass


def raising(*errors: Exception | None) -> Callable[[str, dict[str, Any]], Any]:
    script = list(errors)

    def answer(method: str, arguments: dict[str, Any]) -> Any:
        error = script.pop(0) if script else None
        if error is not None:
            raise error
        return []

    return answer


# --- expressions ---


def test_values_are_quoted_never_pasted() -> None:
    assert one_of("id", ['a"b', "c\\", "d' or 1"]) == r"""id in ["a\"b", "c\\", "d' or 1"]"""
    assert ids_after('x"\\') == r'id > "x\"\\"'
    assert ids_after("ab\ncd") == 'id > "ab"'
    filter = Filter(frozenset({'hi" or 1 == 1'}), created_from=1.5, created_until=float("inf"))
    assert expression_of(filter) == r'language in ["hi\" or 1 == 1"] and created_at >= 1.5'


def test_values_that_no_item_has_are_left_out() -> None:
    strange = frozenset({"\ud800", "a\x00", "x" * 513, ""})
    assert expression_of(Filter(exclude_ids=strange)) == ""
    assert expression_of(Filter(exclude_ids=strange | {"b"})) == 'not (id in ["b"])'
    assert expression_of(Filter(languages=frozenset({"हि"}))) is None
    assert expression_of(Filter(created_from=float("nan"))) is None
    assert expression_of(None) == ""


@given(st.lists(st.text(min_size=1, max_size=50), max_size=50), st.integers(1, 10))
def test_chunks_hold_every_id_once(ids: list[str], at_most: int) -> None:
    chunks = list(id_chunks(ids, at_most))
    assert [id_ for chunk in chunks for id_ in chunk] == ids
    assert all(0 < len(chunk) <= at_most for chunk in chunks)


# --- names ---


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_every_name_has_a_collection_of_its_own(name: str) -> None:
    collection = collection_name("parakh_", name)
    assert collection.isascii()
    assert collection.isidentifier()
    assert index_name("parakh_", collection) == name


def test_a_partitions_collection_can_be_read() -> None:
    assert collection_name("parakh_", "known-bad.any.video.pdq.g0001") == "parakh_known_hbad__any__video__pdq__g0001"
    assert index_name("parakh_", "someone_elses") is None
    assert index_name("parakh_", "parakh_a_zb") is None
    with pytest.raises(InvalidInput):
        collection_name("parakh_", "x" * 300)


# --- settings, errors, retries ---


def test_a_token_is_never_shown() -> None:
    settings = MilvusSettings(uri="https://milvus:19530", token="user:pass")
    assert "pass" not in repr(settings)
    assert "pass" not in settings.model_dump_json()


@pytest.mark.parametrize("uri", ["milvus:19530", "ftp://milvus", "./directory", ""])
def test_an_unknown_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError, match="http"):
        MilvusSettings(uri=uri)


def test_what_passes_is_tried_again() -> None:
    client = ScriptedClient(raising(BUSY, BUSY, None))
    MilvusConnection(SETTINGS, client).call("query", "c")
    assert len(client.calls) == 3
    assert all(0 < arguments["timeout"] <= SETTINGS.timeout_s for _, arguments in client.calls)


@pytest.mark.parametrize(("error", "translated"), [(REFUSED, InvalidInput), (BROKEN, NodeUnavailable)])
def test_what_does_not_pass_is_not(error: MilvusException, translated: type[Exception]) -> None:
    client = ScriptedClient(raising(error))
    with pytest.raises(translated) as caught:
        MilvusConnection(SETTINGS, client).call("query", "c")
    assert len(client.calls) == 1
    assert "secret" not in str(caught.value)


def test_a_server_that_stays_busy_is_unavailable() -> None:
    client = ScriptedClient(raising(*[BUSY] * 100))
    with pytest.raises(NodeUnavailable):
        MilvusConnection(SETTINGS, client).call("query", "c")
    assert len(client.calls) == 1 + SETTINGS.retries


def test_retries_end_with_the_calls_time() -> None:
    settings = SETTINGS.model_copy(update={"retries": 1000, "timeout_s": 0.3, "backoff_s": 0.05})
    start = time.monotonic()
    with pytest.raises(NodeUnavailable):
        MilvusConnection(settings, ScriptedClient(raising(*[BUSY] * 1000))).call("query", "c")
    assert time.monotonic() - start < 0.6


def test_no_server_is_unavailable_within_the_timeout() -> None:
    start = time.monotonic()
    with pytest.raises(NodeUnavailable):
        MilvusConnection(MilvusSettings(uri="http://127.0.0.1:9", timeout_s=1.0))
    assert time.monotonic() - start < 5


def test_an_old_server_is_refused() -> None:
    with pytest.raises(NodeUnavailable, match=r"v2\.2\.16 is too old"):
        MilvusConnection(SETTINGS, ScriptedClient(raising(), "v2.2.16"))


def test_a_closed_connection_says_so() -> None:
    connection = MilvusConnection(SETTINGS, ScriptedClient(raising()))
    connection.close()
    connection.close()
    with pytest.raises(IndexClosed):
        connection.call("query", "c")


# --- gathering ---


def test_calls_that_come_while_one_runs_are_run_together_in_their_order() -> None:
    runs: list[list[int]] = []
    entered, go_on = threading.Event(), threading.Event()

    def run(given: list[int]) -> list[int | Exception]:
        runs.append(given)
        entered.set()
        go_on.wait(5)
        return [ValueError(str(n)) if n == 3 else n * 10 for n in given]

    gather: Gather[int, int] = Gather(run)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(gather, 0)
        entered.wait(5)
        others = []
        for n in range(1, 6):
            others.append(pool.submit(gather, n))
            while len(gather._waiting) < n:
                time.sleep(0.001)
        go_on.set()
        assert first.result(5) == 0
        assert [f.result(5) for f in others if f is not others[2]] == [10, 20, 40, 50]
        with pytest.raises(ValueError, match="3"):
            others[2].result(5)
    assert runs == [[0], [1, 2, 3, 4, 5]]


def test_a_run_that_fails_fails_all_its_calls_and_none_after() -> None:
    outcomes: list[Exception | None] = [NodeUnavailable("away"), None]

    def run(given: list[int]) -> list[int]:
        error = outcomes.pop(0)
        if error:
            raise error
        return given

    gather: Gather[int, int] = Gather(run)
    with pytest.raises(NodeUnavailable, match="away"):
        gather(1)
    assert gather(2) == 2


# --- writes ---


def rows(*ids: str) -> list[dict[str, Any]]:
    made = RowFormat(space_of(IndexSettings(index_type="FLAT"), 4))
    return [made.row(Item(id_, np.ones(4, np.float16))) for id_ in ids]


def test_writes_of_many_threads_share_requests() -> None:
    def answer(method: str, arguments: dict[str, Any]) -> list[Any]:
        time.sleep(0.02)
        return []

    client = ScriptedClient(answer)
    writes = Writes(MilvusConnection(SETTINGS, client), "c")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: writes.upsert(rows(f"a{n}", f"b{n}")), range(64)))
    sent = [len(arguments["args"][1]) for method, arguments in client.calls if method == "upsert"]
    assert sum(sent) == 128
    assert len(sent) <= 20
    reads = [arguments["consistency_level"] for method, arguments in client.calls if method == "query"]
    assert set(reads) == {"Strong"}
    assert len(reads) <= 20


def test_a_refused_row_fails_its_own_caller_alone() -> None:
    gate = threading.Event()

    def answer(method: str, arguments: dict[str, Any]) -> list[Any]:
        if method == "upsert":
            gate.wait(5)
            if any(row["id"] == "bad" for row in arguments["args"][1]):
                raise REFUSED
        return []

    client = ScriptedClient(answer)
    writes = Writes(MilvusConnection(SETTINGS, client), "c")
    with ThreadPoolExecutor(4) as pool:
        calls = {id_: pool.submit(writes.upsert, rows(id_)) for id_ in ("first", "good", "bad", "fine")}
        time.sleep(0.05)
        gate.set()
        for id_, call in calls.items():
            if id_ == "bad":
                with pytest.raises(InvalidInput):
                    call.result(5)
            else:
                call.result(5)


def test_a_delete_counts_what_is_written_and_not_yet_shown() -> None:
    """A read before the next time tick shows the state before; the server's own count is of what was asked."""
    client = ScriptedClient(lambda method, arguments: {"delete_count": 99} if method == "delete" else [])
    writes = Writes(MilvusConnection(SETTINGS, client), "c")
    settle, writes._settle = writes._settle, lambda _: None  # type: ignore[assignment]
    writes.upsert(rows("a", "b"))
    assert writes.delete(["a", "a", "unknown", "not\nlegal"]) == 1
    assert writes.delete(["a"]) == 0
    settle(None)
    assert writes.delete(["b"]) == 0  # shown by now, and the scripted server shows nothing


def test_both_answers_to_a_delete_are_understood() -> None:
    for answer in ({"delete_count": 2}, ["a", "b"]):
        client = ScriptedClient(
            lambda method, arguments, answer=answer: [{"id": "a"}] if method == "query" else answer  # type: ignore[misc]
        )
        assert Writes(MilvusConnection(SETTINGS, client), "c").delete(["a", "b"]) == 1


def test_large_batches_go_in_several_requests() -> None:
    client = ScriptedClient(raising())
    settings = SETTINGS.model_copy(update={"max_request_bytes": 1 << 20})
    made = RowFormat(space_of(IndexSettings(index_type="FLAT"), 1024))
    batch = [made.row(Item(f"i{n}", np.ones(1024, np.float16))) for n in range(1000)]
    Writes(MilvusConnection(settings, client), "c").upsert(batch)
    sent = [arguments["args"][1] for method, arguments in client.calls if method == "upsert"]
    assert [row["id"] for some in sent for row in some] == [row["id"] for row in batch]
    assert len(sent) > 1
    assert all(sum(map(request_bytes, some)) <= 1 << 20 for some in sent)


# --- rows ---


@pytest.mark.parametrize("count", [0, 1, 60, 700])
def test_frames_go_through_a_row_unchanged(count: int) -> None:
    made = RowFormat(space_of(IndexSettings(index_type="FLAT"), 2048))
    random = np.random.default_rng(count)
    frames = FrameVectors(random.normal(size=(count, 2048)).astype(np.float16), np.arange(count, dtype=np.float32))
    row = made.row(Item("a", random.normal(size=2048).astype(np.float16), frames=frames))
    assert max(map(len, row["frames"])) <= 65_535
    found = made.item(row).frames
    assert found is not None
    np.testing.assert_array_equal(found.vectors, frames.vectors)
    np.testing.assert_array_equal(found.times_s, frames.times_s)


def test_frames_beyond_a_rows_size_are_refused() -> None:
    made = RowFormat(space_of(IndexSettings(index_type="FLAT"), 2048))
    count = MAX_FRAMES_BYTES // 4096 + 1
    frames = FrameVectors(np.zeros((count, 2048), np.float16), np.zeros(count, np.float32))
    with pytest.raises(TooLarge, match="3 MiB"):
        made.row(Item("a", np.ones(2048, np.float16), frames=frames))

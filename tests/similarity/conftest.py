"""Indexes of every backend, opened at a path that is the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.runtime.errors import ParakhError
from deployments.similarity.settings import IndexSettings
from deployments.similarity.vector_index import VectorIndex
from tests.conftest import skip_or_fail
from tests.similarity.backends import BACKENDS, IndexBackend
from tests.similarity.milvus_server import Unavailable, shared_server, stop_shared_server

OpenIndex = Callable[..., VectorIndex]


def params(wanted: Callable[[IndexBackend], bool] = lambda backend: True) -> list[object]:
    """Backends as parameters of `backend`."""
    slow = [pytest.mark.system, pytest.mark.slow]
    return [pytest.param(b, id=b.name, marks=slow if b.slow else []) for b in BACKENDS if wanted(b)]


@pytest.fixture
def milvus_server() -> str:
    """The uri of a real Milvus server, one for all tests that ask for it: it is stopped after the last of them."""
    try:
        return shared_server().uri
    except Unavailable as reason:
        skip_or_fail(str(reason))
        raise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One after another, at the end: an idle server takes half a core from whatever runs beside it."""
    items.sort(key=_needs_server)


@pytest.hookimpl(trylast=True)  # after the test's own fixtures, which may need the server still
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if _needs_server(item) and not (nextitem is not None and _needs_server(nextitem)):
        stop_shared_server()


def pytest_sessionfinish() -> None:
    """Broken off, or not: `-x` asks for no next test."""
    stop_shared_server()


def _needs_server(item: pytest.Item) -> bool:
    arguments = getattr(getattr(item, "callspec", None), "params", {}).values()
    names = [getattr(argument, "name", argument) for argument in arguments]
    named = any(isinstance(name, str) and name == "milvus-server" for name in names)
    return named or "milvus_server" in getattr(item, "fixturenames", ())


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> IndexBackend:
    chosen: IndexBackend = request.param
    if chosen.name == "milvus-server":
        request.getfixturevalue("milvus_server")
    return chosen


@pytest.fixture
def open_index(backend: IndexBackend, tmp_path: Path) -> Iterator[OpenIndex]:
    """open_index(settings, dimension, path): the same path is the same index."""
    opened: list[VectorIndex] = []
    paths: set[Path] = set()

    def open_again(
        settings: IndexSettings = IndexSettings(index_type="FLAT"),  # noqa: B008  # frozen
        dimension: int = 8,
        path: Path | None = None,
    ) -> VectorIndex:
        paths.add(path or tmp_path / "index")
        opened.append(backend.open(settings, dimension, path or tmp_path / "index"))
        return opened[-1]

    yield open_again
    for index in opened:
        with contextlib.suppress(ParakhError):
            index.close()
    for path in paths:
        backend.remove(path)


@pytest.fixture
def index(open_index: OpenIndex) -> VectorIndex:
    """Exact, cosine, 8 dimensions, empty."""
    return open_index()

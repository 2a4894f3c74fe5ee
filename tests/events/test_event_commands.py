"""The commands of the event path, where what they need is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve_app import event_commands, graph
from serve_app.config import AppConfig


async def test_a_ray_that_cannot_be_reached_is_told_with_what_may_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself takes 20 s to say so, with a token that is missing, and longer without an answer."""

    @contextmanager
    def refused(config: AppConfig, address: str, application: str) -> Iterator[object]:
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}")
        yield

    monkeypatch.setattr(graph, "attached", refused)
    with pytest.raises(event_commands.RayUnreachable, match="RAY_AUTH_MODE=token"):
        async with event_commands._nodes(AppConfig(data_dir=tmp_path), "10.0.0.1:6379", "parakh"):
            pass

"""`parakh index stats`, of a directory and of a server that runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from tests.index.index_world import NAME, World, vectors


def test_stats_tell_all_that_there_is_of_a_partition(world: World) -> None:
    world.build(vectors(600))
    told = world.parakh("stats", NAME, "--measure")
    assert told.code == 0
    for said in (
        "clip@1, 8 dimensions, IVF_SQ8 cosine nlist",
        "effort",
        "600 items · 1 segment · 0 buffered · 0 tombstones",
        "of memory",
        "of disk",
        "recall 0.9",
        "newest vector",
        "last snapshot",
        "s ago",
        "duplicate 0.97",
    ):
        assert said in told.out, told.out
    report = world.stats()
    assert report["generations"] == [
        {
            "number": 1,
            "state": "active",
            "encoder": "clip@1",
            "index_type": "IVF_SQ8",
            "items": 600,
            "incomplete": False,
            "damaged": None,
        }
    ]
    assert report["snapshot_at"].endswith("Z")
    assert report["effort"] >= 1


def test_a_damaged_partition_is_told_and_the_others_beside_it(world: World) -> None:
    world.build(vectors(3))
    np.save(world.directory / "v.npy", vectors(2))
    assert world.parakh("build", "posts.ta.video.visual", world.directory / "v.npy", "--encoder", "clip@1").code == 0
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    told = world.parakh("stats")
    assert told.code == 1
    assert f"{NAME}  damaged: " in told.out
    assert "2 items" in told.out
    reports = {report["partition"]: report for report in world.parakh("stats", "--json").reports}
    assert reports[NAME]["damaged"]
    assert reports["posts.ta.video.visual"]["damaged"] is None
    told = world.parakh("build", NAME, world.directory / "v.npy", "--encoder", "clip@1")
    assert told.code == 1
    assert "is damaged" in told.err
    assert world.parakh("tune", NAME).code == 1
    assert world.parakh("snapshot").code == 1


def test_a_lost_catalog_is_not_hidden_by_a_new_one(world: World) -> None:
    world.build(vectors(3))
    for path in world.root.glob("catalog.db*"):
        path.unlink()
    for command in (["stats"], ["verify"]):
        told = world.parakh(*command)
        assert told.code == 1
        assert "no catalog.db" in told.err
        assert not (world.root / "catalog.db").exists()


@pytest.fixture
def server() -> Iterator[str]:
    """Answers as the HTTP API does: /v1/indexes with one partition, to one key."""
    partition = {
        "partition": NAME,
        "encoder": {"name": "clip", "version": "1"},
        "dimension": 8,
        "index_type": "IVF_SQ8",
        "metric": "cosine",
        "items": 7,
        "memory_bytes": 1,
        "disk_bytes": 2,
        "buffered": 7,
        "deleted": 0,
        "newest_at": "2026-01-01T00:00:00Z",
        "snapshot_at": None,
        "recall_estimate": 0.97,
        "thresholds": {},
        "damaged": None,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == "Bearer pk_good"
            bodies: dict[str, Any] = {"/v1/indexes": {"partitions": [partition]}, f"/v1/indexes/{NAME}": partition}
            found = self.path in bodies
            status = 200 if allowed and found else 404 if allowed else 401
            refusal = {"error": {"message": "no such partition" if allowed else "A key is needed."}}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(bodies[self.path] if status == 200 else refusal).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_stats_of_a_server_that_runs_come_over_http(world: World, server: str) -> None:
    told = world.parakh("stats", "--url", server, "--key", "pk_good")
    assert told.code == 0, told.err
    assert "7 items · 7 buffered" in told.out
    assert "recall 0.970" in told.out
    (report,) = world.parakh("stats", NAME, "--url", server, "--key", "pk_good", "--json").reports
    assert report["items"] == 7
    told = world.parakh("stats", "--url", server)
    assert told.code == 1
    assert "401: A key is needed." in told.err
    assert world.parakh("stats", "posts.ta.video.visual", "--url", server, "--key", "pk_good").code == 1
    told = world.parakh("stats", "--url", "http://127.0.0.1:9")
    assert told.code == 1
    assert "does not answer" in told.err
    assert world.parakh("stats", "--url", "nonsense").code == 2

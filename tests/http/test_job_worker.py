"""Accepted posts are worked off: retried, taken over, given up with their error, and judged into one verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    NodeUnavailable,
    Overloaded,
    UndecodableMedia,
)
from deployments.runtime.values import ContentType
from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from serve_app.http.intake import fingerprint
from serve_app.http.services import Services
from serve_app.http.settings import HttpSettings, JobSettings
from serve_app.jobs_worker import JobWorker, retry_delay_s
from serve_app.posts import Post
from serve_app.records.values import PostState, Submission
from tests.http.building import build_services, client_of, text_post

JOBS = JobSettings(poll_s=0.02, retry_base_s=0.02, max_attempts=3, lease_s=1)


SETTINGS = HttpSettings(auth="off", jobs=JOBS)


@pytest.fixture
async def services(tmp_path: Path, moderator: FakeModerator) -> AsyncIterator[Services]:
    built = build_services(tmp_path, SETTINGS, moderator=moderator)
    await built.records.start()
    yield built
    await built.records.close()


@contextlib.asynccontextmanager
async def working(services: Services) -> AsyncIterator[JobWorker]:
    worker = JobWorker(services)
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def enqueue(services: Services, post_id: str = "p1", data: bytes | None = None) -> None:
    kind = ContentType.TEXT if data is None else ContentType.IMAGE
    post = Post.model_validate(text_post(post_id, content_type=kind))
    digest = await services.media_store.put(data) if data is not None else None
    asked = Submission(post=post, fingerprint=fingerprint(post, digest, None), media_sha256=digest)
    await services.records.posts.accept(asked, lease_s=None)


async def settled(services: Services, post_id: str = "p1") -> PostState:
    for _ in range(400):
        state = await services.records.posts.find(post_id)
        if state.status in ("done", "failed"):
            return state
        await asyncio.sleep(0.02)
    raise AssertionError("still not settled")


async def test_media_comes_from_the_store(services: Services, moderator: FakeModerator) -> None:
    await enqueue(services, data=b"picture")
    async with working(services):
        assert (await settled(services)).verdict is not None
    ((_, media),) = moderator.moderated
    assert media is not None
    assert media.data == b"picture"


async def test_a_node_that_is_down_is_waited_for_until_the_last_attempt(
    services: Services, moderator: FakeModerator
) -> None:
    moderator.errors = [NodeUnavailable(), NodeUnavailable()]
    await enqueue(services)
    async with working(services):
        assert (await settled(services)).verdict is not None
    assert moderator.waited == [True, True, False]  # the last one takes what can be judged


@pytest.mark.parametrize(
    "error", [NodeUnavailable(), Overloaded(retry_after_s=0.05), DeadlineExceeded(), FetchFailed()]
)
async def test_what_may_pass_is_tried_again(services: Services, moderator: FakeModerator, error: Exception) -> None:
    moderator.errors = [error]
    await enqueue(services)
    async with working(services):
        state = await settled(services)
    assert (state.status, state.attempts, len(moderator.moderated)) == ("done", 2, 2)


async def test_what_stays_is_given_up_after_the_last_attempt(services: Services, moderator: FakeModerator) -> None:
    moderator.errors = [NodeUnavailable() for _ in range(5)]
    await enqueue(services)
    async with working(services):
        state = await settled(services)
    assert (state.status, len(moderator.moderated)) == ("failed", 3)
    assert state.error is not None
    assert state.error["code"] == "unavailable"


async def test_what_is_final_is_not_tried_again(services: Services, moderator: FakeModerator) -> None:
    moderator.errors = [UndecodableMedia()]
    await enqueue(services, data=b"x")
    async with working(services):
        state = await settled(services)
    assert (state.status, len(moderator.moderated)) == ("failed", 1)


async def test_an_unforeseen_error_ends_neither_worker_nor_queue(services: Services, moderator: FakeModerator) -> None:
    moderator.errors = [RuntimeError("secret") for _ in range(3)]
    await enqueue(services, "p1")
    async with working(services):
        state = await settled(services, "p1")
        await enqueue(services, "p2")
        assert (await settled(services, "p2")).status == "done"
    assert state.error is not None
    assert state.error["code"] == "internal_error"
    assert "secret" not in state.error["message"]


async def test_missing_media_fails_the_post(services: Services) -> None:
    await enqueue(services, data=b"picture")
    for file in Path(services.media_store._root).rglob("*"):  # type: ignore[attr-defined]
        if file.is_file():
            file.unlink()
    async with working(services):
        state = await settled(services)
    assert state.error is not None
    assert state.error["code"] == "media_missing"


async def test_concurrency_is_bounded(services: Services, moderator: FakeModerator) -> None:
    moderator.delay_s = 0.3
    for n in range(10):
        await enqueue(services, f"p{n}")
    async with working(services):
        await asyncio.sleep(0.25)
        assert len(moderator.moderated) <= JOBS.concurrency


async def test_several_workers_judge_each_post_once(services: Services, moderator: FakeModerator) -> None:
    moderator.delay_s = 0.05
    for n in range(20):
        await enqueue(services, f"p{n}")
    async with working(services), working(services), working(services):
        for n in range(20):
            await settled(services, f"p{n}")
    assert len(moderator.moderated) == 20
    assert len(await services.records.outbox.pending()) == 20


async def test_a_long_job_keeps_its_lease(services: Services, moderator: FakeModerator) -> None:
    moderator.delay_s = 2.0  # twice the lease
    await enqueue(services)
    async with working(services), working(services):
        assert (await settled(services)).attempts == 1
    assert len(moderator.moderated) == 1


async def test_a_stopping_worker_gives_its_jobs_back_at_once(services: Services, moderator: FakeModerator) -> None:
    moderator.delay_s = 30
    await enqueue(services)
    async with working(services):
        await asyncio.sleep(0.2)
    state = await services.records.posts.find("p1")
    assert (state.status, state.attempts) == ("pending", 0)


async def test_a_worker_stopped_at_any_moment_leaves_no_job_behind(
    services: Services, moderator: FakeModerator
) -> None:
    moderator.delay_s = 30
    await enqueue(services)
    for n in range(12):
        async with working(services):
            await asyncio.sleep(n / 1000)
        state = await services.records.posts.find("p1")
        assert (state.status, state.attempts) == ("pending", 0)


async def test_a_post_that_kills_its_workers_is_given_up(services: Services) -> None:
    await enqueue(services)
    for _ in range(JOBS.max_attempts):
        assert await services.records.jobs.claim(0.01)
        await asyncio.sleep(0.03)
    async with working(services):
        state = await settled(services)
    assert state.error is not None
    assert state.error["code"] == "attempts_exhausted"


async def test_an_erased_post_is_dropped_in_mid_work(services: Services, moderator: FakeModerator) -> None:
    moderator.delay_s = 0.3
    await enqueue(services)
    async with working(services):
        await asyncio.sleep(0.1)
        await services.records.erasures.erase("p1", "admin")
        await asyncio.sleep(0.4)
    assert [event.topic for event in await services.records.outbox.pending()] == ["parakh.erasures"]


def test_pauses_grow_and_end() -> None:
    settings = JobSettings(retry_base_s=1, retry_max_s=10)
    pauses = [retry_delay_s(settings, attempts, NodeUnavailable()) for attempts in range(1, 8)]
    assert 0.5 <= pauses[0] <= 1
    assert max(pauses) <= 10
    assert retry_delay_s(settings, 1, Overloaded(retry_after_s=30)) == 30


CRASHING_SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.http.building import build_services, client_of, text_post
from tests.http.test_job_worker import SETTINGS
from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from serve_app.media_store import DirectoryMediaStore

folder, where = Path(sys.argv[1]), sys.argv[2]

class Kills(FakeModerator):
    async def judge(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

class Dies(DirectoryMediaStore):
    async def put(self, data):
        digest = await super().put(data)
        if where == "after media":
            os.kill(os.getpid(), signal.SIGKILL)
        return digest

async def main():
    services = build_services(folder, SETTINGS, moderator=Kills(), media_store=Dies(folder / "media"))
    await services.records.start()
    async with client_of(create_app(services)) as client:
        post = text_post(content_type="image", media_base64="cGljdHVyZQ==")
        prefer = "" if where == "judging" else "respond-async"
        answer = await client.post("/v1/posts", json=post, headers={"Prefer": prefer, "Idempotency-Key": "k"})
        print(answer.status_code, flush=True)
        await services.records.jobs.claim(0.5)  # a worker has it, and dies with the process
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def crash(folder: Path, where: str) -> bytes:
    """What the server said before it died."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", CRASHING_SERVER, str(folder), where),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    said, _ = await server.communicate()
    assert server.returncode == -signal.SIGKILL
    return said


async def test_a_server_killed_while_it_judges_does_not_keep_its_client_waiting_long(tmp_path: Path) -> None:
    assert await crash(tmp_path, "judging") == b""
    services = build_services(tmp_path, SETTINGS)
    await services.records.start()
    post, headers = text_post(content_type="image", media_base64="cGljdHVyZQ=="), {"Idempotency-Key": "k"}
    async with client_of(create_app(services)) as client, asyncio.timeout(2 * JOBS.lease_s):
        while (answer := await client.post("/v1/posts", json=post, headers=headers)).status_code == 409:
            await asyncio.sleep(0.1)
    assert answer.status_code == 200
    await services.records.close()


async def test_a_request_keeps_its_post_for_as_long_as_it_lives(services: Services, moderator: FakeModerator) -> None:
    moderator.delay_s = 2.0  # twice the lease
    async with client_of(create_app(services)) as client, working(services):
        assert (await client.post("/v1/posts", json=text_post())).status_code == 200
    assert len(moderator.moderated) == 1


@pytest.mark.parametrize(("where", "acknowledged"), [("after media", b""), ("after answer", b"202\n")])
async def test_a_killed_server_loses_nothing_it_acknowledged(tmp_path: Path, where: str, acknowledged: bytes) -> None:
    assert await crash(tmp_path, where) == acknowledged
    services = build_services(tmp_path, SETTINGS)
    await services.records.start()
    if acknowledged:
        async with working(services):
            assert (await settled(services)).verdict is not None
    else:
        assert (await services.records.jobs.state()).unfinished == 0
    await services.records.close()

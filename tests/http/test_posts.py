"""POST, GET and DELETE /v1/posts, as a client sees them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    NodeUnavailable,
    Overloaded,
    UndecodableMedia,
    UrlRefused,
)
from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from serve_app.http.services import Services
from tests.http.building import build_services, client_of, text_post

PICTURE = b"\x89PNG not really"
ASYNC = {"Prefer": "respond-async"}


def image_post(post_id: str = "p1", data: bytes = PICTURE, **changes: object) -> dict[str, object]:
    encoded = base64.b64encode(data).decode()
    return text_post(post_id) | {"content_type": "image", "caption": None, "media_base64": encoded} | changes


async def test_a_post_gets_its_verdict_and_keeps_it(client: httpx.AsyncClient) -> None:
    sent = await client.post("/v1/posts", json=text_post(caption="violence"))
    assert sent.status_code == 200
    assert sent.json()["decision"]["action"] == "block"
    assert sent.json()["modalities"]["audio"] == {"status": "missing"}
    assert (await client.get("/v1/posts/p1")).json() == sent.json()


@pytest.mark.parametrize("post_id", ["पोस्ट-१", "🙈", "a%2Fb", "a+b&c=d?e#f", "..", "ü" * 128])
async def test_any_id_can_be_read_again(client: httpx.AsyncClient, post_id: str) -> None:
    accepted = await client.post("/v1/posts", json=text_post(post_id), headers=ASYNC)
    assert accepted.status_code == 202
    if post_id != "..":  # a client's URL library walks up at two dots, percent-encoded or not
        assert (await client.get(accepted.headers["location"])).json()["post_id"] == post_id


async def test_an_unknown_post_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/posts/nobody")).json()["error"]["code"] == "post_not_found"
    await client.post("/v1/posts", json=text_post())
    assert (await client.get("/v1/posts/p1?revision=1")).status_code == 404
    assert (await client.get("/v1/posts/p1?revision=0")).status_code == 200


class TestSameAgain:
    async def test_is_replayed_not_judged(self, client: httpx.AsyncClient, moderator: FakeModerator) -> None:
        first = await client.post("/v1/posts", json=text_post())
        second = await client.post("/v1/posts", json=text_post())
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        assert second.json() == first.json()
        assert len(moderator.moderated) == 1

    async def test_twenty_at_once_are_judged_once(self, client: httpx.AsyncClient, moderator: FakeModerator) -> None:
        moderator.delay_s = 0.2
        answers = await asyncio.gather(*(client.post("/v1/posts", json=text_post()) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert len(moderator.moderated) == 1

    async def test_twenty_at_once_over_two_servers(
        self, services: Services, tmp_path: Path, moderator: FakeModerator
    ) -> None:
        moderator.delay_s = 0.2
        other = build_services(tmp_path, moderator=moderator)
        async with client_of(create_app(services)) as one, client_of(create_app(other)) as two:
            answers = await asyncio.gather(*((one, two)[n % 2].post("/v1/posts", json=text_post()) for n in range(20)))
        await other.records.close()
        assert len({answer.text for answer in answers}) == 1
        assert len(moderator.moderated) == 1

    async def test_all_who_wait_get_the_error_of_the_one(
        self, client: httpx.AsyncClient, moderator: FakeModerator
    ) -> None:
        moderator.delay_s, moderator.errors = 0.3, [UndecodableMedia("nothing in it decodes")]
        answers = await asyncio.gather(*(client.post("/v1/posts", json=image_post()) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {422}
        assert {answer.json()["error"]["code"] for answer in answers} == {"undecodable_media"}
        assert len(moderator.moderated) == 1

    async def test_with_other_content_is_a_conflict(self, client: httpx.AsyncClient) -> None:
        await client.post("/v1/posts", json=text_post())
        edited = await client.post("/v1/posts", json=text_post(caption="edited"))
        assert (edited.status_code, edited.json()["error"]["code"]) == (409, "revision_conflict")
        assert (await client.post("/v1/posts", json=text_post(caption="edited", revision=1))).status_code == 200

    async def test_after_an_error_is_judged_again(self, client: httpx.AsyncClient, moderator: FakeModerator) -> None:
        moderator.errors = [NodeUnavailable()]
        refused = await client.post("/v1/posts", json=text_post(), headers={"Idempotency-Key": "k"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await client.post("/v1/posts", json=text_post(), headers={"Idempotency-Key": "k"})).status_code == 200

    async def test_however_the_media_is_sent(self, client: httpx.AsyncClient) -> None:
        await client.post("/v1/posts", json=image_post())
        url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
        by_url = await client.post("/v1/posts", json=image_post(media_base64=None, media_url=url))
        assert by_url.headers["idempotency-replayed"] == "true"


class TestIdempotencyKey:
    async def test_replays_and_conflicts(self, client: httpx.AsyncClient) -> None:
        headers = {"Idempotency-Key": "k1"}
        first = await client.post("/v1/posts", json=text_post(), headers=headers)
        again = await client.post("/v1/posts", json=text_post(), headers=headers)
        assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
        other = await client.post("/v1/posts", json=text_post("p2"), headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")

    async def test_in_progress_is_told_with_a_time(self, client: httpx.AsyncClient, moderator: FakeModerator) -> None:
        moderator.delay_s = 0.5
        headers = {"Idempotency-Key": "k1"}
        first = asyncio.create_task(client.post("/v1/posts", json=text_post(), headers=headers))
        await asyncio.sleep(0.25)
        second = await client.post("/v1/posts", json=text_post(), headers=headers)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_in_progress")
        assert int(second.headers["retry-after"]) >= 1
        assert (await first).status_code == 200

    @pytest.mark.parametrize("key", ["", "k" * 256, "with space", "tab\there"])
    async def test_must_be_short_and_visible(self, client: httpx.AsyncClient, key: str) -> None:
        refused = await client.post("/v1/posts", json=text_post(), headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")

    async def test_of_an_asynchronous_post_is_a_202_again(self, client: httpx.AsyncClient) -> None:
        headers = {"Idempotency-Key": "k1", **ASYNC}
        first = await client.post("/v1/posts", json=text_post(), headers=headers)
        again = await client.post("/v1/posts", json=text_post(), headers=headers)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.headers["idempotency-replayed"] == "true"


class TestRespondAsync:
    async def test_answers_202_and_the_verdict_follows(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        accepted = await client.post("/v1/posts", json=image_post(), headers={"Prefer": "wait=1, respond-async"})
        assert accepted.status_code == 202
        assert accepted.headers["preference-applied"] == "respond-async"
        where = accepted.headers["location"]
        assert where == "/v1/posts/p1?revision=0"
        waiting = await client.get(where)
        assert (waiting.status_code, waiting.json()["status"]) == (202, "pending")
        app.state.worker.start()
        assert (await until_done(client, where)).json()["post_id"] == "p1"
        await app.state.worker.stop()

    async def test_a_known_verdict_is_answered_at_once(self, client: httpx.AsyncClient) -> None:
        await client.post("/v1/posts", json=text_post())
        assert (await client.post("/v1/posts", json=text_post(), headers=ASYNC)).status_code == 200

    async def test_a_failed_job_shows_its_error(
        self, app: FastAPI, client: httpx.AsyncClient, moderator: FakeModerator
    ) -> None:
        moderator.errors = [UndecodableMedia()]
        accepted = await client.post("/v1/posts", json=image_post(), headers=ASYNC)
        app.state.worker.start()
        failed = await until_done(client, accepted.headers["location"])
        await app.state.worker.stop()
        assert (failed.json()["status"], failed.json()["error"]["code"]) == ("failed", "undecodable_media")

    async def test_a_synchronous_request_takes_a_waiting_job_over(self, client: httpx.AsyncClient) -> None:
        await client.post("/v1/posts", json=text_post(), headers=ASYNC)
        assert (await client.post("/v1/posts", json=text_post())).status_code == 200

    @pytest.mark.parametrize("error", [NodeUnavailable(), Overloaded(), DeadlineExceeded(), RuntimeError()])
    async def test_the_promise_outlives_synchronous_requests_that_fail(
        self, app: FastAPI, client: httpx.AsyncClient, moderator: FakeModerator, error: Exception
    ) -> None:
        accepted = await client.post("/v1/posts", json=text_post(), headers=ASYNC)
        moderator.errors = [error] * 7  # more than the queue has attempts
        refused = [(await client.post("/v1/posts", json=text_post())).status_code for _ in range(7)]
        assert set(refused) == {getattr(error, "status", 500)}
        app.state.worker.start()
        assert (await until_done(client, accepted.headers["location"])).json()["decision"]["action"] == "allow"
        await app.state.worker.stop()

    async def test_media_url_is_kept_for_the_worker(
        self, app: FastAPI, client: httpx.AsyncClient, moderator: FakeModerator
    ) -> None:
        post = image_post(media_base64=None, media_url="https://example.org/a.png")
        accepted = await client.post("/v1/posts", json=post, headers=ASYNC)
        app.state.worker.start()
        await until_done(client, accepted.headers["location"])
        await app.state.worker.stop()
        (_, media), *_ = moderator.moderated
        assert media is not None
        assert (media.url, media.data) == ("https://example.org/a.png", None)


class TestMediaByUrl:
    """Where fetching is enabled."""

    URL = "https://example.org/a.png"

    @pytest.fixture
    def web(self) -> dict[str, bytes | Exception]:
        return {self.URL: PICTURE}

    @pytest.fixture
    async def services(self, tmp_path: Path, moderator: FakeModerator, web: dict[str, Any]) -> AsyncIterator[Services]:
        async def fetch(url: str) -> bytes:
            found = web.get(url, FetchFailed())
            if isinstance(found, Exception):
                raise found
            assert isinstance(found, bytes)
            return found

        built = build_services(tmp_path, moderator=moderator, fetch_media=fetch)
        await built.records.start()
        yield built
        await built.records.close()

    def post(self, post_id: str = "p1") -> dict[str, object]:
        return image_post(post_id, media_base64=None, media_url=self.URL)

    async def test_is_kept_as_it_was_when_the_post_was_accepted(
        self, app: FastAPI, client: httpx.AsyncClient, moderator: FakeModerator, web: dict[str, Any]
    ) -> None:
        accepted = await client.post("/v1/posts", json=self.post(), headers=ASYNC)
        web.clear()
        assert (await client.post("/v1/posts", json=self.post(), headers=ASYNC)).status_code == 202
        app.state.worker.start()
        await until_done(client, accepted.headers["location"])
        await app.state.worker.stop()
        assert [media and media.data for _, media in moderator.moderated] == [PICTURE]

    @pytest.mark.parametrize("prefer", ["", "respond-async"])
    @pytest.mark.parametrize(
        ("found", "status", "code"),
        [
            (UrlRefused(), 400, "url_refused"),
            (FetchFailed(), 422, "fetch_failed"),
            (b"", 422, "fetch_failed"),
            (b"x" * (64 * 2**20 + 1), 413, "too_large"),
        ],
    )
    async def test_that_cannot_be_had_is_refused_at_once_and_nothing_is_kept(
        self, client: httpx.AsyncClient, web: dict[str, Any], prefer: str, found: object, status: int, code: str
    ) -> None:
        web[self.URL] = found
        refused = await client.post("/v1/posts", json=self.post(), headers={"Prefer": prefer})
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert (await client.get("/v1/posts/p1")).status_code == 404

    async def test_is_stored_for_synchronous_posts_too_and_a_replay_fetches_nothing(
        self, client: httpx.AsyncClient, services: Services, web: dict[str, Any]
    ) -> None:
        verdict = await client.post("/v1/posts", json=self.post())
        assert await services.media_store.get(verdict.json()["media_sha256"]) == PICTURE
        web.clear()
        again = await client.post("/v1/posts", json=self.post())
        assert (again.json(), again.headers["idempotency-replayed"]) == (verdict.json(), "true")
        await client.delete("/v1/posts/p1")
        assert not await services.media_store.exists(verdict.json()["media_sha256"])

    async def test_is_fetched_anew_after_a_failure(
        self, client: httpx.AsyncClient, services: Services, moderator: FakeModerator, web: dict[str, Any]
    ) -> None:
        moderator.errors = [UndecodableMedia()]
        assert (await client.post("/v1/posts", json=self.post())).status_code == 422
        web[self.URL] = b"whole at last"
        assert (await client.post("/v1/posts", json=self.post())).status_code == 200
        (_, media) = moderator.moderated[-1]
        assert media is not None
        assert media.data == b"whole at last"
        await services.records.garbage.sweep(services.media_store.delete)
        assert [digest async for digest, _ in services.media_store.files()] == [hashlib.sha256(media.data).hexdigest()]


async def until_done(client: httpx.AsyncClient, where: str) -> httpx.Response:
    for _ in range(200):
        answer = await client.get(where)
        if answer.status_code != 202:
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError("still not done")


class TestErasure:
    async def test_the_post_is_gone_and_its_id_spent(self, client: httpx.AsyncClient, services: Services) -> None:
        verdict = (await client.post("/v1/posts", json=image_post())).json()
        assert await services.media_store.exists(verdict["media_sha256"])
        assert [(await client.delete("/v1/posts/p1")).status_code for _ in range(2)] == [204, 204]
        assert (await client.get("/v1/posts/p1")).status_code == 404
        assert not await services.media_store.exists(verdict["media_sha256"])
        again = await client.post("/v1/posts", json=image_post())
        assert (again.status_code, again.json()["error"]["code"]) == (409, "post_erased")
        assert (await services.records.audit.entries("p1"))[0].action == "post.erase"

    async def test_another_posts_identical_media_stays(self, client: httpx.AsyncClient, services: Services) -> None:
        verdict = (await client.post("/v1/posts", json=image_post("p1"))).json()
        await client.post("/v1/posts", json=image_post("p2"))
        await client.delete("/v1/posts/p1")
        assert await services.media_store.exists(verdict["media_sha256"])

    async def test_unknown_is_not_found(self, client: httpx.AsyncClient) -> None:
        assert (await client.delete("/v1/posts/nobody")).status_code == 404

    async def test_who_waits_for_the_verdict_hears_of_it(
        self, client: httpx.AsyncClient, moderator: FakeModerator
    ) -> None:
        moderator.delay_s = 0.4
        asked = [asyncio.create_task(client.post("/v1/posts", json=text_post())) for _ in range(2)]
        await asyncio.sleep(0.2)
        await client.delete("/v1/posts/p1")
        assert [(await task).json()["error"]["code"] for task in asked] == ["post_erased"] * 2

    async def test_media_of_a_refused_post_does_not_stay(self, client: httpx.AsyncClient, services: Services) -> None:
        await client.post("/v1/posts", json=image_post())
        await client.post("/v1/posts", json=image_post(data=b"other"))
        await services.records.garbage.sweep(services.media_store.delete)
        kept = [path.read_bytes() for path in Path(services.media_store._root).rglob("*") if path.is_file()]  # type: ignore[attr-defined]
        assert kept == [PICTURE]


class TestMalformed:
    @pytest.mark.parametrize("post_id", ["a%00b", "a%20b", "a%0Ab", "x" * 129])
    async def test_id(self, client: httpx.AsyncClient, post_id: str) -> None:
        for refused in (await client.get(f"/v1/posts/{post_id}"), await client.delete(f"/v1/posts/{post_id}")):
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "post_id")

    async def test_a_long_data_url_that_is_not_base64_is_refused_before_it_is_undone(
        self, client: httpx.AsyncClient
    ) -> None:
        body = b'{"post_id":"p","author_id":"a","content_type":"image","created_at":"2026-11-01T10:00:00Z","media_url":'
        body += b'"data:image/png,' + b"%41" * (8 * 2**20) + b'"}'
        began = time.perf_counter()
        refused = await client.post("/v1/posts", content=body, headers={"content-type": "application/json"})
        assert time.perf_counter() - began < 1
        assert (refused.status_code, refused.json()["error"]["param"]) == (413, "media_url")

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"post_id": ""}, "post_id"),
            ({"post_id": "a/b"}, "post_id"),
            ({"post_id": "a b"}, "post_id"),
            ({"post_id": None}, "post_id"),
            ({"content_type": "poem"}, "content_type"),
            ({"content_type": "image"}, "media_url"),
            ({"caption": None}, "caption"),
            ({"caption": "  "}, "caption"),
            ({"caption": "x" * 100_001}, "caption"),
            ({"media_url": "https://example.org/a.png"}, "content_type"),
            ({"created_at": "2026-11-01T10:00:00"}, "created_at"),
            ({"created_at": "2126-11-01T10:00:00Z"}, "created_at"),
            ({"created_at": "yesterday"}, "created_at"),
            ({"language": "Hindi!"}, "language"),
            ({"language": "hi\n"}, "language"),
            ({"revision": -1}, "revision"),
            ({"revision": 2**31}, "revision"),
            ({"surprise": 1}, "surprise"),
            ({"content_type": "image", "media_url": "ftp://example.org/a"}, "media_url"),
            ({"content_type": "image", "media_url": "file:///etc/passwd"}, "media_url"),
            ({"content_type": "image", "media_url": "data:nonsense"}, "media_url"),
            ({"content_type": "image", "media_base64": "not base64!"}, "media_base64"),
            ({"content_type": "image", "media_base64": "YQ"}, "media_base64"),
            ({"content_type": "image", "media_base64": ""}, "media_base64"),
            ({"content_type": "image", "media_base64": "YQ==", "media_url": "https://e.org"}, "media_base64"),
        ],
    )
    async def test_field(
        self, client: httpx.AsyncClient, moderator: FakeModerator, changes: dict[str, Any], param: str
    ) -> None:
        refused = await client.post("/v1/posts", json=text_post(**changes))
        assert refused.status_code in (400, 413), refused.text
        assert refused.json()["error"]["param"] == param
        assert moderator.moderated == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"text"',
            b"\xff\xfe{}",
            b"[" * 100_000,
            b'{"post_id":' * 5000 + b"1" + b"}" * 5000,
            b'{"post_id": NaN}',
            b'{"post_id": "p", "revision": Infinity}',
            b'{"post_id": "\\ud800", "author_id": "a"}',
            '{"post_id": "é"}'.encode("latin-1"),
            b'{"revision": ' + b"9" * 5000 + b"}",
        ],
    )
    async def test_body(self, client: httpx.AsyncClient, body: bytes) -> None:
        refused = await client.post("/v1/posts", content=body, headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")

    async def test_content_type(self, client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/posts", content=b"a=b", headers={"content-type": "text/plain"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_content_type")


async def test_overload_says_when_to_come_back(client: httpx.AsyncClient, moderator: FakeModerator) -> None:
    moderator.errors = [Overloaded(retry_after_s=2.3)]
    refused = await client.post("/v1/posts", json=text_post())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")


async def test_a_client_that_leaves_does_not_undo_the_work(
    client: httpx.AsyncClient, moderator: FakeModerator, app: FastAPI
) -> None:
    moderator.delay_s = 0.3
    leaving = asyncio.create_task(client.post("/v1/posts", json=text_post()))
    await asyncio.sleep(0.15)
    leaving.cancel()
    await app.state.intake.drain()
    assert (await client.get("/v1/posts/p1")).status_code == 200
    assert len(moderator.moderated) == 1


async def test_a_client_that_leaves_at_any_moment_gets_its_verdict_on_return(
    client: httpx.AsyncClient, moderator: FakeModerator, app: FastAPI
) -> None:
    moderator.delay_s = 0.02
    for n in range(30):
        post, headers = image_post(f"p{n}", data=b"%d" % n), {"Idempotency-Key": f"k{n}"}
        leaving = asyncio.create_task(client.post("/v1/posts", json=post, headers=headers))
        await asyncio.sleep(n / 1000)
        leaving.cancel()
        async with asyncio.timeout(2):
            while (answer := await client.post("/v1/posts", json=post, headers=headers)).status_code == 409:
                await asyncio.sleep(0.01)
        assert answer.status_code == 200
    assert len(moderator.moderated) == 30
    await app.state.intake.drain()


async def test_a_restart_forgets_nothing(tmp_path: Path, moderator: FakeModerator) -> None:
    before = build_services(tmp_path, moderator=moderator)
    await before.records.start()
    async with client_of(create_app(before)) as client:
        verdict = await client.post("/v1/posts", json=text_post(), headers={"Idempotency-Key": "k"})
        await client.post("/v1/posts", json=image_post("p2"), headers=ASYNC)
    await before.records.close()

    after = build_services(tmp_path, moderator=moderator)
    app = create_app(after)
    async with app.router.lifespan_context(app), client_of(app) as client:
        again = await client.post("/v1/posts", json=text_post(), headers={"Idempotency-Key": "k"})
        assert (again.json(), again.headers["idempotency-replayed"]) == (verdict.json(), "true")
        assert (await until_done(client, "/v1/posts/p2")).json()["media_sha256"]

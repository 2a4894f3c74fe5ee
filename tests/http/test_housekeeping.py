"""Media that no post refers to, or that is past its retention, goes; everything else stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serve_app import housekeeping
from serve_app.housekeeping import keep_house, note_garbage
from serve_app.http.app import create_app
from serve_app.http.fakes import FakeModerator
from serve_app.http.services import Services
from serve_app.http.settings import HttpSettings
from tests.http.building import build_services, client_of
from tests.http.test_posts import PICTURE, image_post

RETENTION_S = 0.2


@pytest.fixture
async def services(tmp_path: Path, moderator: FakeModerator) -> AsyncIterator[Services]:
    built = build_services(
        tmp_path, HttpSettings(auth="off", media_retention_s=RETENTION_S), moderator=moderator, policy_version="fake-1"
    )
    await built.records.start()
    yield built
    await built.records.close()


async def digests(services: Services) -> set[str]:
    return {digest async for digest, _ in services.media_store.files()}


def make_old(services: Services) -> None:
    for path in Path(services.media_store._root).rglob("*"):  # type: ignore[attr-defined]
        os.utime(path, (0, 0))


async def sweep(services: Services) -> None:
    await note_garbage(services.house)
    await services.records.garbage.sweep(services.media_store.delete)


async def test_a_file_whose_post_never_came_goes_when_it_is_old(services: Services, client: httpx.AsyncClient) -> None:
    used = (await client.post("/v1/posts", json=image_post())).json()["media_sha256"]
    unused = await services.media_store.put(b"its process died before the commit")
    await sweep(services)
    assert await digests(services) == {used, unused}
    make_old(services)
    await sweep(services)
    assert await digests(services) == {used}


async def test_media_past_its_retention_goes_and_the_verdict_stays(
    services: Services, client: httpx.AsyncClient
) -> None:
    verdict = (await client.post("/v1/posts", json=image_post())).json()
    waits = await client.post("/v1/posts", json=image_post("p2", data=b"waits"), headers={"Prefer": "respond-async"})
    assert waits.status_code == 202
    await asyncio.sleep(RETENTION_S + 0.05)
    await sweep(services)
    assert len(await digests(services)) == 1  # of the post that waits
    assert (await client.get("/v1/posts/p1")).json() == verdict
    assert (await client.post("/v1/posts", json=image_post())).json() == verdict


async def test_under_a_new_policy_the_media_must_come_again(
    tmp_path: Path, services: Services, client: httpx.AsyncClient, moderator: FakeModerator
) -> None:
    await client.post("/v1/posts", json=image_post())
    await asyncio.sleep(RETENTION_S + 0.05)
    await sweep(services)
    moderator.policy_version = "fake-2"
    renewed = build_services(tmp_path, moderator=moderator, policy_version="fake-2")
    async with client_of(create_app(renewed)) as later:
        verdict = (await later.post("/v1/posts", json=image_post())).json()
    assert verdict["decision"]["policy_version"] == "fake-2"
    assert await renewed.media_store.get(verdict["media_sha256"]) == PICTURE
    await renewed.records.close()


async def test_it_is_kept_up_beside_the_server(services: Services) -> None:
    await services.media_store.put(b"unused")
    make_old(services)
    house = asyncio.create_task(keep_house(services.house))
    async with asyncio.timeout(5):
        while await digests(services):
            await asyncio.sleep(0.02)
    house.cancel()
    await asyncio.gather(house, return_exceptions=True)


async def test_one_process_keeps_house_and_another_takes_over(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "SWEEP_S", 0.05)
    duties = services.records.duties
    assert await duties.take("housekeeping", "another", 60)
    unused = await services.media_store.put(b"unused")
    make_old(services)
    house = asyncio.create_task(keep_house(services.house))
    await asyncio.sleep(0.3)
    assert await digests(services) == {unused}
    await duties.give_back("housekeeping", "another")
    async with asyncio.timeout(5):
        while await digests(services):
            await asyncio.sleep(0.02)
    house.cancel()
    await asyncio.gather(house, return_exceptions=True)
    assert await duties.take("housekeeping", "another", 60)  # it was given up

"""What the tests of the HTTP door are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from serve_app.http.fakes import FakeModerator
from serve_app.http.services import Services
from serve_app.http.settings import HttpSettings, JobSettings
from serve_app.media_store import DirectoryMediaStore
from serve_app.records import Records
from tests.databases import sqlite_url

SETTINGS = HttpSettings(auth="off", request_timeout_s=10, jobs=JobSettings(poll_s=0.05, retry_base_s=0.02))


def build_services(folder: Path, settings: HttpSettings = SETTINGS, **changes: Any) -> Services:
    given: dict[str, Any] = {
        "moderator": FakeModerator(),
        "records": Records(sqlite_url(folder)),
        "media_store": DirectoryMediaStore(folder / "media"),
        "settings": settings,
        "profile": "local",
        "profile_note": "stand-ins",
    }
    return Services(**(given | changes))


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://parakh", headers=headers)


def text_post(post_id: str = "p1", caption: str | None = "good morning", **changes: Any) -> dict[str, Any]:
    post = {
        "post_id": post_id,
        "author_id": "a1",
        "content_type": "text",
        "caption": caption,
        "created_at": "2026-11-01T10:00:00Z",
    }
    return post | changes

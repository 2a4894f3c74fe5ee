"""`parakh keys`: create, list and revoke API keys in the configuration's records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from rich.table import Table

from serve_app.config import AppConfig
from serve_app.records import Records


async def create(config: AppConfig, name: str, scopes: Sequence[str], days: int | None) -> str:
    """The key's text, which is stored nowhere. Raises ValueError for an unknown scope."""
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    async with opened_records(config) as records:
        return (await records.keys.create_key(name, scopes, expires_at=expires_at))[1]


async def table(config: AppConfig) -> Table:
    rows = Table(title="API keys")
    rows.add_column("id", no_wrap=True)
    for heading in ("name", "scopes", "state", "created", "last used"):
        rows.add_column(heading)
    async with opened_records(config) as records:
        for key in await records.keys.list_keys():
            state = "live" if key.is_live(datetime.now(UTC)) else "revoked" if key.revoked_at else "expired"
            dates = [f"{at:%Y-%m-%d %H:%M}" if at else "never" for at in (key.created_at, key.last_used_at)]
            rows.add_row(key.key_id, key.name, " ".join(sorted(key.scopes)), state, *dates)
    return rows


async def revoke(config: AppConfig, key_id: str) -> bool:
    """False where there is no such key."""
    async with opened_records(config) as records:
        return await records.keys.revoke_key(key_id)


@asynccontextmanager
async def opened_records(config: AppConfig) -> AsyncIterator[Records]:
    config.data_dir.mkdir(parents=True, exist_ok=True)
    records = await Records.open(config.records_url)
    try:
        yield records
    finally:
        await records.close()

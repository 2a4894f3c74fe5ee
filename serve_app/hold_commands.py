"""`parakh holds`: evidence under legal hold, listed and released in the configuration's records."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from serve_app.config import AppConfig
from serve_app.key_commands import opened_records


async def table(config: AppConfig) -> Table:
    rows = Table(title="Legal holds")
    for heading in ("post", "since", "why", "media"):
        rows.add_column(heading, overflow="fold")
    async with opened_records(config) as records:
        for hold in await records.holds.list():
            since = f"{hold.since:%Y-%m-%d %H:%M}"
            rows.add_row(Text(hold.post_id), since, Text(hold.reason), hold.media_sha256 or "none")
    return rows


async def release(config: AppConfig, post_id: str) -> bool:
    """False where the post is under no hold."""
    async with opened_records(config) as records:
        return await records.holds.release(post_id, "command line")

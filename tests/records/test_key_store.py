"""API keys: shown once, kept as a hash, live until revoked or expired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from serve_app.records import Records


async def test_a_created_key_authenticates_and_its_secret_is_stored_nowhere(records: Records) -> None:
    key, shown = await records.keys.create_key("gateway", ["ingest", "read"])
    found = await records.keys.authenticate(shown)
    assert found is not None
    assert (found.key_id, sorted(found.scopes)) == (key.key_id, ["ingest", "read"])
    assert shown.startswith("pk_")
    secret = shown.split("_", 2)[2]
    rows = await records._database.read(lambda session: session.execute(text("SELECT * FROM api_keys")).all())
    assert secret not in str(rows)


@pytest.mark.parametrize("tampered", ["", "pk_", "pk__", "nonsense", "{0}x", "pk_{1}_", "sk_{1}_{2}", "pk_{1}_{2}\x00"])
async def test_anything_else_does_not(records: Records, tampered: str) -> None:
    _, shown = await records.keys.create_key("k", ["read"])
    presented = tampered.format(shown, *shown.split("_", 2)[1:])
    assert await records.keys.authenticate(presented) is None


async def test_revoked_and_expired_keys_do_not(records: Records) -> None:
    key, shown = await records.keys.create_key("k", ["read"])
    _, expired = await records.keys.create_key("k", ["read"], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert await records.keys.authenticate(expired) is None
    assert await records.keys.revoke_key(key.key_id)
    assert await records.keys.revoke_key(key.key_id)
    assert await records.keys.authenticate(shown) is None
    assert not await records.keys.revoke_key("unknown")


async def test_use_is_noted_and_everything_is_listed(records: Records) -> None:
    key, shown = await records.keys.create_key("k", ["admin"])
    assert key.last_used_at is None
    await records.keys.authenticate(shown)
    (listed,) = await records.keys.list_keys()
    assert listed.last_used_at is not None
    assert listed.allows("ingest")


async def test_creation_and_revocation_are_in_the_audit(records: Records) -> None:
    key, _ = await records.keys.create_key("k", ["read"], actor="ops")
    await records.keys.revoke_key(key.key_id, actor="ops")
    assert [entry.action for entry in await records.audit.entries(key.key_id)] == ["key.revoke", "key.create"]


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "write"]])
async def test_unknown_scopes_are_refused(records: Records, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="scopes must be"):
        await records.keys.create_key("k", scopes)

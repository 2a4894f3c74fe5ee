"""API keys: `pk_<id>_<secret>`. The id finds the row, the secret (256 random bits) is kept only as its SHA-256.

A fast hash is right here: a secret of 256 random bits cannot be guessed, however fast the guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from serve_app.records import audit, leases
from serve_app.records.engine import Database
from serve_app.records.tables import ApiKeyRow

Scope = Literal["ingest", "read", "review", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_USE_RESOLUTION = timedelta(seconds=60)  # last_used_at is written at most this often


@dataclass(frozen=True)
class ApiKey:
    key_id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def is_live(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > at)


class KeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_key(
        self, name: str, scopes: Iterable[str], *, expires_at: datetime | None = None, actor: str = "command line"
    ) -> tuple[ApiKey, str]:
        """The new key and its text, which is shown once and stored nowhere. ValueError for an unknown scope."""
        chosen = frozenset(scopes)
        if not chosen or not chosen <= set(SCOPES):
            raise ValueError(f"scopes must be one or more of {', '.join(SCOPES)}")
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = ApiKeyRow(
            key_id=key_id,
            name=name[:128],
            secret_sha256=_hash(secret),
            scopes=" ".join(sorted(chosen)),
            created_at=leases.now(),
            expires_at=expires_at,
        )

        def work(session: Session) -> None:
            session.add(row)
            audit.add(session, actor, "key.create", key_id, name=row.name, scopes=row.scopes)

        await self._database.write(work)
        return _key(row), f"pk_{key_id}_{secret}"

    async def list_keys(self) -> list[ApiKey]:
        """Oldest first, revoked and expired ones included."""
        query = select(ApiKeyRow).order_by(ApiKeyRow.created_at)
        return await self._database.read(lambda session: [_key(row) for row in session.scalars(query)])

    async def revoke_key(self, key_id: str, *, actor: str = "command line") -> bool:
        """False where there is no such key. Idempotent."""

        def work(session: Session) -> bool:
            row = session.get(ApiKeyRow, key_id)
            if row is None:
                return False
            if row.revoked_at is None:
                row.revoked_at = leases.now()
                audit.add(session, actor, "key.revoke", key_id)
            return True

        return await self._database.write(work)

    async def authenticate(self, presented: str) -> ApiKey | None:
        """The live key whose text was presented, else None; takes as long for a wrong secret as for an unknown id."""
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        row = await self._database.read(lambda session: session.get(ApiKeyRow, key_id[:32])) if prefix == "pk" else None
        expected = row.secret_sha256 if row is not None else _hash("")
        same = hmac.compare_digest(expected, _hash(secret))
        if row is None or not same:
            return None
        key, at = _key(row), leases.now()
        if not key.is_live(at):
            return None
        if key.last_used_at is None or at - key.last_used_at > _USE_RESOLUTION:
            await self._touch(key_id, at)
        return key

    async def _touch(self, key_id: str, at: datetime) -> None:
        used = update(ApiKeyRow).where(ApiKeyRow.key_id == key_id).values(last_used_at=at)
        await self._database.write(lambda session: session.execute(used) and None)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        name=row.name,
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )

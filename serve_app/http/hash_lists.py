"""/v1/hash-lists: lists of known-bad content, uploaded in the field's exchange formats."""

from __future__ import annotations

import asyncio
import io
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import StringConstraints

from deployments.similarity.hash_lists.reading import Algorithm, HashListRefused
from deployments.similarity.hash_lists.reading import HashList as ListFile
from serve_app.http.auth import caller_of, require, services_of
from serve_app.http.responses import errors
from serve_app.http.search_schemas import HashListBody, HashListProblem, HashListsBody, NewHashListBody
from serve_app.records.hash_lists import HashEntry, HashList

router = APIRouter(prefix="/v1/hash-lists", tags=["hash lists"], dependencies=[Depends(require("admin"))])
Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"),
    Path(description="Up to 64 lower-case letters, digits, dots, dashes."),
]
Labels = Annotated[list[str], Query(alias="label", max_length=32, description="Given to every entry; may be repeated.")]
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/octet-stream", "text/plain", "text/csv", "application/json")
        },
    }
}


@router.get("", response_model=HashListsBody, responses=errors())
async def list_hash_lists(request: Request) -> HashListsBody:
    lists = await services_of(request).records.hash_lists.list()
    return HashListsBody(lists=[HashListBody(**_shown(one)) for one in lists])


@router.post("/{name}", response_model=NewHashListBody, responses=errors(), openapi_extra=_UPLOAD)
async def upload_hash_list(
    request: Request,
    name: Name,
    algorithm: Annotated[Algorithm | None, Query(description="Of digests that do not name theirs.")] = None,
    label: Labels = [],  # noqa: B006 - FastAPI copies it
    strict: Annotated[bool, Query(description="A bad line refuses the whole list.")] = True,
) -> NewHashListBody:
    """Make the list, or replace it whole. Digests act at once, PDQ signatures as soon as the index has them."""
    services = services_of(request)
    file = ListFile(
        io.BytesIO(await request.body()),
        algorithm=algorithm,
        labels=tuple(label),
        strict=strict,
        max_bytes=services.settings.max_request_bytes,
        max_entries=services.indexing.max_list_entries,
    )
    entries = await asyncio.to_thread(_entries, file)
    kept = await services.records.hash_lists.put(name, entries, caller_of(request) or "anonymous")
    problems = [HashListProblem(line=problem.line, reason=problem.reason) for problem in file.problems]
    return NewHashListBody(**_shown(kept), skipped=dict(file.skipped), problems=problems)


@router.get("/{name}", response_model=HashListBody, responses=errors(404))
async def read_hash_list(request: Request, name: Name) -> HashListBody:
    """When it changed, and how many entries it has. The entries themselves are told to nobody."""
    return HashListBody(**_shown(await services_of(request).records.hash_lists.find(name)))


@router.delete("/{name}", status_code=204, responses=errors(404))
async def delete_hash_list(request: Request, name: Name) -> Response:
    await services_of(request).records.hash_lists.delete(name, caller_of(request) or "anonymous")
    return Response(status_code=204)


def _entries(file: ListFile) -> list[HashEntry]:
    """Raises HashListRefused."""
    entries = [HashEntry(entry.algorithm.value, entry.value.hex(), entry.labels) for entry in file]
    if not entries:
        raise HashListRefused("The list has no entry of any use; to end a list, delete it.")
    return entries


def _shown(one: HashList) -> dict[str, object]:
    return {
        "name": one.name,
        "created_at": one.created_at,
        "changed_at": one.changed_at,
        "entries": dict(one.entries),
    }

"""/v1/indexes: the partitions of the index, and items that are brought from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response

from deployments.runtime.errors import InvalidInput, NodeUnavailable, NotFound
from deployments.runtime.values import ContentType
from deployments.similarity.checks import check_id
from deployments.similarity.content import ANY, PDQ_ENCODER, Bank, EncoderId, IndexedModality, PartitionKey
from deployments.similarity.uses.entries import OWN, check_own_content
from deployments.similarity.values import Item
from serve_app.contents import primary_subtag
from serve_app.http.auth import require, services_of
from serve_app.http.batches import attempt, check_size, parsed
from serve_app.http.body import read_json
from serve_app.http.errors import ItemNotFound, PartitionNotFound
from serve_app.http.responses import body_of, errors
from serve_app.http.search_schemas import (
    DeleteItem,
    EncoderName,
    IndexesBody,
    ItemBody,
    ItemFields,
    ItemId,
    ItemsBatchBody,
    ItemsBatchRequest,
    PartitionBody,
    ReconciliationBody,
    UpsertItem,
)
from serve_app.http.searching import check_dimension, encoder_of, runs
from serve_app.http.services import Services
from serve_app.reconciler import reconcile
from serve_app.similarity import PartitionStats

router = APIRouter(prefix="/v1/indexes", tags=["indexes"])
reconciling = APIRouter(prefix="/v1", tags=["indexes"])
Partition = Annotated[str, Path(description="bank.language.content_type.modality, for instance posts.hi.video.visual.")]
PathItemId = Annotated[ItemId, Path(description="The item's id; one with a slash goes through the batch form.")]


@router.get("", response_model=IndexesBody, responses=errors(404, 429), dependencies=[Depends(require("read"))])
async def list_indexes(request: Request) -> IndexesBody:
    """Every partition with its size, memory, recall estimate and age, and what the index is still to be told."""
    services = services_of(request)
    jobs = services.records.index_jobs
    partitions, (waiting, oldest), failed, reused = await asyncio.gather(
        services.similarity.partitions(), jobs.waiting(), jobs.failed(), services.records.posts.reused()
    )
    return IndexesBody(
        partitions=[_partition(stats) for stats in partitions],
        waiting_jobs=waiting,
        oldest_waiting=oldest,
        failed_jobs=failed,
        reused_verdicts=reused,
    )


@reconciling.post(
    "/indexes:reconcile",
    response_model=ReconciliationBody,
    responses=errors(404, 429),
    dependencies=[Depends(require("admin"))],
)
async def reconcile_indexes(request: Request) -> ReconciliationBody:
    """Compare records and index now, and mend what one of them lacks. Broken off by a deadline, repeat it."""
    found = await reconcile(services_of(request))
    return ReconciliationBody(compared=found.compared, told_again=found.missing, removed=found.extra, lost=found.lost)


@router.get(
    "/{partition}", response_model=PartitionBody, responses=errors(404, 429), dependencies=[Depends(require("read"))]
)
async def read_index(request: Request, partition: Partition) -> PartitionBody:
    key = str(PartitionKey.parse(partition))
    for stats in await services_of(request).similarity.partitions():
        if stats.partition == key:
            return _partition(stats)
    raise PartitionNotFound(param="partition")


@router.put(
    "/{partition}/items/{item_id}",
    response_model=ItemBody,
    responses=errors(404, 409, 415, 429),
    dependencies=[Depends(require("admin"))],
    openapi_extra=body_of("ItemFields"),
)
async def put_item(request: Request, partition: Partition, item_id: PathItemId) -> ItemBody:
    """Add or replace one vector. Findable and durable when answered."""
    asked = await read_json(request, ItemFields)
    return await _upsert(services_of(request), partition, item_id, asked)


@router.delete(
    "/{partition}/items/{item_id}",
    status_code=204,
    responses=errors(404, 409, 429),
    dependencies=[Depends(require("admin"))],
)
async def delete_item(request: Request, partition: Partition, item_id: PathItemId) -> Response:
    """Gone, durably, when answered."""
    if not await _delete(services_of(request), partition, [item_id]):
        raise ItemNotFound(param="item_id")
    return Response(status_code=204)


@router.post(
    "/{partition}/items:batch",
    response_model=ItemsBatchBody,
    responses=errors(404, 409, 415, 429),
    dependencies=[Depends(require("admin"))],
    openapi_extra=body_of("ItemsBatchRequest"),
)
async def change_items(request: Request, partition: Partition) -> ItemsBatchBody:
    """Many upserts and deletes, done in order; each has its own result or error."""
    services = services_of(request)
    asked = await read_json(request, ItemsBatchRequest)
    check_size(asked.items, services.indexing.max_batch, "items")
    PartitionKey.parse(partition)
    _ = services.similarity
    results = [await attempt(partial(_change, services, partition, item)) for item in asked.items]
    return ItemsBatchBody(results=results)


async def _change(services: Services, partition: str, item: Any) -> ItemBody:
    if isinstance(item, dict) and item.get("op") == "delete":
        asked = parsed(item, DeleteItem)
        there = await _delete(services, partition, [asked.id])
        return ItemBody(id=asked.id, partition=partition, status="deleted" if there else "not_found")
    given = parsed(item, UpsertItem)
    return await _upsert(services, partition, given.id, given)


async def _upsert(services: Services, partition: str, item_id: str, asked: ItemFields) -> ItemBody:
    key = _key(partition)
    similarity, item = services.similarity, _item(key, item_id, asked)
    encoder = await _encoder(services, key, asked)
    await services.records.external.add(key.bank, [item_id])  # first: what the index has, the records know
    await similarity.upsert_items(str(key), encoder, [item])
    await services.records.external.add(key.bank, [item_id])  # once more: a DELETE meanwhile may have forgotten it
    return ItemBody(id=item_id, partition=str(key), status="indexed")


async def _delete(services: Services, partition: str, ids: Sequence[str]) -> bool:
    key = PartitionKey.parse(partition)
    try:
        there = await services.similarity.delete_items(str(key), ids)
    except NotFound as error:
        raise PartitionNotFound(param="partition") from error
    await _forget(services, key.bank, ids)
    return there > 0


async def _forget(services: Services, bank: str, ids: Sequence[str]) -> None:
    """What is in no partition of the bank any more, the records need not spare."""
    try:
        gone = [id_ for id_ in ids if not await services.similarity.has(id_, bank)]
    except NodeUnavailable:  # a partition that cannot tell may hold it still
        return
    await services.records.external.forget(bank, gone)


def _key(partition: str) -> PartitionKey:
    """Of a partition that some search looks into. Raises InvalidInput."""
    key = PartitionKey.parse(partition)
    parts: list[tuple[str, str, list[str]]] = [
        ("bank", key.bank, [*Bank]),
        ("content type", key.content_type, [*ContentType, ANY]),
        ("modality", key.modality, [*IndexedModality]),
    ]
    for kind, name, known in parts:
        if name not in known:
            raise InvalidInput(f"There is no {kind} {name}: {', '.join(known)}.", param="partition")
    return key


async def _encoder(services: Services, key: PartitionKey, asked: ItemFields) -> EncoderId:
    if (key.modality == IndexedModality.PDQ) != (asked.signature is not None):
        wanted = "a signature" if key.modality == IndexedModality.PDQ else "a vector"
        raise InvalidInput(f"An item of {key} is {wanted}.", param="vector" if asked.vector else "signature")
    if asked.signature is not None:
        return PDQ_ENCODER
    named = asked.encoder
    encoder = encoder_of(services, key.modality) if named is None else EncoderId(named.name, named.version)
    await check_dimension(services, key.modality, encoder, len(asked.vector or ()))
    if not runs(services, key.modality, encoder):
        await _check_there(services, key, encoder)
    return encoder


async def _check_there(services: Services, key: PartitionKey, encoder: EncoderId) -> None:
    """A partition founded with vectors of a foreign encoder would shut out those of our own. Raises InvalidInput."""
    if all(stats.partition != str(key) for stats in await services.similarity.partitions()):
        raise InvalidInput(
            f"There is no partition {key}, and {encoder} is not the encoder that this server runs for {key.modality}: "
            "its vectors would shut all others out. `parakh index build` makes such a partition.",
            param="encoder",
        )


def _item(key: PartitionKey, item_id: str, asked: ItemFields) -> Item:
    check_own_content(item_id, key)  # before the records are told of it
    if OWN in asked.attributes:
        raise InvalidInput(f"The attribute `{OWN}` is the index's own.", param="attributes")
    if asked.signature is not None:
        vector = np.frombuffer(bytes.fromhex(asked.signature), np.uint8)
    else:
        with np.errstate(over="ignore"):
            vector = np.asarray(asked.vector, np.float32)
    content_type: str = asked.content_type or key.content_type
    return Item(
        id=check_id(item_id),
        vector=vector,
        created_at=time.time() if asked.created_at is None else asked.created_at.timestamp(),
        language=primary_subtag(asked.language) if asked.language else key.language,
        content_type=str(content_type),
        attributes=dict(asked.attributes),
    )


def _partition(shown: PartitionStats) -> PartitionBody:
    stats, encoder = shown.stats, shown.encoder
    return PartitionBody(
        partition=shown.partition,
        encoder=EncoderName(name=encoder.name, version=encoder.version) if encoder is not None else None,
        dimension=shown.dimension,
        index_type=shown.index_type,
        metric=shown.metric,
        items=stats.items if stats else None,
        memory_bytes=stats.memory_bytes if stats else None,
        disk_bytes=stats.disk_bytes if stats else None,
        buffered=stats.buffered if stats else None,
        deleted=stats.deleted if stats else None,
        newest_at=_time(stats.newest_at) if stats else None,
        snapshot_at=_time(stats.snapshot_at) if stats else None,
        recall_estimate=stats.recall_estimate if stats else None,
        thresholds=dict(shown.thresholds),
        damaged=shown.damaged,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

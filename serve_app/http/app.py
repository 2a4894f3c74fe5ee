"""The FastAPI application over `Services`: middleware, one router for each noun, one error shape.

Its lifespan brings the records' schema up to date and runs the job worker beside the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from serve_app.gate_worker import GateWorker
from serve_app.gating import Gating
from serve_app.http import (
    embeddings,
    errors,
    gate,
    hash_lists,
    health,
    indexes,
    moderations,
    posts,
    references,
    reviews,
    search,
    shown,
    streams,
)
from serve_app.http.health import Readiness
from serve_app.http.intake import Intake
from serve_app.http.limits import BodyCap, Deadline, RequestId
from serve_app.http.openapi import install_openapi
from serve_app.http.services import Services
from serve_app.index_worker import IndexWorker
from serve_app.jobs_worker import JobWorker

NOUNS = (
    moderations,
    embeddings,
    posts,
    gate,
    reviews,
    search,
    indexes,
    references,
    hash_lists,
    shown,
    streams,
    health,
)
DESCRIPTION = "Moderates posts: seven categories with evidence, from picture, sound and text."


def create_app(services: Services) -> FastAPI:
    """Build inside the process that serves it. No CORS: the API is for servers, not for browsers.

    /docs brings its own scripts: it works without a network, and a reader's browser tells no other host.
    """
    app = FastAPIOffline(
        title="Parakh",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    worker = JobWorker(services)
    app.state.services = services
    app.state.index_worker = (
        IndexWorker(services.records, services.index, services.indexing) if services.index is not None else None
    )
    records, observer = services.records, services.gate_observer
    gating = Gating(records.gate, records.authors, services.gate, services.gating, observer)
    app.state.gating = gating
    app.state.gate_worker = GateWorker(records, gating, services.gating, observer)
    app.state.worker = worker
    app.state.intake = Intake(services, worker)
    app.state.readiness = Readiness(services)
    routers = [*(noun.router for noun in NOUNS), indexes.reconciling]
    for router in routers:
        app.include_router(router)
    errors.install(app, routers)
    app.add_middleware(BodyCap, max_bytes=services.settings.max_request_bytes)
    app.add_middleware(Deadline, timeout_s=services.settings.request_timeout_s)
    app.add_middleware(RequestId)
    install_openapi(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    services: Services = app.state.services
    await services.records.start()
    app.state.worker.start()
    app.state.gate_worker.start()
    index_worker: IndexWorker | None = app.state.index_worker
    if index_worker is not None:
        index_worker.start()
    if services.outgoing is not None:
        services.outgoing.start()
    try:
        yield {}
    finally:
        await app.state.worker.stop()
        await app.state.gate_worker.stop()
        if index_worker is not None:
            await index_worker.stop()
        await app.state.intake.drain()
        if services.outgoing is not None:
            await services.outgoing.stop()
        await services.records.close()

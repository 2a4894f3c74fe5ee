"""Who may do what. Every router outside health names the scope it needs; a test walks the routes to hold it to that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from serve_app.http.errors import NotAllowed, NotAuthenticated
from serve_app.http.services import Services
from serve_app.records.keys import ApiKey, Scope


def services_of(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


def require(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    """A dependency: the request's key must be live and hold `scope` (admin holds all). Runs before the body is read."""

    async def check(request: Request) -> None:
        services = services_of(request)
        if services.settings.auth == "off":
            return
        presented = _presented(request)
        key = await services.records.keys.authenticate(presented) if presented else None
        if key is None:
            raise NotAuthenticated
        if not key.allows(scope):
            raise NotAllowed(f"The API key lacks the scope `{scope}`.")
        request.state.api_key = key

    return check


def is_admin(request: Request) -> bool:
    """With auth off everybody is."""
    if services_of(request).settings.auth == "off":
        return True
    key: ApiKey | None = getattr(request.state, "api_key", None)
    return key is not None and key.allows("admin")


def sees_entries(request: Request) -> bool:
    """Whether the caller is told which entry of a hash list matched: moderators and admins are."""
    if services_of(request).settings.auth == "off":
        return True
    key: ApiKey | None = getattr(request.state, "api_key", None)
    return key is not None and key.allows("review")


def caller_of(request: Request) -> str:
    """The API key's id; empty with auth off."""
    key: ApiKey | None = getattr(request.state, "api_key", None)
    return key.key_id if key is not None else ""


def _presented(request: Request) -> str | None:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("x-api-key")

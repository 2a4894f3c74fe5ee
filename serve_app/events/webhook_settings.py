"""What the operator may set about webhooks: who is told of what, and how hard it is tried."""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments.media.url_guard import IPNetwork, parse_url
from deployments.runtime.errors import UrlRefused


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _AnyPort:
    """The operator's own URL names the port it means; what is checked are its addresses."""

    allowed_hosts = ()
    allowed_ports = range(1, 65536)


URL_RULES = _AnyPort()


class WebhookEndpoint(Frozen):
    """Somebody who is told of events by HTTP POST."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Its name in logs, metrics and the records; keep it for good.",
    )
    url: str = Field(description="Where events are posted; https, except to the allowed private networks.")
    secret_file: Path = Field(
        description="File of its signing secrets (`whsec_` and base64 of 24 to 64 bytes), one a line: all sign. "
        "It is read again when it changes."
    )
    types: tuple[str, ...] = Field(
        ("parakh.*",), min_length=1, description="Event types it is told of; `*` stands for any characters."
    )
    timeout_s: float = Field(15.0, gt=0, le=60, description="Time it has to answer, connecting included.")

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        try:
            parse_url(value, URL_RULES)
        except UrlRefused as error:
            raise ValueError(str(error)) from None
        return value

    def wants(self, type_: str) -> bool:
        return any(fnmatchcase(type_, pattern) for pattern in self.types)


class WebhookSettings(Frozen):
    """Webhooks by the Standard Webhooks specification."""

    endpoints: tuple[WebhookEndpoint, ...] = Field((), description="Who is told; empty: nobody.")
    allowed_private: tuple[str, ...] = Field(
        (), description="Networks that are not public and may be posted to all the same, for instance 10.20.0.0/16."
    )
    concurrency: int = Field(4, ge=1, le=64, description="Posts to one endpoint at the same time.")

    @property
    def private_networks(self) -> tuple[IPNetwork, ...]:
        return tuple(ipaddress.ip_network(network) for network in self.allowed_private)

    @field_validator("allowed_private")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)  # ValueError says what is wrong
        return value

    @model_validator(mode="after")
    def _apart(self) -> WebhookSettings:
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) != len(names):
            raise ValueError("two webhook endpoints have the same name")
        return self

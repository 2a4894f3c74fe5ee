"""How any client of Kafka connects, and which of its errors means what."""

from __future__ import annotations

import ssl
from typing import Any

from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from deployments.runtime.errors import ParakhError
from serve_app.events.brokers.base import BrokerUnavailable, MessageTooLarge, TopicMissing
from serve_app.events.settings import BrokerSecurity, BrokerSettings

FAILURES = (KafkaError, OSError, TimeoutError)
"""What a broker that is away, slow or unwilling makes a client raise."""


def connection(settings: BrokerSettings) -> dict[str, Any]:
    """Arguments of every aiokafka client. Raises OSError where a file of the security settings cannot be read."""
    security = settings.security
    sasl = security.mechanism != "none"
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.servers),
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "metadata_max_age_ms": 30_000,  # a topic or partition that is added is seen after this
        "security_protocol": f"{'SASL_' if sasl else ''}{'SSL' if security.tls else 'PLAINTEXT'}",
        "ssl_context": tls_context(security),
    }
    if sasl:
        options |= {
            "sasl_mechanism": security.mechanism,
            "sasl_plain_username": security.username,
            "sasl_plain_password": security.password(),
        }
    return options


def tls_context(security: BrokerSecurity) -> ssl.SSLContext | None:
    if not security.tls:
        return None
    context = ssl.create_default_context(cafile=security.ca_file)
    if security.cert_file is not None:
        context.load_cert_chain(security.cert_file, security.key_file)
    return context


def meaning(error: BaseException) -> ParakhError:
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        return MessageTooLarge()
    if isinstance(error, UnknownTopicOrPartitionError):
        return TopicMissing()
    if isinstance(error, TopicAuthorizationFailedError | InvalidTopicError):  # the broker is well: others may leave
        return TopicMissing("The message broker has no such topic for this client.")
    return BrokerUnavailable()

"""Real brokers, one of each for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import skip_or_fail
from tests.events.servers import BrokerProcess, Missing, kafka_process, nats_process


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[str]:
    """host:port of a broker that speaks Kafka's protocol."""
    server = started(kafka_process)
    yield server.address
    server.stop()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of NATS with JetStream."""
    server = started(lambda: nats_process(tmp_path_factory.mktemp("nats")))
    yield server.address
    server.stop()


def started(start: Callable[[], BrokerProcess]) -> BrokerProcess:
    try:
        return start()
    except Missing as reason:
        skip_or_fail(str(reason))
        raise

"""Fixtures of the gateway's tests. `mosquitto` is a real broker on a free loopback port, with a temporary configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from host_sim import mosquitto as mosquitto_process


class BrokerAddress(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int


class Mosquitto(mosquitto_process.Mosquitto):
    """Host_sim's broker, which keeps retained messages over a restart on the same port; skipped by name where it is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(folder)
        except mosquitto_process.MosquittoError as e:
            pytest.skip(str(e))
        self.address = BrokerAddress(self.host, self.port)


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A running mosquitto that the test may stop and start."""
    m = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    m.start()
    yield m
    m.stop()


@pytest.fixture
def mosquitto(broker: Mosquitto) -> BrokerAddress:
    """(host, port) of a running mosquitto."""
    return broker.address

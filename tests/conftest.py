"""What all tests share: how hypothesis behaves here, and the real broker."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.gateway.conftest import broker, mosquitto

__all__ = ["broker", "mosquitto"]

# machines are noisy: time per example says nothing; CI replays one fixed choice of examples, desks look for new ones
settings.register_profile(
    "house",
    deadline=None,
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A gateway that ran in this process ignores signals at its end, and whoever is started behind it would inherit that."""
    kept = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for sig, handler in kept.items():
        if handler is not None and signal.getsignal(sig) is not handler:
            signal.signal(sig, handler)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A verb that is called in this process keeps its files to itself: not those of the tests behind it."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)

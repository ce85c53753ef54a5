"""What all tests share: how hypothesis behaves here, and the real broker."""

import os
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
def _umask() -> Iterator[None]:
    """A verb that is called in this process keeps its files to itself: not those of the tests behind it."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)

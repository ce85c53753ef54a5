"""What all tests share: how hypothesis behaves here, and the real broker."""

import os

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

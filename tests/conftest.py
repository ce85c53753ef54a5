"""What all tests share: how hypothesis behaves here, and the real broker."""

import os
import signal
import sys
import time
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


_WITH_NOW = (  # NOW = int(time.time()), or theirs
    "contested", "homeassistant", "outputs_process", "process", "refused", "retained_process",
    "former_id", "process_limits", "process_reload", "process_rim", "registry_process",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _now() -> None:
    """Modules are imported when a run begins, and its last tests come half an hour later: an alarm of the first NOW is too old to be raised then."""
    for name in _WITH_NOW:
        module = sys.modules.get(f"tests.gateway.test_{name}")
        if module is not None and time.time() - vars(module)["NOW"] > 300:
            vars(module)["NOW"] = int(time.time())

"""What time it is for orders, where the host's clock may be wrong. Pure; the rim says what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.witness import BUILT


def _by_host(now: float) -> float | None:
    return now if now >= BUILT else None


def _passed(now: float) -> float:
    return now


def _standing() -> float:
    return 0.0


@dataclass
class OrderTime:
    """Both take Unix seconds by the host's clock.

    at_nodes: the time that nodes go by, which an expiry on the air is judged by; None while no one knows it.
    passed: a time that has passed whatever the host's clock shows for a while: what ends by it cannot be taken back.
    elapsed: seconds that run on whatever the clock is set to: an order of this life ends by them, too.
    """

    at_nodes: Callable[[float], float | None] = _by_host
    passed: Callable[[float], float] = _passed
    elapsed: Callable[[], float] = _standing

"""A small world for chip models: a clock that tests push, and physics they set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "vm" / "mpy" / "data"
VECTORS: dict[str, Any] = json.loads((DATA / "sensor_vectors.json").read_text())


class World:
    """`sense` and `now_us` for a chip's constructor; `values` is the truth, `us` the time."""

    def __init__(self, **values: float | Callable[[int], float]) -> None:
        self.us = 1_000_000
        self.values: dict[str, Any] = {
            "temperature": 21.5,
            "humidity": 48.3,
            "pressure": 987.65,
            "pm1": 11.0,
            "pm25": 17.0,
            "pm10": 24.0,
            "laeq": 60.0,
            "occupied": 0.0,
            "distance": 1953.0,
            "tilt": 0.0,
            "water_pulses": 100.0,
        } | values

    def sense(self, name: str, t_us: int | None = None) -> float:
        """The truth now or at t_us; a value may be a function of the time in us."""
        value = self.values[name]
        return value(self.us if t_us is None else t_us) if callable(value) else value

    def now_us(self) -> int:
        return self.us

    def wait_ms(self, ms: float) -> None:
        self.us += int(ms * 1000)

"""[output.NAME]: who is told. A new kind of output is a dataclass and a branch of `output`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.broker import BROKER_KEYS, Broker, broker
from gateway.config.table import Table
from gateway.core.registry import VISIBILITIES


@dataclass(frozen=True, slots=True)
class MqttOutputConfig:
    """A destination: broker, topic root, formats, window (messages waiting for PUBACK), visibilities it may see."""

    name: str
    broker: Broker
    root: str = "city"
    formats: tuple[str, ...] = ("native", "senml")
    window: int = 100
    visibility: tuple[str, ...] = VISIBILITIES


def output(name: str, t: Table) -> MqttOutputConfig:
    """Read one output. Raises ConfigError."""
    from gateway.outputs import FORMATS

    t.choice("kind", ("mqtt",))
    t.only((*BROKER_KEYS, "root", "formats", "window", "visibility"))
    known = tuple(FORMATS)
    return MqttOutputConfig(
        name,
        broker(t),
        t.name("root", "city"),
        t.choices("formats", known, ("native", "senml")),
        t.number("window", 100, 1, 10_000),
        t.choices("visibility", VISIBILITIES, VISIBILITIES),
    )

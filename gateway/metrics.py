"""Counters: cheap to bump, exposed as a Prometheus registry and as a dict for gw info. Labels come from code, so they are bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

FORGED_NODES = 64


@dataclass(slots=True)
class Fault:
    """An exception of ours, by place (supervise.caught). seen, told: monotonic seconds, told None before it was logged."""

    where: str
    error: str
    at: str
    count: int = 0
    seen: float = 0.0
    told: float | None = None


class Metrics(Collector):
    """frames by link, refused by reason, restarts by part, and further totals by name; `gauges` hold current values."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.faults: dict[tuple[str, str, str], Fault] = {}
        self.heard: set[int] = set()  # nodes with a committed frame since the log's last line `taken`
        self.bad_tags: Counter[str] = Counter()  # by node; bounded by forged()
        self.gauges: dict[str, float] = {}
        self.outputs: dict[str, tuple[bool, int]] = {}  # connected, events behind
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def forged(self, node: str) -> None:
        """Count a frame under a node's name whose tag did not fit; nodes beyond FORGED_NODES are counted together."""
        self.bad_tags[node if node in self.bad_tags or len(self.bad_tags) < FORGED_NODES else "others"] += 1

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric for Prometheus."""
        frames = CounterMetricFamily(
            "citymote_frames", "Frames heard, by link; copies are not counted", labels=["link"]
        )
        for link, n in self.frames.items():
            frames.add_metric([link], n)
        yield frames
        refused = CounterMetricFamily("citymote_refused", "What was refused, by reason", labels=["reason"])
        for reason, n in self.refused.items():
            refused.add_metric([reason], n)
        yield refused
        restarts = CounterMetricFamily(
            "citymote_restarts", "Tasks that ended unexpectedly and were made anew, by part", labels=["part"]
        )
        for part, n in self.restarts.items():
            restarts.add_metric([part], n)
        yield restarts
        bad_tags = CounterMetricFamily("citymote_bad_tag", "Frames that did not fit the node's key", labels=["node"])
        for node, n in self.bad_tags.items():
            bad_tags.add_metric([node], n)
        yield bad_tags
        for name, n in self.totals.items():
            yield CounterMetricFamily(f"citymote_{name}", name.replace("_", " "), value=n)
        up = GaugeMetricFamily("citymote_output_up", "1 while the destination answers", labels=["output"])
        behind = GaugeMetricFamily(
            "citymote_output_behind", "Events the destination has not taken yet", labels=["output"]
        )
        for name, (connected, events) in self.outputs.items():
            up.add_metric([name], connected)
            behind.add_metric([name], events)
        yield from (up, behind)
        for name, value in self.gauges.items():
            yield GaugeMetricFamily(f"citymote_{name}", name.replace("_", " "), value=value)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return the counters for publishing."""
        return {"frames": dict(self.frames), "refused": dict(self.refused), "totals": dict(self.totals)}

"""A town for the rules' tests: nodes by name, what the gateway concludes, a store that can be restarted and can fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.config.rules import RulesConfig, load_rules
from gateway.core.city import City
from gateway.core.follow import Follow
from gateway.core.model import Aggregate, Alarm, Column, Event, Node
from gateway.followers import build

T0 = 1767222000  # 2026-01-01 00:00 in Ljubljana (UTC+1)
H, D = 3600, 86400
UNITS = {
    "temperature": "Cel",
    "pm10": "ug/m3",
    "o3": "ug/m3",
    "laeq": "dB",
    "water_volume": "l",
    "occupied": "1",
    "distance": "mm",
}
NO_DEFAULTS = "[rules]\ndefaults = []\nsettle_s = 0\n"


def config(folder: Path, text: str, nodes: Sequence[Node]) -> RulesConfig:
    """Read rules.toml with this text."""
    file = folder / "rules.toml"
    file.write_text(text, encoding="utf-8")
    return load_rules(file, {n.id: n for n in nodes})


class Town:
    """send() rows and tick(); everything told is in `events`, in order. restart() goes on from the notes alone."""

    def __init__(self, folder: Path, text: str, nodes: Sequence[Node] | None = None) -> None:
        self.nodes = {n.name: n for n in nodes or [Node(1, "n-1", b"", profile="air_quality", interval_s=600)]}
        self.config = config(folder, text, list(self.nodes.values()))
        self.store: dict[str, bytes] = {}
        self.events: list[Event] = []
        self.refused: dict[str, int] = {}
        self.counters: dict[int, int] = {}
        self.latest: dict[tuple[str, str], float] = {}
        self.city = self.restart()

    def restart(self, config: RulesConfig | None = None) -> City:
        return self._use(config or self.config)

    def without_rules(self) -> City:
        """A reload, or a start, with a gateway.toml that names no rules."""
        return self._use(None)

    def _use(self, config: RulesConfig | None) -> City:
        (follower,) = build(config, {n.id: n for n in self.nodes.values()})
        assert isinstance(follower, City)
        follower.load(self.store)
        self.city = follower
        return follower

    def _keep(self, follow: Follow) -> list[Event]:
        for key, body in follow.notes.items():
            if body is None:
                self.store.pop(key, None)
            else:
                self.store[key] = body
        for reason, n in follow.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + n
        self.events += follow.events
        return list(follow.events)

    def event(self, name: str, received: float, kind: str = "report", **fields: Any) -> Event:
        node = self.nodes[name]
        n = self.counters[node.id] = self.counters.get(node.id, 0) + 1
        return Event(
            kind, f"{node.id}:0:{n}", node.id, name, node.visibility, received, node.interval_s, n,
            **{"link": "lora", **fields},
        )  # fmt: skip

    def report(
        self, name: str, times: Sequence[int], values: Mapping[str, Sequence[Any]], received: float | None = None,
        suspect: tuple[int, ...] = (), **fields: Any,
    ) -> Event:  # fmt: skip
        """A report of a node; which values are the newest is worked out as the decision does it."""
        columns, latest = [], []
        for c, (key, column) in enumerate(values.items()):
            columns.append(Column(key, UNITS.get(key, "1"), tuple(column), suspect))
            rows = [i for i, v in enumerate(column) if v is not None]
            best = max(rows, key=lambda i: times[i], default=None)
            if best is not None and times[best] > self.latest.get((name, key), -1):
                self.latest[name, key] = times[best]
                latest.append((c, best))
        return self.event(
            name, max(times) + 5.0 if received is None else received, times=tuple(times), columns=tuple(columns),
            latest=tuple(latest), **fields,
        )  # fmt: skip

    def follow(self, event: Event) -> list[Event]:
        return self._keep(self.city.follow(self.nodes[event.name], event))

    def send(self, name: str, times: Sequence[int], values: Mapping[str, Sequence[Any]], **more: Any) -> list[Event]:
        return self.follow(self.report(name, times, values, **more))

    def row(self, name: str, t: int, received: float | None = None, **values: Any) -> list[Event]:
        return self.send(name, [t], {k: [v] for k, v in values.items()}, received=received)

    def tick(self, now: float) -> list[Event]:
        return self._keep(self.city.tick(now))

    def until(self, start: float, end: float, step: float = 600) -> None:
        """Let time pass."""
        now = start
        while now <= end:
            self.tick(now)
            now += step

    def alarms(self) -> list[tuple[str, str]]:
        return [(e.alarm.state, e.alarm.rules[0]) for e in self.events if e.alarm is not None]

    def last_alarm(self) -> Alarm:
        return [e.alarm for e in self.events if e.alarm is not None][-1]

    def aggregates(self, name: str) -> dict[int, Aggregate]:
        """The newest revision of each period of that name, by its start; revisions must rise."""
        found: dict[int, Aggregate] = {}
        newest = 0
        for e in self.events:
            for a in e.aggregates:
                if a.name != name:
                    continue
                assert a.start not in found or a.revision > found[a.start].revision
                assert not a.latest or a.end >= newest, "an old period must not replace a newer one"
                newest = max(newest, a.end if a.latest else 0)
                found[a.start] = a
        return found

    def values(self, name: str, quantity: str) -> dict[int, float | None]:
        return {
            start: v.value for start, a in self.aggregates(name).items() for v in a.values if v.quantity == quantity
        }

"""A desk of commands and what it has committed and published, without a gateway round it; nodes and roles to ask it with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from gateway.core.authorise import Policy, Role
from gateway.core.commands import Desk
from gateway.core.follow import Follow
from gateway.core.model import Alarm, Event, Node
from tests.gateway.world import T0

NODES = {
    n.id: n
    for n in (
        Node(263, "aq-01", bytes(16), profile="air_quality", interval_s=600),
        Node(264, "water-01", bytes(16), profile="water_meter", visibility="personal"),
        Node(265, "water-02", bytes(16), profile="water_meter"),
    )
}
ROLES = {
    "operator": Role("operator", ("*",)),
    "water": Role("water", ("valve", "read_now"), profiles=("water_*",), longest_s=3600),
    "debt": Role("debt", ("valve",), nodes=("water-01",), arrears=True),
    "bins": Role("bins", ("read_now",), nodes=("bin-*",)),
}
POLICY = Policy({who: (role,) for who, role in ROLES.items()})
NEWEST = (0, 10)


def iso(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fail(e: BaseException) -> None:
    """An exception of ours is caught, and is a failure of the test all the same."""
    raise e


class Bench:
    """A desk, what it has committed and published."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.desk = Desk(NODES, policy, fail)
        self.notes: dict[str, bytes] = {}
        self.events: list[Event] = []
        self.now = float(T0)
        self.nth = 0

    def commit(self, follow: Follow) -> None:
        for key, body in follow.notes.items():
            if body is None:
                self.notes.pop(key, None)
            else:
                self.notes[key] = body
        self.events += follow.events

    def restart(self) -> None:
        self.desk = Desk(NODES, self.desk.policy, fail)
        self.desk.load(self.notes)

    def ask(
        self, who: str, node: str, name: str, *args: Any, expires: float | str | None = 600, id: str = "", **more: Any
    ) -> str:
        self.nth += 1
        body: dict[str, Any] = {"id": id or f"r{self.nth}", "name": name, "requester": who, "args": list(args), **more}
        if expires is not None:
            body["expires"] = expires if isinstance(expires, str) else iso(self.now + expires)
        return self.raw(who, node, json.dumps(body).encode())

    def raw(self, who: str, node: str, body: bytes) -> str:
        follow, judged = self.desk.request(who, node, body, self.now)
        self.commit(follow)
        return judged

    def offer(self, node: int = 263, room: int = 200, newest: tuple[int, int] = NEWEST) -> dict[int, Any] | None:
        offer = self.desk.offer(NODES[node], room, self.now, newest)
        if offer is None:
            return None
        self.commit(offer.follow)
        return dict(offer.items)

    def hear(self, node: int = 263, counter: int = 11, **status: Any) -> None:
        n = NODES[node]
        e = Event(
            "status", f"{node}:0:{counter}", node, n.name, "open", self.now, 600, counter, link="lora", status=status
        )
        self.commit(self.desk.follow(n, e))

    def tick(self, seconds: float = 0) -> None:
        self.now += seconds
        self.commit(self.desk.tick(self.now))

    def published(self) -> list[tuple[str, str]]:
        return [(e.command["state"], e.command.get("error") or e.command["detail"]) for e in self.events if e.command]

    def states(self) -> list[str]:
        return [s for s, _ in self.published()]


def leak(b: Bench, node: int, counter: int = 5, state: Any = "raised", age: int = 0, suspect: bool = False) -> None:
    n, t = NODES[node], int(b.now) - age
    alarm = Alarm(state, "above", "warning", "water_volume", "l", 30, 1, t, t, ("water_volume-above",), suspect=suspect)
    b.commit(
        b.desk.follow(
            n,
            Event("alarm", f"{node}:0:{counter}", node, n.name, "open", b.now, 600, counter, link="lora", alarm=alarm),
        )
    )

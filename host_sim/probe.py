"""What the nodes' rows are known by while a run is played: taken, persisted, lost with the power, dated in the future."""

from __future__ import annotations

from collections.abc import Sequence

from host_sim.node import Node
from host_sim.protocol import EPOCH_2000
from host_sim.provision import HOUR_US, Member
from host_sim.scenario import Group, Scenario, unix
from host_sim.truth import Truth

LEARNT_US = 3 * HOUR_US  # how fast a sleeper's clock runs is known 130 minutes after power-on
TOLD_US = HOUR_US // 2  # a clock on a crystal is right with the first answer
HEALTH_S = 21_600  # health_s where a configuration has none
FUTURE_S = 120

Row = list[tuple[int, int]]  # (quantity, raw value)


def patience(group: Group) -> tuple[int, int]:
    """Return how long (us) a node of the group may be wrong about the time after power-on, and after the gateway's clock is right again.

    The answer to every status has the time, and a status is due each health_s. A jump of more than a day is believed after a second answer, ten minutes
    later (asleep: with the next report), and so is a sleeper's drift.
    """
    status_us = group.config.get("health_s", HEALTH_S) * 1_000_000
    if group.config.get("mode") == "sleep":
        return LEARNT_US, status_us + group.report_s * 1_000_000 + LEARNT_US
    return TOLD_US, status_us + TOLD_US


def window(group: Group) -> int:
    """Return how many rows a power cut may take: what a configuration leaves unwritten (stage_every), in mode `sleep` without it those of a report."""
    every = int(group.config.get("stage_every", 1))
    if group.config.get("mode") == "sleep" and every == 1:
        row_s = group.config.get("row_s", group.row_s) or group.sample_s
        return max(1, int(group.report_s // row_s))
    return every


class Probe:
    """The truth of one run. truth: what was persisted before `end` (us), what is lost with it; rows: taken per node; with_power: readings
    that a power cut took before they were persisted, as documented; misdated: rows of the future."""

    def __init__(self, plan: Scenario, members: Sequence[Member], end: int) -> None:
        self._clocks, self._end = plan.gateway_clock, end
        self._unix0 = unix(plan.head.start)
        self._groups = {m.spec.name: m.group for m in members}
        self.truth = Truth(self._unix0 + round(end / 1e6))
        self.rows = dict.fromkeys(self._groups, 0)
        self.misdated = self.with_power = 0
        self._known: set[tuple[str, int]] = set()
        self._held: dict[str, dict[int, Row]] = {}

    def taken(self, node: Node, t2000: int, row: Row, held: bool) -> None:
        """A node has a row; held: a power cut would take it."""
        name = node.spec.name
        if (name, t2000) not in self._known:  # a node that takes up staged rows reads them again
            self._known.add((name, t2000))
            # those of the drain stand for none that is missing; a node that sleeps puts rows of before on flash by the dozen
            of_the_run = node.now < self._end or t2000 + EPOCH_2000 <= self._unix0 + self._end / 1e6
            self.rows[name] += of_the_run
            self.misdated += self._misdated(node, t2000)
        if held:
            self._held.setdefault(name, {})[t2000] = row
        else:
            self._held.get(name, {}).pop(t2000, None)
            self.truth.add(name, t2000, row)

    def persisted(self, node: Node) -> None:
        """What a node held is on flash."""
        self._keep(node.spec.name)

    def power_cut(self, node: Node) -> None:
        """What a node held is gone; more than its configuration leaves unwritten is lost like what was persisted."""
        name = node.spec.name
        held = self._held.get(name, {})
        for t2000 in sorted(held)[-window(self._groups[name]) :]:
            row = held.pop(t2000)
            if t2000 + EPOCH_2000 < self.truth.end:
                self.with_power += len(row)
        self._keep(name)

    def close(self) -> None:
        """The run has ended: what is held now is missing like any other row."""
        for name in list(self._held):
            self._keep(name)

    def _keep(self, name: str) -> None:
        for t2000, row in self._held.pop(name, {}).items():
            self.truth.add(name, t2000, row)

    def _misdated(self, node: Node, t2000: int) -> bool:
        """True for a row of the future, though the gateway has been right for so long that the node knows."""
        now = node.now
        began = max([node.spec.power_on, *(c.back for c in node.spec.cuts if c.back <= now)])
        learnt_us, settled_us = patience(self._groups[node.spec.name])
        wrong = now < began + learnt_us or any(
            c.from_h * HOUR_US <= now < c.to_h * HOUR_US + settled_us for c in self._clocks
        )
        return not wrong and t2000 + EPOCH_2000 > self._unix0 + now / 1e6 + FUTURE_S

"""Builds what follows from readings, out of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC

from gateway.config.rules import RulesConfig
from gateway.core.aggregates.areas import AreaSpec, Balance, Bays
from gateway.core.aggregates.calendar import Calendar
from gateway.core.aggregates.gates import Counters
from gateway.core.aggregates.hours import Hours
from gateway.core.aggregates.periods import Plan
from gateway.core.city import City, Collector, State, Subject, Turn
from gateway.core.follow import Follow, Follower
from gateway.core.model import Event, Node
from gateway.core.rules.faults import FaultPlan, Faults
from gateway.core.rules.limits import Limits, units

AREA_INTERVAL_S = 3600
NOTHING = Follow()


class WithoutRules(City):
    """Follows nothing. Every subject in the notes of a configuration with rules has gone by this one, so its alarms end.

    Where there are no such notes it costs one look for them after a start or a reload.
    """

    def __init__(self, registry: Mapping[int, Node], whole: bool = True) -> None:
        stages = (Hours(Plan(Calendar(UTC), {})), Faults(FaultPlan()), Limits((), {}))
        super().__init__({}, stages, settle_s=0, whole=whole)
        self._registry = registry

    def follow(self, node: Node, event: Event) -> Follow:
        return NOTHING

    def _former(self, key: str, state: State) -> Subject:
        node = None if key.startswith("@") else self._registry.get(int(key))
        return super()._former(key, state) if node is None else self._subject_of(node)

    def _leave(self, turn: Turn, state: State) -> None:
        super()._leave(turn, state)
        if turn.subject.node is not None:  # it is there, and what is published of it, too
            for stage in self.stages:
                stage.replan(turn, state.get(stage.name) or {})


def build(config: RulesConfig | None, nodes: Mapping[int, Node], whole: bool = True) -> tuple[Follower, ...]:
    """Return the followers of a gateway; without rules the one that ends what rules of before have raised.

    whole: False where the rules lack some of those before, and it is not known whether that is meant: what those have raised stays up.
    """
    if config is None:
        return (WithoutRules(nodes, whole),)
    names = [n.name for n in nodes.values()]

    def of(kind: str) -> list[AreaSpec]:
        return [a for a in config.areas if a.kind == kind]

    collectors: list[Collector] = []
    if of("bays"):
        collectors.append(Bays(of("bays"), names))
    if of("counters"):
        collectors.append(Counters(of("counters"), config.plan.calendar))
    if of("balance"):
        collectors.append(Balance(of("balance"), {n.name: n.visibility for n in nodes.values()}))
    areas = {a.name: Subject(f"@{a.name}", a.name, "", a.visibility, AREA_INTERVAL_S) for a in config.areas}
    belongs = {n: found for n in names if (found := frozenset(a.name for a in config.areas if a.has(n)))}
    stages = (Hours(config.plan), Faults(config.faults), Limits(config.rules, units()))
    return (City(nodes, stages, collectors, areas, belongs, config.settle_s, whole=whole, plan=config.plan.text),)

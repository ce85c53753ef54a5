"""Builds what follows from readings, out of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.rules import RulesConfig
from gateway.core.aggregates.areas import AreaSpec, Balance, Bays
from gateway.core.aggregates.gates import Counters
from gateway.core.aggregates.hours import Hours
from gateway.core.city import City, Collector, Subject
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

    def __init__(self, whole: bool = True) -> None:
        super().__init__({}, (Faults(FaultPlan()), Limits((), {})), settle_s=0, whole=whole)

    def follow(self, node: Node, event: Event) -> Follow:
        return NOTHING


def build(config: RulesConfig | None, nodes: Mapping[int, Node], whole: bool = True) -> tuple[Follower, ...]:
    """Return the followers of a gateway; without rules the one that ends what rules of before have raised.

    whole: False where the rules lack some of those before, and it is not known whether that is meant: what those have raised stays up.
    """
    if config is None:
        return (WithoutRules(whole),)
    names = [n.name for n in nodes.values()]

    def of(kind: str) -> list[AreaSpec]:
        return [a for a in config.areas if a.kind == kind]

    collectors: list[Collector] = []
    if of("bays"):
        collectors.append(Bays(of("bays"), names))
    if of("counters"):
        collectors.append(Counters(of("counters"), config.plan.calendar))
    if of("balance"):
        collectors.append(Balance(of("balance"), names))
    areas = {a.name: Subject(f"@{a.name}", a.name, "", a.visibility, AREA_INTERVAL_S) for a in config.areas}
    belongs = {n: found for n in names if (found := frozenset(a.name for a in config.areas if a.has(n)))}
    stages = (Hours(config.plan), Faults(config.faults), Limits(config.rules, units()))
    return (City(nodes, stages, collectors, areas, belongs, config.settle_s, whole=whole),)

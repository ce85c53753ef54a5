"""What a run came to, in numbers: made from the world's books at the end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from host_sim import expect, operator, wear
from host_sim.collect import Books
from host_sim.fleet import Fleet
from host_sim.probe import Probe, window
from host_sim.provision import HOUR_US, Member
from host_sim.scenario import Scenario
from host_sim.truth import delivered_hash, quantity

START_S = 90  # boot, the first answer with the time, the first sample of slow sensors
LATE = 0.02  # of the rows: sensors that are late or fail, clocks that are set forward
HANDICAPPED = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. Readings count (row x quantity); times s; airtime ms; bytes are LoRa payload bytes, both
    directions; bytes_per_reading divides them by the readings that LoRa nodes delivered.

    lost: sampled readings that did not arrive, evicted ones included. with_power: readings that power cuts took before they were on flash, within what the
    configuration leaves unwritten (stage_every, rows of a sleeping node's report); not among sampled. resent: readings that came again under their id after the gateway was
    killed; any other repeat is a duplicate. peak_outbox: frames, erases_per_day: flash blocks per powered day, both of the node with most. wear_exceeded: nodes above their budget
    (wear.py). unsampled: nodes with fewer rows than their rhythm demands, that left sensors out, ended boots with an error, have a sensor that does not work at
    the end, or were bitten by the watchdog, which [expect] does not name. injected: faults by kind, and how often each was met. misdated: rows of the future that were taken though the gateway had been right for hours. shed: nodes that
    leave sensors out at the end. alarms_up: those that no one has cleared. unmet: what the scenario's [expect] and [[command]] demand and the backend did not see. commands: states, sends and duration of each.
    """

    scenario: str
    seed: int
    nodes: int
    virtual_s: float
    wall_s: float
    sampled: int
    delivered: int
    lost: int
    with_power: int
    duplicates: int
    resent: int
    frames: int
    bytes_on_air: int
    bytes_per_reading: float
    airtime_ms: int
    alarms: int
    result_hash: str
    drain_s: float
    boots: int
    power_cuts: int
    resets: dict[str, int]
    frames_down: int
    frames_wifi: int
    wifi_unanswered: int
    collisions: int
    lossy: int
    too_weak: int
    duty_violations: list[str]
    downlinks_refused: dict[str, int]
    gateway_refusals: dict[str, int]
    unaccounted: int
    peak_outbox: int
    erases_per_day: float
    wear_budget: float
    wear_exceeded: list[str]
    unmet: list[str]
    commands: dict[str, Any]
    unsampled: list[str]
    injected: dict[str, int]
    misdated: int
    shed: int
    alarms_up: list[str]
    at_repl: list[str]
    per_node: dict[str, dict[str, Any]]
    lost_examples: list[str]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def assemble(
    plan: Scenario,
    seed: int,
    members: Sequence[Member],
    fleet: Fleet,
    books: Books,
    probe: Probe,
    *,
    end: int,
    drained: int,
    wall_s: float,
) -> Result:
    """The Result of a run whose nodes have ended. end, drained: virtual us."""
    truth, rows = probe.truth, probe.rows
    delivered, known = dict(books.readings), truth.readings
    missing = truth.missing(delivered)
    lora, gone = {n.spec.name for n in fleet.nodes if n.spec.link == "lora"}, set(missing)
    by_lora = sum(1 for k in known if k[0] in lora and k not in gone)
    stats = fleet.air.stats
    resets, refused = Counter[str](), Counter[str]()
    for node in fleet.nodes:
        resets.update(node.stats.resets)
    for receiver in fleet.receivers:
        refused.update(receiver.refused)
    commands, missed = operator.outcome(plan, books, truth.end)
    resent = books.resent if any(g.kill for g in plan.gateway_down) else 0
    worn = {n.spec.name: wear.per_day(n.stats.erases, n.spec.powered_us(end)) for n in fleet.nodes}
    budget = {m.spec.name: _wear_budget(m) for m in members if m.spec.flash}
    kinds = {n.spec.name: n.stats.resets for n in fleet.nodes}
    injected = _injected(plan, fleet, end)
    return Result(
        scenario=plan.name,
        seed=seed,
        nodes=len(fleet.nodes),
        virtual_s=end / 1e6,
        wall_s=round(wall_s, 2),
        sampled=len(known),
        delivered=len(known) - len(missing),
        lost=len(missing),
        with_power=probe.with_power,
        duplicates=books.repeats - resent,
        resent=resent,
        frames=stats.frames,
        bytes_on_air=stats.bytes,
        bytes_per_reading=round(stats.bytes / by_lora, 2) if by_lora else 0.0,
        airtime_ms=round(stats.airtime_us / 1000),
        alarms=books.alarms,
        result_hash=delivered_hash(fleet.air.log.digest(), delivered, truth.end),
        drain_s=drained / 1e6,
        boots=sum(n.stats.boots for n in fleet.nodes),
        power_cuts=sum(n.stats.cuts for n in fleet.nodes),
        resets=dict(resets),
        frames_down=stats.down_frames,
        frames_wifi=sum(n.stats.wifi_frames for n in fleet.nodes),
        wifi_unanswered=fleet.bridge.unanswered if fleet.bridge else 0,
        collisions=stats.collisions,
        lossy=stats.faded,
        too_weak=stats.weak,
        duty_violations=stats.duty_violations,
        downlinks_refused=dict(refused),
        gateway_refusals=dict(books.rejects),
        unaccounted=sum(1 for k in delivered if k not in known and k[2] < truth.end and k[0] in rows),
        peak_outbox=max(n.stats.peak_outbox for n in fleet.nodes),
        erases_per_day=max(worn.values()),
        wear_budget=round(min(budget.values(), default=0.0), 1),
        wear_exceeded=[
            n.spec.name
            for n in fleet.nodes
            if n.spec.flash
            and worn[n.spec.name] > budget[n.spec.name]
            and n.spec.powered_us(end) >= wear.JUDGED_FROM_US
        ],
        unmet=[*expect.unmet(plan.expect, members, books, delivered, truth.end, kinds), *missed],
        commands=commands,
        unsampled=unsampled(plan, members, fleet, rows, end)
        + expect.unforeseen(plan.expect, members, books, {c.node for c in plan.commands}),
        injected=injected,
        misdated=probe.misdated,
        shed=sum(bool(books.ladder(n.spec.name)[1]) for n in fleet.nodes),
        alarms_up=sorted(books.active_alarms),
        at_repl=[f"{n.spec.name}: {n.ended}" for n in fleet.nodes if n.ended is not None],
        per_node={
            n.spec.name: {
                "profile": n.spec.profile,
                "rows": rows[n.spec.name],
                "erases_per_day": worn[n.spec.name],
                **dataclasses.asdict(n.stats),
                **_told(books, n.spec.name),
            }
            for n in fleet.nodes
        },
        lost_examples=[f"{n} {q} {t}" for n, q, t in sorted(missing)[:5]],
    )


def promised(m: Member, row_s: int, end: int) -> float:
    """Rows that a node's power cuts leave: of each stretch of power those that were written before the cut (stage_every; in mode `sleep` whole reports), and
    of every start but the first nothing for START_S."""
    every, stretches = window(m.group), m.spec.stretches_us(end)
    total = 0.0
    for i, length in enumerate(stretches):
        rows = max(0.0, length / 1e6 - START_S * (i > 0)) / row_s
        total += rows if i == len(stretches) - 1 else int(rows) // every * every
    return total


def unsampled(plan: Scenario, members: Sequence[Member], fleet: Fleet, rows: Mapping[str, int], end: int) -> list[str]:
    """Sentences. Rows may be missing at every reset of a node, those that a power cut takes (promised()), and LATE of them besides; events have a heartbeat every report_s. A node that
    [expect] names is to take half of its rows with the sensors that are left."""
    found: list[str] = []
    nodes = {n.spec.name: n for n in fleet.nodes}
    for m in members:
        node, group = nodes[m.spec.name], m.group
        named = [set(table) & {m.spec.name, group.name} for table in (plan.expect.shed, plan.expect.resets)]
        wdt = node.stats.resets.get("wdt", 0)
        if wdt and not named[1]:
            found.append(f"{m.spec.name}: {wdt} bites of the watchdog")
        if group.profile == "parking":
            row_s = group.report_s + group.sample_s
        else:
            row_s = group.config.get("row_s", group.row_s) or group.sample_s
        share = HANDICAPPED if any(named) else 1 - LATE
        wanted = share * promised(m, row_s, end) - 3 - 2 * sum(node.stats.resets.values())
        if rows[m.spec.name] < wanted:
            found.append(f"{m.spec.name}: {rows[m.spec.name]} rows, at least {round(wanted)} are due")
    return found


def _injected(plan: Scenario, fleet: Fleet, end: int) -> dict[str, int]:
    """Kind of fault -> how often it was met, or (power, the gateway's clock, chips) how often it began before the end; only kinds that the
    scenario plans for the nodes and hours that were played."""
    hours = end / HOUR_US
    found = Counter[str]({f.kind: 0 for f in plan.radio_faults if f.from_h < hours})
    for node in fleet.nodes:
        found.update(node.stats.injected)
        for what, kind, start, _ in node.spec.hw.get("faults", ()):
            if what not in ("radio", "adc") and start < end:
                found[f"{what} {kind}"] += 1
    if any(cut.at < end for node in fleet.nodes for cut in node.spec.cuts):
        found["power_cut"] = sum(n.stats.cuts for n in fleet.nodes)
    if began := sum(c.from_h < hours for c in plan.gateway_clock):
        found["gateway_clock"] = began
    return dict(sorted(found.items()))


def _wear_budget(member: Member) -> float:
    return wear.budget(member.spec.flash, member.group.config.get("outbox_kb", wear.OUTBOX_KB))


def _told(books: Books, name: str) -> dict[str, Any]:
    """What the backend knows of a node's troubles."""
    level, ids = books.ladder(name)
    return {
        "ladder_level": level,
        "ladder_highest": max((n for n, _ in books.ladders.get(name, ())), default=0),
        "shed": [quantity(i) for i in ids],
        "exceptions": books.exceptions.get(name, []),
        "faults": sorted(books.faults.get(name, ())),
        "rows_lost": books.status.get(name, {}).get("rows_lost", 0),
    }

"""What the core tells of a district: every profile's reports, alarms, status and silence, through the real decision."""

from __future__ import annotations

import random
from collections.abc import Iterator

from motewire import codes
from motewire.quantities import EXPONENT, HIGHEST, ID, LOWEST, OFFSET, QUANTITIES
from motewire.schemas import SCHEMAS

from gateway.core.decide import decide, goes_offline, introduce
from gateway.core.model import Event, Node, NodeState, Radio, Reception
from gateway.core.receive import Header, parse
from gateway.crypto import opener
from tests.gateway.world import T0, Mote

PROFILES = {"air_quality": 3, "noise": 2, "water_meter": 4, "parking": 12, "bin_fill": 6, "weather": 1, "strange": 3}
ROWS = {str(row[ID]): row for row in QUANTITIES}


def district(visibility: str = "open") -> dict[int, Node]:
    """One node of every profile, and one that nobody gave a place."""
    nodes = [
        Node(300 + i, f"{profile.replace('_', '-')}-1", bytes([i]) * 16, profile=profile, interval_s=600, lat=45.54 + i / 1000, lon=13.73,
             visibility=visibility, area=("centre",) if i % 2 else ())
        for i, profile in enumerate(PROFILES)
    ]  # fmt: skip
    nodes.append(Node(320, "nowhere-1", bytes(16), profile="air_quality", visibility=visibility))
    return {n.id: n for n in nodes}


def raw(quantity: int, rng: random.Random, beyond: bool = False) -> int:
    """A raw value inside the quantity's valid range, or just outside it."""
    row = ROWS[str(quantity)]
    scale, offset = 10 ** -int(row[EXPONENT]), int(row[OFFSET])
    low, high = round(row[LOWEST] * scale) - offset, round(row[HIGHEST] * scale) - offset
    return high + 1 if beyond else rng.randint(low, min(high, low + (1 << 20)))


def events(node: Node, seed: int = 1) -> Iterator[Event]:
    """Yield what is told of one node."""
    rng, mote, state = random.Random(seed), Mote(node.id, node.key), NodeState()
    ids = SCHEMAS[PROFILES.get(node.profile, 3)]
    is_bay = node.profile == "parking"

    def report(t: int, beyond: bool = False) -> bytes:
        rows = [[raw(q, rng, beyond) for q in ids] for _ in range(3)]
        rows[1] = [None if rng.random() < 0.3 and len(row) > 1 else v for row in (rows[1],) for v in row]
        return mote.report(t, rows, schema=PROFILES.get(node.profile, 3), interval=0 if is_bay else 60)

    overtaken = report(T0 + 60)
    frames = [
        mote.status({1: 5, 2: 1, 3: 1, 5: "0.1.0", 12: 371}, long=True),
        *(report(T0 + 600 * n) for n in range(4)),
        overtaken,
        report(T0 + 4000, beyond=True),
        mote.alarm(codes.ALARM_ABOVE, T0 + 1, ids[0], 181, 150),
        mote.alarm(codes.ALARM_ABOVE, T0 + 2, ids[0], 190, 150),
        mote.alarm(codes.ALARM_CLEARED, T0 + 3, ids[0], 140, 150),
        mote.alarm(codes.ALARM_FAULT, T0 + 4, ids[-1], None),
        mote.alarm(codes.ALARM_EVENT, T0 + 5, ids[-1], 1),
        mote.status({1: 77, 2: 1, 3: 2, 6: 40000, 14: "OSError", 16: [9, 8, 7, 6], 18: -35}),
    ]
    told = introduce(node, state, T0)
    assert told is not None and told.event is not None
    yield told.event
    for n, data in enumerate(frames):
        header = parse(data)
        assert isinstance(header, Header)
        lora = Radio(868_100_000, 7, 125_000, "4/5", 1) if n % 3 else None
        rx = Reception(data, T0 + 5000.25 + n, "lora", "aa", -80 if lora else None, 7.0 if lora else None, lora)
        decision = decide(node, state, header, rx, opener)
        state = decision.state
        assert decision.event is not None
        yield decision.event
    offline = goes_offline(node, state, T0 + 9000.5)
    assert offline.event is not None
    yield offline.event

"""The registry only grows, says units that others know, and every quantity and payload is described for those who read them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cbor2
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from motewire import codes, frame
from motewire.batch import MAX_COLUMNS, MAX_VALUE
from motewire.quantities import QUANTITIES, ids_of
from motewire.schemas import SCHEMAS

from gateway.core.authorise import Policy, Role
from gateway.core.commands import Desk
from gateway.core.decide import decide, goes_offline, introduce
from gateway.core.model import Aggregate, AggregateValue, Area, Event, Node, NodeState, Radio, Reception
from gateway.core.normalise import quantity_of
from gateway.core.receive import Header, parse
from gateway.core.registry import ABOUT, LANGUAGES, VISIBILITIES, label, strictest
from gateway.core.value import replace
from gateway.crypto import opener
from gateway.outputs import FORMATS
from gateway.outputs.message import Known
from gateway.outputs.ngsi_ld import CORE
from gateway.outputs.records import records
from gateway.outputs.senml import primary
from gateway.schemas import FOLDER, documents, schema
from gateway.schemas import SCHEMAS as PAYLOADS
from tests.gateway.told import district
from tests.gateway.told import events as district_events
from tests.gateway.world import T0, Mote

VECTORS = Path(__file__).parents[1] / "vectors"
RELEASED = sorted(VECTORS.glob("registry-*.json"))

# Units that SenML does not have, as UCUM writes them (The Unified Code for Units of Measure, case sensitive form)
UCUM = {"ppb": "[ppb]", "l/h": "l/h", "bar": "bar", "1": "1", "uT": "uT", "1/cm3": "1/cm3"}


def senml_units() -> dict[str, dict[str, str]]:
    lines = [line for line in (VECTORS / "senml_units.csv").read_text().splitlines() if not line.startswith("#")]
    return {row["unit"]: row for row in csv.DictReader(lines)}


def complaints(released: dict[str, Any], quantities: Any, schemas: Any) -> list[str]:
    """How a registry breaks the promise of a release: every line is still there, unchanged and in its place."""
    out = [
        f"quantity {line[0]} was {line} and is {now}"
        for line, now in zip(
            released["quantities"], [*map(list, quantities), *[None] * len(released["quantities"])], strict=False
        )
        if line != now
    ]
    for number, ids in released["schemas"].items():
        if list(schemas.get(int(number), ())) != ids:
            out.append(f"schema {number} was {ids} and is {schemas.get(int(number))}")
    return out


@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_what_was_released_is_still_there(path: Path) -> None:
    assert complaints(json.loads(path.read_text()), QUANTITIES, SCHEMAS) == []


def test_there_is_a_release() -> None:
    assert [json.loads(p.read_text())["release"] for p in RELEASED] == list(range(1, len(RELEASED) + 1)) != []


def test_any_change_of_a_released_line_is_seen() -> None:
    released = json.loads(RELEASED[-1].read_text())
    assert complaints(released, (*QUANTITIES, (99, "new", "1", 0, 0, 0, 1)), {**SCHEMAS, 99: (1,)}) == []
    for column in range(7):
        changed = [list(q) for q in QUANTITIES]
        changed[3][column] = "other"
        assert len(complaints(released, changed, SCHEMAS)) == 1
    assert complaints(released, QUANTITIES[:-1], SCHEMAS)
    assert complaints(released, QUANTITIES[1:], SCHEMAS)
    assert complaints(released, QUANTITIES, {**SCHEMAS, 3: (4, 5, 6, 1, 2)}) and complaints(released, QUANTITIES, {})


def test_ids_and_keys_are_unique_and_fit_the_wire() -> None:
    ids, keys = [q[0] for q in QUANTITIES], [q[1] for q in QUANTITIES]
    assert len(set(ids)) == len(ids) and len(set(keys)) == len(keys)
    assert all(0 < i < 256 and i != 23 for i in ids)  # 256 * n + id is instance n; 23 is reserved
    assert ids_of(keys) == tuple(ids)
    for number, columns in SCHEMAS.items():
        assert number >= 0 and 1 <= len(columns) <= MAX_COLUMNS and set(columns) <= set(ids), number
        assert len(set(columns)) == len(columns)
    assert len(set(SCHEMAS.values())) == len(SCHEMAS)


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda q: q[1])
def test_each_quantity_has_a_known_unit_a_scale_and_a_range_that_fit(row: tuple[Any, ...]) -> None:
    _, _, unit, exponent, offset, low, high = row
    assert unit in senml_units() or unit in UCUM
    assert isinstance(exponent, int) and -6 <= exponent <= 6 and isinstance(offset, int)
    assert low < high
    for bound in (low, high):
        raw = Fraction(bound) / Fraction(10) ** exponent - offset
        assert raw.denominator == 1 and abs(raw) <= MAX_VALUE, f"{bound} is no raw value of {row[1]}"


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda q: q[1])
def test_senml_gets_primary_units_by_the_factors_of_the_registry(row: tuple[Any, ...]) -> None:
    table, unit = senml_units(), quantity_of(row[0]).unit
    value, name = primary(50.0, unit)
    assert name is None or table[name]["kind"] == "primary"
    if unit in table and table[unit]["kind"] == "secondary":
        line = table[unit]
        assert name == line["primary_unit"]
        assert value == pytest.approx(
            float(Fraction(50) * Fraction(line["scale"]) + Fraction(line["offset"])), rel=1e-9
        )


def test_every_quantity_is_described_in_three_languages() -> None:
    assert set(ABOUT) == {q[1] for q in QUANTITIES}, "one line in gateway/core/registry.py per quantity"
    for key, about in ABOUT.items():
        assert about.visibility in VISIBILITIES and about.method, key
        assert all(getattr(about, language).strip() for language in LANGUAGES), key
    for language in LANGUAGES:
        names = [getattr(about, language) for about in ABOUT.values()]
        assert len(set(names)) == len(names)
    assert ABOUT["water_volume"].visibility == ABOUT["water_flow"].visibility == "personal"


def test_labels_and_visibility() -> None:
    assert label("pm25", "sl") == "delci PM2,5" and label("humidity", "it") == "umidità relativa"
    assert label("temperature-1", "en") == "temperature 2" and label("q99", "en") == "q99"
    assert strictest("open", "personal") == "personal" and strictest("restricted", "open") == "restricted"
    with pytest.raises(ValueError, match="none of sl, it, en"):
        label("pm25", "de")


def test_generated_documents_are_those_in_the_repository() -> None:
    """Regenerate with `python -m gateway.schemas` and commit what changed."""
    found = {p.name: p.read_text(encoding="utf-8") for p in FOLDER.glob("*.json")}
    assert found == documents()


def test_schemas_are_schemas() -> None:
    for name in PAYLOADS:
        Draft202012Validator.check_schema(schema(name))
        assert schema(name)["$id"] == f"urn:citymote:v1:{name}"


def strict(value: Any) -> Any:
    """A schema that also refuses members it does not describe: readers must bear those, we must describe them."""
    if isinstance(value, list):
        return [strict(v) for v in value]
    if not isinstance(value, dict):
        return value
    out = {k: strict(v) for k, v in value.items()}
    if value.get("type") == "object" and "properties" in value and "oneOf" not in value:
        out.setdefault("unevaluatedProperties", False)
    return out


def validator(name: str) -> Draft202012Validator:
    document = schema(name)
    if name in ("senml", "senml-cbor"):
        document["$defs"]["record"]["additionalProperties"] = False
    elif name != "event":  # a status event carries whatever the node says
        document = strict(document)
    return Draft202012Validator(document, format_checker=FormatChecker())


NODE = Node(
    263, "aq-01", bytes(range(16)), interval_s=600, profile="air_quality", lat=45.54, lon=13.73, visibility="open"
)


def events() -> Iterator[Event]:
    """What the core tells of frames of every type and of silence, through the real decision."""
    mote, state = Mote(NODE.id, NODE.key), NodeState()
    frames = [
        mote.report(T0, [[3, 5, 5, 231, 631, 121], [None, 2000, 9, -800, 631, None]]),
        *(mote.report(T0 + 60 * n, [[i + 1 for i in range(len(ids))]] * 3, schema=n) for n, ids in SCHEMAS.items()),
        mote.report(T0, [[1], [0], [1]], schema=12, interval=0),
        mote.seal(frame.REPORT, bytes.fromhex("84820519ffff1a6955b90008820507")),  # explicit list, an unknown quantity
        mote.seal(frame.REPORT, bytes.fromhex("8518631a6955b900080140")),  # unknown schema: kept raw
        mote.seal(frame.STATUS, b"\xff"),
        *(mote.alarm(code, T0 + code, 5, 181, 150) for code in range(1, 7)),
        mote.alarm(codes.ALARM_ABOVE, T0, 5, 181, 150),
        mote.alarm(codes.ALARM_FAULT, T0 + 9, 3, None),
        mote.status(
            {1: 77, 2: 1, 3: 2, 5: "0.1.0", 6: 40000, 7: 3, 9: -80, 12: 371, 13: 0, 14: "OSError", 99: [1, {2: b"x"}]}
        ),
        mote.status({4: {20: [5, 6]}}),
        mote.status(
            {
                15: 6,
                16: [9, 8, 7, 6],
                17: -12,
                18: -35,
                19: [1, 4],
                20: [7, 2, "ok"],
                21: "b",
                22: "7: no answer",
                23: 1,
            }
        ),
    ]
    told = introduce(NODE, state, T0)
    assert told is not None and told.event is not None
    yield told.event
    for data in frames:
        header = parse(data)
        assert isinstance(header, Header)
        rx = Reception(data, T0 + 700.25, "lora", "aa", -80, 7.0, Radio(868_100_000, 7, 125_000, "4/5", 1))
        decision = decide(NODE, state, header, rx, opener)
        state = decision.state
        if decision.event is not None:
            yield decision.event
            yield replace(decision.event, rssi=None, snr=None)
    offline = goes_offline(NODE, state, T0 + 9000.5)
    assert offline.event is not None
    yield offline.event
    yield from asked()


def request(name: str, args: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "id": f"{name}-1",
        "name": name,
        "args": args if isinstance(args, dict) else list(args),
        "requester": "ana",
        **more,
    }


def asked() -> Iterator[Event]:
    """Steps of commands as the desk makes them, and refusals; what it takes is valid by the schema of requests."""
    desk = Desk({NODE.id: NODE}, Policy({"ana": (Role("all", ("*", "valve")),)}))
    later = "2026-01-01T00:10:00Z"
    for body in (
        request("identify", [30], expires=later, reason="where is it?"),
        request("valve", ["close"], expires="2026-01-01T01:10:00+01:00", reason="leak"),
        request("limit", {"q": "pm10", "above": 50}),
        request("identify", [30], expires=later),
    ):
        validator("command").validate(body)
        follow, judged = desk.request("ana", "aq-01", json.dumps(body).encode(), T0 + 0.25)
        assert judged in ("accepted", "again")
        yield from follow.events
    for who, node, body in (
        ("eve", "aq-01", b"{"),
        ("ana", "aq-99", b"{"),
        ("ana", "aq-99", json.dumps(request("reboot")).encode()),
    ):
        yield from desk.request(who, node, body, T0)[0].events
    for number in range(3):
        offer = desk.offer(NODE, 200, T0 + 5 + number, (0, 5))
        assert offer is not None
        yield from offer.follow.events
    yield from desk.tick(T0 + 90_000).events


def leaf(form: str, topic: str) -> str:
    """Which schema a message of a format is of."""
    if form != "native":
        return form
    levels = topic.split("/")
    if levels[2] == "gw":
        return f"gateway-{levels[4]}"
    made = {"q": "native-q", "agg": "aggregate", "lot": "area-lot", "balance": "area-balance"}
    return made.get(kind := levels[5 if levels[2] == "cmd" else 4], kind)


def of_the_store() -> Iterator[Event]:
    """What a store says of itself."""
    gap = {"reason": "size_limit", "events": 3, "alarms": 0, "since": T0, "until": T0 + 9.5, "outputs": ["city"]}
    for status in (gap, {"reason": "disk_full"}):
        yield Event("store", f"store:{status['reason']}:1", 0, "gw-1", "open", T0 + 9.0, 0, status=status)


def test_all_that_the_formats_say_is_valid() -> None:
    seen: dict[str, int] = {}
    validators = {name: validator(name) for name in PAYLOADS}
    nodes = {NODE.id: NODE, **district()}
    told = (
        lot(),
        lot(),
        *of_the_store(),
        balance(True),
        balance(False),
        aggregate(True),
        aggregate(False),
        *events(),
        *(e for node in district().values() for e in district_events(node)),
    )
    for e in told:
        for row in records(e, nodes):
            validators["record"].validate({k: v for k, v in row.items() if v is not None})
            seen["record"] = seen.get("record", 0) + 1
        for form, messages in FORMATS.items():
            for m in messages(e, "city", Known("gw-1", nodes)):
                name = leaf(form, m.topic)
                if name == "state":
                    assert m.payload in (b"online", b"offline")
                elif m.payload:
                    validators[name].validate(plain(form, m.payload))
                    seen[name] = seen.get(name, 0) + 1
    assert (
        seen.keys() == PAYLOADS.keys() - {"gateway-info", "gateway-health", "mark", "reject", "command"}
        and min(seen.values()) >= 2
    ), seen


def lot() -> Event:
    body = {"capacity": 4, "occupied": 3, "free": 1, "unknown": 0}
    return Event("area", "303:0:7:city:lot", 0, "centre", "open", T0 + 9.0, 600, area=Area("centre", "lot", T0, body))


def balance(latest: bool) -> Event:
    body = {
        "start": T0,
        "unit": "l",
        "meters": 3,
        "capture": 100.0,
        "revision": 2,
        "inflow": 9.5,
        "outflow": 9,
        "balance": 0.5,
    }
    area = Area("zone", "balance", T0 + 3600, body, latest)
    return Event("area", "303:0:8:city:balance", 0, "zone", "restricted", T0 + 9.0, 600, area=area)


def aggregate(latest: bool) -> Event:
    values = (AggregateValue("pm10", "ug/m3", 12.5, 100.0), AggregateValue("temperature", "Cel", None, 33.3))
    made = Aggregate("hour", T0, T0 + 3600, 1, latest, values)
    return Event("aggregate", "303:0:9:city:agg", NODE.id, NODE.name, "open", T0 + 9.0, 600, aggregates=(made,))


LABELS = {-2: "bn", -3: "bt", 0: "n", 1: "u", 2: "v", 6: "t"}  # RFC 8428 table 4


def plain(form: str, payload: bytes) -> Any:
    if form == "senml-cbor":
        return [{LABELS.get(k, k): v for k, v in record.items()} for record in cbor2.loads(payload)]
    return json.loads(payload)


def test_gateway_info_and_rejects_are_valid() -> None:
    """Bodies as gateway/service.py and gateway/pipeline.py make them; the process tests see them on a broker."""
    info = {
        "version": "0.1.0",
        "started": "2026-01-01T00:00:00Z",
        "nodes": 3,
        "counters": {"frames": 1},
        "formats": ["native", "senml"],
    }
    validator("gateway-info").validate(info)
    for body in ({"node": "aq-01"}, {"node_id": 7}, {}):
        validator("reject").validate({"reason": "bad_tag", "link": "lora", "t": "2026-01-01T00:00:00.250Z", **body})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("native-q", {"v": "8", "u": "ug/m3", "t": "2026-01-01T00:00:00Z", "q": "ok", "until": "2026-01-01T00:00:00Z", "rx": "2026-01-01T00:00:00Z"}),
        ("native-q", {"v": 8, "u": "furlong", "t": "2026-01-01T00:00:00Z", "q": "ok", "until": "2026-01-01T00:00:00Z", "rx": "2026-01-01T00:00:00Z"}),
        ("native-q", {"v": 8, "u": "dB", "t": "2026-01-01 00:00", "q": "ok", "until": "2026-01-01T00:00:00Z", "rx": "2026-01-01T00:00:00Z"}),
        ("command", {"id": "a b", "name": "reboot", "requester": "ana"}),
        ("command", {"id": "a", "name": "reboot"}),
        ("command", {"id": "a", "name": "reboot", "requester": "ana", "args": [1.5]}),
        ("command", {"id": "a", "name": "valve", "requester": "ana", "args": ["close"], "reason": "leak"}),
        ("command", {"id": "a", "name": "valve", "requester": "ana", "args": ["close"], "reason": "x", "expires": "2026-01-01T00:00:00Z"}),
        ("ack", {"event": "1:0:commands:1:1", "node": "aq-01", "state": "lost", "t": "2026-01-01T00:00:00Z"}),
        ("senml", []),
        ("senml", [{"n": "pm10", "v": 1}]),
        ("senml", [{"bn": "urn:dev:ops:citymote-a:", "bt": T0, "id": "1:0:2", "n": "pm10", "u": "ug/m3", "v": 1}]),
        ("alert", {"code": "cleared", "severity": "warning", "quantity": "pm10", "unit": "ug/m3", "since": "2026-01-01T00:00:00Z", "t": "2026-01-01T00:00:00Z"}),
        ("event", {"id": "1:0:2:0", "event": "party", "t": "2026-01-01T00:00:00Z", "rx": "2026-01-01T00:00:00Z"}),
        ("meta", {"id": 1, "name": "a/b", "profile": "x", "interval": 60, "visibility": "open", "quantities": {}}),
        ("senml-cbor", [{"bn": "urn:dev:ops:citymote-a:", "bt": T0, "id": "1:0:2", "n": "pm10", "u": "ug/m3", "v": 1}]),
        ("ngsi-ld", {"id": "urn:ngsi-ld:Device:a", "type": "Device", "@context": ["x", CORE], "name": "a"}),
        ("ngsi-ld", {"id": "urn:ngsi-ld:Device:a", "type": "Device", "@context": ["x", CORE], "rssi": {"type": "Property", "value": 1, "unitCode": "dBm"}}),
        ("ngsi-ld", {"id": "urn:ngsi-ld:Device:a", "type": "Device", "@context": ["x", "y"], "name": {"type": "Property", "value": "a"}}),
        ("ngsi-ld-concise", {"id": "urn:ngsi-ld:Device:a", "type": "Device", "@context": ["x", CORE], "rssi": {"type": "Property", "value": 1}}),
        ("ngsi-ld-keyvalues", {"id": "Device:a", "type": "Device", "@context": ["x", CORE], "name": "a"}),
        ("homeassistant", {"device": {"name": "a"}, "origin": {"name": "citymote"}, "components": {}}),
        ("record", {"id": "1:0:2:0:pm10", "node": "a", "t": "2026-01-01", "received": "2026-01-01T00:00:00Z", "quantity": "pm10", "unit": "ug/m3"}),
        ("reject", {"reason": "bad_tag", "link": "lora", "node": "a", "node_id": 1, "t": "2026-01-01T00:00:00Z"}),
    ],
)  # fmt: skip
def test_wrong_payloads_are_invalid(name: str, wrong: Any) -> None:
    assert not validator(name).is_valid(wrong)


FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
PRIVATE = re.compile(r"^_((?:ALARM|STATUS|DOWN|CONFIG|LADDER|COMMAND|EXT|TIME)_\w+) = const\((\d+)\)", re.M)


def test_private_copies_of_code_numbers_are_the_registered_ones() -> None:
    """The node keeps copies, because an imported number costs RAM and an inlined constant none."""
    seen = 0
    for path in sorted(FIRMWARE.rglob("*.py")):
        for name, number in PRIVATE.findall(path.read_text()):
            if hasattr(codes, name):
                seen += 1
                assert getattr(codes, name) == int(number), f"{path}: _{name}"
    assert seen > 60
    assert len(codes.CONFIG_NAMES) == codes.CONFIG_ALARM

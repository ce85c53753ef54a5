"""NGSI-LD: the simplified form is valid against the official Smart Data Models schemas, and the other forms say the same."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from gateway.config import Broker, MqttOutputConfig
from gateway.core.current import Current, Up
from gateway.core.model import Alarm, Area, Column, Event, Node
from gateway.core.shape import Shape
from gateway.core.value import replace
from gateway.outputs import FORMATS
from gateway.outputs.message import Known, Message
from gateway.outputs.ngsi_ld import CORE, OWN, concise, keyvalues, normalized
from gateway.outputs.ngsi_models import Attr, Entity
from gateway.outputs.retained import Tree, shape_of
from tests.gateway.told import district, events
from tests.gateway.world import T0

MODELS = Path(__file__).parents[1] / "vectors" / "smart-data-models"
NODES = district()
KNOWN = Known("gw-1", NODES)
ALIAS = "https://raw.githubusercontent.com/smart-data-models/dataModel.Environment/master/Environment-schema.json"
# UN/CEFACT Recommendation 20, common codes and what they mean (UNECE rec20)
REC20 = {
    "GQ": "ug/m3",
    "CEL": "degree Celsius",
    "C62": "one",
    "A97": "hPa",
    "2N": "dB",
    "LTR": "litre",
    "MTQ": "cubic metre",
    "DBM": "dBm",
}
URI = re.compile(r"urn:ngsi-ld:[A-Za-z]+:[A-Za-z0-9_.-]+")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


FORMAT = FormatChecker()


@FORMAT.checks("date-time", ValueError)
def is_date_time(text: object) -> bool:
    """RFC 3339 in UTC, as the models' notes demand; jsonschema itself checks it with a further package only."""
    return not isinstance(text, str) or (TIME.fullmatch(text) is not None and datetime.fromisoformat(text) is not None)


@FORMAT.checks("uri")
def is_uri(text: object) -> bool:
    """RFC 3986 scheme and something behind it, without spaces."""
    return not isinstance(text, str) or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+", text) is not None


@cache
def official() -> tuple[Registry[Any], dict[str, dict[str, Any]]]:
    """All schemas under the URLs by which they refer to each other, and the models by type."""
    resources, models = [], {}
    for file in sorted(MODELS.rglob("*.json")):
        document = json.loads(file.read_text())
        resources.append((document["$id"], Resource.from_contents(document)))
        if file.name == "schema.json":
            models[file.parent.name] = document
        elif file.name == "Environment-schema.json":
            resources.append((ALIAS, Resource.from_contents(document)))
    return Registry().with_resources(resources), models


def names_of(document: dict[str, Any]) -> set[str]:
    """Every property that a schema, or a definition it refers to, knows."""
    registry, _ = official()
    found: set[str] = set()

    def look(node: Any, resolver: Any) -> None:
        found.update(node.get("properties", ()))
        for part in node.get("allOf", ()):
            if "$ref" in part:
                resolved = resolver.lookup(part["$ref"])
                look(resolved.contents, resolved.resolver)
            else:
                look(part, resolver)

    look(document, registry.resolver(document["$id"]))
    return found


def check(entity: dict[str, Any]) -> None:
    """Validate the simplified form of an entity, names included."""
    registry, models = official()
    document = models[entity["type"]]
    Draft202012Validator(document, registry=registry, format_checker=FORMAT).validate(entity)
    strange = set(entity) - names_of(document) - {"@context"} - set(OWN)
    assert not strange, f"{entity['type']} has no {strange}"


LOT = Event(
    "area", "303:0:7:city:lot", 0, "centre", "open", T0 + 9.0, 600,
    area=Area("centre", "lot", T0, {"capacity": 40, "occupied": 33, "free": 6, "unknown": 1}),
)  # fmt: skip


def told() -> Iterator[Event]:
    for seed in range(5):
        for node in NODES.values():
            yield from events(node, seed)
        yield LOT


def say(form: str, e: Event) -> list[Message]:
    return FORMATS[form](e, "city", KNOWN)


def test_the_schemas_refuse_what_is_wrong() -> None:
    """The judge itself: without this a schema that accepts anything would pass."""
    good = {
        "id": "urn:ngsi-ld:AirQualityObserved:a", "type": "AirQualityObserved", "dateObserved": "2026-01-01T00:00:00Z",
        "location": {"type": "Point", "coordinates": [13.7, 45.5]}, "relativeHumidity": 0.5,
    }  # fmt: skip
    check(good)
    for wrong in (
        {"relativeHumidity": 50},
        {"dateObserved": "2026-01-01 00:00"},
        {"pm10": -1},
        {"location": {"type": "Point"}},
        {"id": "a b"},
    ):
        with pytest.raises(Exception, match="."):
            check({**good, **wrong})
    with pytest.raises(AssertionError, match="typeOfLocation"):
        check({**good, "typeOfLocation": "outdoor"})


def test_every_entity_is_valid_against_its_official_schema() -> None:
    seen: Counter[str] = Counter()
    for e in told():
        for m in say("ngsi-ld-keyvalues", e):
            if not m.payload:
                continue
            entity = json.loads(m.payload)
            check(entity)
            assert m.topic == f"city/v1/ngsi-ld/{entity['type']}/{entity['id'].split(':', 3)[3]}"
            seen[entity["type"]] += 1
    assert set(seen) == {
        "AirQualityObserved", "NoiseLevelObserved", "SmartMeteringObservation", "WaterConsumptionObserved", "ParkingSpot", "WasteContainer",
        "WeatherObserved", "Device", "Alert", "OnStreetParking",
    } and min(seen.values()) >= 5, seen  # fmt: skip


def test_every_name_is_in_the_context_it_points_at() -> None:
    for e in told():
        for m in say("ngsi-ld", e):
            if not m.payload:
                continue
            entity = json.loads(m.payload)
            *subjects, core = entity["@context"]
            assert core == CORE, "the core context comes last"
            terms: set[str] = {"id", "type", "@context", "name", "location"}
            for context in subjects:
                if isinstance(context, dict):
                    terms |= set(context)
                else:
                    repository = context.split("/smart-data-models/")[1].split("/")[0]
                    terms |= set(json.loads((MODELS / repository / "context.jsonld").read_text())["@context"])
            assert set(entity) <= terms, (entity["type"], set(entity) - terms)


def attribute(name: str, a: dict[str, Any]) -> Any:
    """Check one normalized attribute and return its bare value."""
    if a["type"] == "Relationship":
        assert set(a) == {"type", "object"}
        for uri in a["object"] if isinstance(a["object"], list) else [a["object"]]:
            assert URI.fullmatch(uri), uri
        return a["object"]
    assert set(a) <= {"type", "value", "unitCode", "observedAt"}, a
    assert (a["type"] == "GeoProperty") == (name == "location")
    assert "unitCode" not in a or a["unitCode"] in REC20
    assert "observedAt" not in a or TIME.fullmatch(a["observedAt"])
    return a["value"]


def expanded(a: Any) -> dict[str, Any]:
    """Read a concise attribute as ETSI GS CIM 009 section 4.5.17 says."""
    if isinstance(a, dict):
        if "object" in a:
            return {"type": "Relationship", **a}
        if a.get("type") == "Point":
            return {"type": "GeoProperty", "value": a}
        if "value" in a:
            return {"type": "Property", **a}
    return {"type": "Property", "value": a}


def test_the_three_forms_say_the_same() -> None:
    for e in told():
        forms = [say(f, e) for f in ("ngsi-ld", "ngsi-ld-concise", "ngsi-ld-keyvalues")]
        assert len({tuple((m.topic, m.retain, m.newest, bool(m.payload)) for m in form) for form in forms}) == 1
        for full, short, bare in zip(*forms, strict=True):
            if not full.payload:
                continue
            a, b, c = json.loads(full.payload), json.loads(short.payload), json.loads(bare.payload)
            plain = {"id", "type", "@context"}
            assert {k: a[k] for k in plain} == {k: b[k] for k in plain} == {k: c[k] for k in plain}
            assert {k: attribute(k, v) for k, v in a.items() if k not in plain} == {
                k: v for k, v in c.items() if k not in plain
            }
            assert {k: expanded(v) for k, v in b.items() if k not in plain} == {
                k: v for k, v in a.items() if k not in plain
            }


def test_entities_are_stable_and_never_step_back() -> None:
    newest: dict[str, float] = {}
    for node in NODES.values():
        for e in events(node):
            for m in say("ngsi-ld", e):
                if m.retain and "/Device/" not in m.topic and "/Alert/" not in m.topic:
                    assert m.newest is not None and m.newest > newest.get(m.topic, 0), "late data are history"
                    newest[m.topic] = m.newest
    names = [t.removeprefix("city/v1/ngsi-ld/") for t in newest]
    assert sorted(names) == [
        "AirQualityObserved/air-quality-1", "NoiseLevelObserved/noise-1", "ParkingSpot/parking-1", "SmartMeteringObservation/water-meter-1",
        "WasteContainer/bin-fill-1", "WaterConsumptionObserved/water-meter-1", "WeatherObserved/weather-1",
    ]  # fmt: skip


def entity_of(e: Event, kind: str, nodes: Mapping[int, Node] = NODES) -> dict[str, Any]:
    found = [
        json.loads(m.payload)
        for m in FORMATS["ngsi-ld"](e, "city", Known("gw-1", nodes))
        if f"/{kind}/" in m.topic and m.payload
    ]
    assert len(found) == 1
    return found[0]


def test_values_are_converted_to_what_the_models_want() -> None:
    e = Event("report", "300:0:7", 300, "air-quality-1", "open", T0 + 100.25, 600, 7)
    air = replace(
        e, times=(T0, T0 + 60), latest=((0, 1), (1, 1), (2, 0)),
        columns=(Column("humidity", "%RH", (40.0, 63.1)), Column("pm10", "ug/m3", (1, 8)), Column("pressure", "hPa", (1012.1, None), (0,))),
    )  # fmt: skip
    found = entity_of(air, "AirQualityObserved")
    assert found["relativeHumidity"] == {
        "type": "Property",
        "value": 0.631,
        "unitCode": "C62",
        "observedAt": "2026-01-01T00:01:00Z",
    }
    assert found["pm10"]["value"] == 8 and found["location"]["value"]["coordinates"] == [13.73, 45.54]
    assert "pressure" not in found, "a value outside its range is not told"
    assert found["refDevice"]["object"] == "urn:ngsi-ld:Device:air-quality-1"
    meter = replace(
        e,
        node=302,
        name="water-meter-1",
        times=(T0,),
        columns=(Column("water_volume", "l", (123456.7,)),),
        latest=((0, 0),),
    )
    assert entity_of(meter, "SmartMeteringObservation")["totalConsumption"]["value"] == 123456.7
    assert entity_of(meter, "WaterConsumptionObserved")["waterConsumption"]["value"] == 123
    bay = replace(
        e,
        node=303,
        name="parking-1",
        times=(T0, T0 + 9),
        columns=(Column("occupied", "1", (1, 0)),),
        latest=((0, 1),),
        occurrences=True,
    )
    found = entity_of(bay, "ParkingSpot")
    assert (
        found["status"]["value"] == "free" and found["refParkingSite"]["object"] == "urn:ngsi-ld:OnStreetParking:centre"
    )
    lot = entity_of(LOT, "OnStreetParking")
    assert [lot[k]["value"] for k in ("totalSpotNumber", "availableSpotNumber", "occupiedSpotNumber")] == [40, 6, 33]
    assert lot["id"] == found["refParkingSite"]["object"]
    noise = replace(
        e,
        node=301,
        name="noise-1",
        times=(T0, T0 + 60),
        columns=(Column("laeq", "dB", (50.1, 52.0)),),
        latest=((0, 1),),
    )
    found = entity_of(noise, "NoiseLevelObserved")
    assert [found[k]["value"] for k in ("dateObservedFrom", "dateObservedTo")] == [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:01:00Z",
    ]


@pytest.mark.parametrize("one", ["a", "a-b", "a-b-c"])
def test_no_two_alerts_have_one_id(one: str) -> None:
    """Names of nodes and of rules both contain what used to stand between them."""
    found = Counter[str]()
    for name, rules in (("a", ("b-c", "b", "c")), ("a-b", ("c", "b-c")), (one, ("x",)), ("a-b-c", ("b",))):
        for rule in rules:
            alarm = Alarm("raised", "above", "warning", "pm10", "ug/m3", 9, 8, T0, T0, (rule,))
            e = Event("alarm", "1", 300, name, "open", T0, 600, alarm=alarm)
            node = replace(NODES[300], name=name)
            (m,) = FORMATS["ngsi-ld"](e, "city", Known("gw-1", {300: node}))
            found[json.loads(m.payload)["id"]] += 1
            assert m.topic == f"city/v1/ngsi-ld/Alert/{name}:{rule}"
    assert set(found.values()) == {1} and len(found) == 7


def test_alerts_under_the_ids_of_before_are_emptied() -> None:
    """A shape that was noted by an older gateway had another character between node and rule."""
    new = shape_of(MqttOutputConfig("city", Broker("127.0.0.1", 1), formats=("ngsi-ld",)), "1")
    stored = {f.name: getattr(new, f.name) for f in fields(new) if f.name != "between"}
    old = msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=Shape)
    up = Up(Alarm("raised", "above", "warning", "pm10", "ug/m3", 9, 8, T0, T0, ()), T0, 0)
    c = Current(visibility="open", alerts={"pm10-above": up})
    trees = [Tree(shape, "gw-1", NODES).desired("300", c) for shape in (old, new)]
    assert old != new and [[*tree] for tree in trees] == [
        ["city/v1/ngsi-ld/Alert/air-quality-1-pm10-above"],
        ["city/v1/ngsi-ld/Alert/air-quality-1:pm10-above"],
    ]


def test_an_alert_that_ends_is_told_once_more_and_its_topic_cleared() -> None:
    found = [
        m
        for e in events(NODES[300])
        for m in say("ngsi-ld", e)
        if m.topic == "city/v1/ngsi-ld/Alert/air-quality-1:pm1-above"
    ]
    assert [(m.retain, bool(m.payload)) for m in found] == [(True, True), (True, True), (False, True), (True, False)]
    raised, _, ended, _ = found
    assert (
        "validTo" not in json.loads(raised.payload)
        and json.loads(ended.payload)["validTo"]["value"] == "2026-01-01T00:00:03Z"
    )


def test_a_property_that_is_an_object_stays_readable_in_concise() -> None:
    entity = Entity("Alert", "a", "dataModel.Alert", 0, {"data": Attr("Property", {"value": 5, "type": "Point"})})
    assert concise(entity)["data"] == {"value": {"value": 5, "type": "Point"}}
    assert normalized(entity)["data"] == {"type": "Property", "value": {"value": 5, "type": "Point"}}
    assert keyvalues(entity)["data"] == {"value": 5, "type": "Point"}

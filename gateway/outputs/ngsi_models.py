"""What an event says in the words of the Smart Data Models: entities with attributes, before any spelling of NGSI-LD.

One stable entity per node and type, updated in place: an entity holds what is newer than anything told before, never late data.
Values outside their valid range are left out, since these models have no place for a doubt. A model that demands a location is not
told of a node without one. Units are UN/CEFACT Recommendation 20 codes; ratios are 0..1 as the models want them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gateway.core.current import Current, Device
from gateway.core.model import Alarm, Area, Event, Node
from gateway.core.shape import middle
from gateway.core.value import replace
from gateway.outputs.message import Known, iso

TYPES = (
    "AirQualityObserved", "Alert", "Device", "NoiseLevelObserved", "OnStreetParking", "ParkingSpot", "SmartMeteringObservation", "WasteContainer",
    "WaterConsumptionObserved", "WeatherObserved",
)  # fmt: skip
PROPERTY, GEO, RELATIONSHIP = "Property", "GeoProperty", "Relationship"


class Attr(NamedTuple):
    """One attribute: a Property's value with unit and time, a GeoProperty's GeoJSON, or the URI a Relationship points at."""

    kind: str
    value: Any
    unit: str | None = None
    t: float | None = None


class Entity(NamedTuple):
    """One entity. subject: repository of its model. t: newest time it speaks of. ended: it is no longer current state."""

    type: str
    local: str
    subject: str
    t: float
    attrs: Mapping[str, Attr]
    ended: bool = False

    @property
    def id(self) -> str:
        """Its URI."""
        return urn(self.type, self.local)


class Reading(NamedTuple):
    """The newest value of a quantity; from_t: where its row began."""

    value: float
    t: float
    from_t: float


def urn(kind: str, local: str) -> str:
    """Return the URI of an entity."""
    return f"urn:ngsi-ld:{kind}:{local}"


def entities(e: Event, known: Known) -> list[Entity]:
    """Return the entities an event changes; of nodes that are not in the registry only the alerts that end."""
    if e.area is not None:
        return [] if e.alarm is not None else _lot(e.area, known)
    node = known.nodes.get(e.node)
    if e.alarm is not None and e.alarm.state == "cleared":
        # an alarm ends under the name it was raised under, also when the node has another one by now or has left the registry
        node = replace(node, name=e.name) if node is not None else Node(e.node, e.name, b"")
    if node is None:
        return []
    found = []
    if e.kind == "report":
        readings = _readings(e, node)
        for model in _MODELS.get(node.profile, ()):
            entity = model(node, readings)
            if entity is not None:
                found.append(entity)
    if e.meta is not None or e.online is not None or e.status is not None:
        found += _device(e, node)
    if e.alarm is not None:
        found += _alerts(e.alarm, node, known)
    return found


def whole(c: Current, node: Node, known: Known) -> list[Entity]:
    """Return a node's entities from its facts, with every attribute that has ever been measured and was valid."""
    readings = {key: Reading(v.value, v.t, v.t - v.step) for key, x in c.values.items() if (v := x.valid) is not None}
    found = [entity for model in _MODELS.get(node.profile, ()) if (entity := model(node, readings)) is not None]
    if c.device is not None:
        found += _device_whole(c.device, node)
    for rule, up in c.alerts.items():
        found += _alerts(replace(up.alarm, rules=(rule,)), node, known)
    return found


def lots(c: Current, known: Known) -> list[Entity]:
    """Return an area's entities from its facts."""
    return [entity for gathered in c.areas.values() for entity in _lot(gathered.area, known)]


def _readings(e: Event, node: Node) -> dict[str, Reading]:
    step = e.times[1] - e.times[0] if len(e.times) > 1 and not e.occurrences else node.interval_s
    found = {}
    for c, row in e.latest:
        column, t = e.columns[c], e.times[row]
        value = column.values[row]
        if value is not None and row not in column.suspect:
            found[column.key] = Reading(value, t, t - step)
    return found


def _properties(readings: Mapping[str, Reading], names: Mapping[str, tuple[str, str, float]]) -> dict[str, Attr]:
    """names: quantity -> (attribute, unit code, divisor)."""
    found = {}
    for key, (name, unit, divisor) in names.items():
        if key in readings:
            r = readings[key]
            found[name] = Attr(PROPERTY, r.value if divisor == 1 else round(r.value / divisor, 6), unit, r.t)
    return found


def _place(node: Node) -> dict[str, Attr]:
    if node.lat is None or node.lon is None:
        return {}
    return {"location": Attr(GEO, {"type": "Point", "coordinates": [node.lon, node.lat]})}


def _device_of(node: Node) -> Attr:
    return Attr(RELATIONSHIP, urn("Device", node.name))


def _area(node: Node) -> dict[str, Attr]:
    return {"areaServed": Attr(PROPERTY, node.area[0])} if node.area else {}


def _newest(readings: Mapping[str, Reading], names: Mapping[str, Any]) -> float:
    return max(readings[key].t for key in names if key in readings)


_AIR = {
    "pm1": ("pm1", "GQ", 1), "pm25": ("pm25", "GQ", 1), "pm10": ("pm10", "GQ", 1), "no2": ("no2", "GQ", 1), "o3": ("o3", "GQ", 1),
    "temperature": ("temperature", "CEL", 1), "humidity": ("relativeHumidity", "C62", 100), "pressure": ("pressure", "A97", 1),
}  # fmt: skip


def _air_quality(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    values = _properties(readings, _AIR)
    if not values or node.lat is None:
        return None
    t = _newest(readings, _AIR)
    attrs = {
        "dateObserved": Attr(PROPERTY, iso(t)),
        **_place(node),
        **values,
        **_area(node),
        "refDevice": _device_of(node),
    }
    return Entity("AirQualityObserved", node.name, "dataModel.Environment", t, attrs)


_NOISE = {
    "laeq": ("LAeq", "2N", 1), "lafmax": ("LAmax", "2N", 1), "la10": ("LA10", "2N", 1), "la50": ("LA50", "2N", 1), "la90": ("LA90", "2N", 1),
}  # fmt: skip


def _noise(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    values = _properties(readings, _NOISE)
    if not values or node.lat is None:
        return None
    t = _newest(readings, _NOISE)
    began = min(readings[key].from_t for key in _NOISE if key in readings)
    attrs = {
        "dateObservedFrom": Attr(PROPERTY, iso(began)), "dateObservedTo": Attr(PROPERTY, iso(t)), **_place(node), **values,
        "refDevice": _device_of(node),
    }  # fmt: skip
    return Entity("NoiseLevelObserved", node.name, "dataModel.Environment", t, attrs)


def _metering(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    """Litres; WaterConsumptionObserved has whole cubic metres only."""
    volume = readings.get("water_volume")
    if volume is None:
        return None
    attrs = {
        "meterType": Attr(PROPERTY, "Water"), "totalConsumption": Attr(PROPERTY, volume.value, "LTR", volume.t), **_place(node),
        "refDevice": _device_of(node),
    }  # fmt: skip
    return Entity("SmartMeteringObservation", node.name, "dataModel.Device", volume.t, attrs)


def _water(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    volume = readings.get("water_volume")
    if volume is None:
        return None
    attrs = {"waterConsumption": Attr(PROPERTY, int(volume.value // 1000), "MTQ", volume.t), **_place(node)}
    return Entity("WaterConsumptionObserved", node.name, "dataModel.WaterConsumption", volume.t, attrs)


def _parking(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    """The lot is the node's first area; a bay without one belongs to the lot `unassigned`, since the model demands a site."""
    occupied = readings.get("occupied")
    if occupied is None or node.lat is None:
        return None
    attrs = {
        "status": Attr(PROPERTY, "occupied" if occupied.value else "free", None, occupied.t), "category": Attr(PROPERTY, ["onStreet"]),
        "refParkingSite": Attr(RELATIONSHIP, urn("OnStreetParking", node.area[0] if node.area else "unassigned")), **_place(node),
        "refDevice": Attr(RELATIONSHIP, [urn("Device", node.name)]), "timeInstant": Attr(PROPERTY, iso(occupied.t)),
    }  # fmt: skip
    return Entity("ParkingSpot", node.name, "dataModel.Parking", occupied.t, attrs)


def _lot(area: Area, known: Known) -> list[Entity]:
    """A car park's free places; it stands in the middle of its bays, and without a bay that has a place it is not told."""
    if area.name != "lot" or not area.latest:
        return []
    place = middle(n for n in known.nodes.values() if area.area in n.area)
    if place is None:
        return []
    lat, lon = place
    body, t = area.body, area.t
    attrs = {
        "totalSpotNumber": Attr(PROPERTY, body["capacity"], "C62", t), "availableSpotNumber": Attr(PROPERTY, body["free"], "C62", t),
        "occupiedSpotNumber": Attr(PROPERTY, body["occupied"], "C62", t), "outOfServiceSlotNumber": Attr(PROPERTY, body["unknown"], "C62", t),
        "occupancyDetectionType": Attr(PROPERTY, ["balancing" if "drift" in body else "singleSpaceDetection"]),
        "observationDateTime": Attr(PROPERTY, iso(t)), "location": Attr(GEO, {"type": "Point", "coordinates": [lon, lat]}),
    }  # fmt: skip
    return [Entity("OnStreetParking", area.area, "dataModel.Parking", t, attrs)]


_BIN = {"fill_level": ("fillingLevel", "C62", 100), "temperature": ("temperature", "CEL", 1)}
_UPRIGHT_DEG = 45  # the profile's own limit of its tilt alarm


def _bin(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    values = _properties(readings, _BIN)
    if not values or node.lat is None:
        return None
    t = _newest(readings, _BIN)
    tilt = readings.get("tilt")
    if tilt is not None:
        values["status"] = Attr(PROPERTY, "dropped" if tilt.value > _UPRIGHT_DEG else "ok", None, tilt.t)
    attrs = {
        **values,
        **_place(node),
        "binLoggedTime": Attr(PROPERTY, iso(t)),
        "refDevice": Attr(RELATIONSHIP, [urn("Device", node.name)]),
    }
    return Entity("WasteContainer", node.name, "dataModel.WasteManagement", t, attrs)


_WEATHER = {
    "temperature": ("temperature", "CEL", 1), "humidity": ("relativeHumidity", "C62", 100), "pressure": ("atmosphericPressure", "A97", 1),
}  # fmt: skip


def _weather(node: Node, readings: Mapping[str, Reading]) -> Entity | None:
    values = _properties(readings, _WEATHER)
    if not values or node.lat is None:
        return None
    t = _newest(readings, _WEATHER)
    attrs = {"dateObserved": Attr(PROPERTY, iso(t)), **_place(node), **values, "refDevice": _device_of(node)}
    return Entity("WeatherObserved", node.name, "dataModel.Weather", t, attrs)


# profile -> its models. A new profile is a line here (and one in _CONTROLS)
_MODELS: Mapping[str, tuple[Callable[[Node, Mapping[str, Reading]], Entity | None], ...]] = {
    "air_quality": (_air_quality,),
    "noise": (_noise,),
    "water_meter": (_metering, _water),
    "parking": (_parking,),
    "bin_fill": (_bin,),
    "weather": (_weather,),
}
_CONTROLS: Mapping[str, list[str]] = {
    "air_quality": ["airPollution", "temperature", "humidity", "atmosphericPressure"],
    "noise": ["noiseLevel"],
    "water_meter": ["waterConsumption", "waterFlow"],
    "parking": ["occupancy"],
    "bin_fill": ["fillingLevel", "temperature"],
    "weather": ["weatherConditions"],
}


def _device(e: Event, node: Node) -> list[Entity]:
    """What one event says of the device."""
    heard = e.kind not in ("meta", "offline")
    firmware = (e.meta or {}).get("firmware") or e.current_status.get("firmware")
    return _device_whole(
        Device(
            e.received, e.online is not False if heard or e.online is not None else None, e.received,
            e.received if heard else None, e.rssi, firmware if isinstance(firmware, str) else None,
        ),
        node,
    )  # fmt: skip


def _device_whole(d: Device, node: Node) -> list[Entity]:
    controls = _CONTROLS.get(node.profile)
    if controls is None:
        return []
    attrs = {
        "controlledProperty": Attr(PROPERTY, controls), "deviceCategory": Attr(PROPERTY, ["meter" if node.profile.endswith("_meter") else "sensor"]),
        "serialNumber": Attr(PROPERTY, str(node.id)), "name": Attr(PROPERTY, node.name), **_place(node),
    }  # fmt: skip
    if d.online is not None:
        attrs["deviceState"] = Attr(PROPERTY, "online" if d.online else "offline", None, d.online_at)
    if d.heard is not None:
        attrs["dateLastValueReported"] = Attr(PROPERTY, iso(d.heard))
    if d.rssi is not None:
        attrs["rssi"] = Attr(PROPERTY, d.rssi, "DBM", d.heard)
        attrs["supportedProtocol"] = Attr(PROPERTY, ["lora"])
    if d.firmware is not None:
        attrs["firmwareVersion"] = Attr(PROPERTY, d.firmware)
    return [Entity("Device", node.name, "dataModel.Device", d.at, attrs)]


_SEVERITY = {"fault": "low", "preventive": "medium", "warning": "high", "emergency": "critical"}
_AIR_POLLUTION = ("pm1", "pm25", "pm10", "no2", "o3")


def _alerts(a: Alarm, node: Node, known: Known) -> list[Entity]:
    """One entity per rule; a cleared one says until when it was true, and is no longer current state."""
    cleared = a.state == "cleared"
    data = {
        k: v
        for k, v in (("quantity", a.quantity), ("value", a.value), ("limit", a.limit), ("unit", a.unit))
        if v is not None
    }
    attrs = {
        "alertSource": Attr(RELATIONSHIP, urn("Device", node.name)), "category": Attr(PROPERTY, "environment"),
        "dateIssued": Attr(PROPERTY, iso(a.since)), "validFrom": Attr(PROPERTY, iso(a.since)),
        "severity": Attr(PROPERTY, _SEVERITY[a.severity]), "data": Attr(PROPERTY, data, None, a.t), **_place(node),
    }  # fmt: skip
    if a.quantity.partition("-")[0] in _AIR_POLLUTION:
        attrs["subCategory"] = Attr(PROPERTY, "airPollution")
    if cleared:
        attrs["validTo"] = Attr(PROPERTY, iso(a.t))
    found = []
    for rule in a.rules:
        words = {**attrs, "description": Attr(PROPERTY, f"{rule} at {node.name}" + (" has ended" if cleared else ""))}
        found.append(Entity("Alert", f"{node.name}{known.between}{rule}", "dataModel.Alert", a.t, words, cleared))
    return found

"""JSON Schemas (draft 2020-12) of everything the gateway publishes, generated from the registry; see README.md.

`python -m gateway.schemas` writes them beside this file. Version 1 is the `v1` of the topics: a change that breaks a reader is a
new version beside it; new optional members are not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motewire.quantities import EXPONENT, HIGHEST, ID, KEY, LOWEST, OFFSET, QUANTITIES, UNIT
from motewire.shapes import MAX_ARGUMENTS

from gateway.core.authorise import MAX_REASON, VALVE_REASONS
from gateway.core.normalise import quantity_of
from gateway.core.orders import VALVE
from gateway.core.registry import ABOUT, LANGUAGES, VISIBILITIES
from gateway.outputs.ngsi_models import TYPES
from gateway.outputs.senml import primary
from gateway.schemas import formats
from gateway.store.engine import REASONS

FOLDER = Path(__file__).parent
VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"
HEALTH_UNITS = (
    "s",
    "count",
    "B",
    "dBm",
    "V",
    "dB",
    "Cel",
    "ppm",
)  # units of a status frame's values; some are quantities' too

TIME = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{3})?Z$",
    "description": "RFC 3339, UTC",
}
KEY_NAME = {
    "type": "string",
    "pattern": "^[a-z0-9_-]{1,32}$",
    "description": "quantity key; -1, -2 ... are further instances",
}
NODE_NAME = {"type": "string", "pattern": "^[a-z0-9_-]{1,32}$"}
NUMBER = {"type": "number"}
OWNER = {
    "type": "string",
    "description": "gateway that published it, which alone empties it; not said by gateways of before there was this member",
}
NGSI_TYPES = sorted(TYPES)
FRAME_ID = {
    "type": "string",
    "pattern": "^[0-9]+:([0-9]+:)?[0-9]+$",
    "description": "<node id>:<key epoch>:<counter>, the same at every repeat and of no other frame; without the epoch in what was "
    "spooled by a gateway that did not write it yet",
}
QUALITY = {
    "enum": ["ok", "suspect"],
    "description": "suspect: outside the quantity's valid range, or a time that cannot be: ahead of receipt, or older than an outbox holds",
}


EVENT_ID = {
    "type": "string",
    "pattern": r"^[0-9]+:[0-9]+:[0-9]+:[0-9]+$|^(@?[a-z0-9_-]+):[a-z0-9_:-]+:[0-9]+$",
    "description": "<node id>:<key epoch>:<counter>:<nth>; of what the gateway concluded: <node id>:<key epoch>:<counter>:city:<rule>:<nth>, "
    "by the clock "
    "<node id or @area>:<rule>:<unix>:<nth>",
}
ALARM_CODES = ("above", "below", "rise", "fault", "offline", "stuck", "stale", "sensor", "battery", "forecast")
CAPTURE = {"type": "number", "minimum": 0, "maximum": 100, "description": "share of the period that is known, percent"}
REVISION = {"type": "integer", "minimum": 1, "description": "a higher one replaces a lower one of the same period"}


def _units() -> list[str]:
    published = {quantity_of(int(q[ID])).unit for q in QUANTITIES}
    rates = {f"{u}/min" for u in published}  # of rules for a rate of rise
    return sorted({*published, *rates, *HEALTH_UNITS, "", "d"})


def _senml_units() -> list[str]:
    found = {primary(1.0, quantity_of(int(q[ID])).unit)[1] for q in QUANTITIES}
    return sorted(u for u in found if u is not None)


def _unit() -> dict[str, Any]:
    return {"enum": _units(), "description": "empty: a quantity that the registry does not know, raw"}


def _object(title: str, properties: dict[str, Any], required: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": properties, "required": list(required), **more}


def native_q() -> dict[str, Any]:
    """Newest value of one quantity."""
    return _object(
        "Newest value of a quantity (retained): <root>/v1/node/<node>/q/<quantity>",
        {"v": NUMBER, "u": _unit(), "t": TIME, "q": QUALITY, "until": TIME, "rx": TIME},
        ("v", "u", "t", "q", "until", "rx"),
    )


def senml() -> dict[str, Any]:
    """A SenML pack."""
    record = {
        "bn": {"type": "string", "pattern": "^urn:dev:ops:citymote-[a-z0-9_-]{1,32}:$"},
        "bt": {"type": "integer", "minimum": 1 << 28, "description": "Unix seconds of the first row"},
        "id": FRAME_ID,
        "n": KEY_NAME,
        "u": {"enum": _senml_units(), "description": "SenML primary unit; absent where SenML has none"},
        "t": {"type": "integer", "description": "seconds after bt"},
        "v": NUMBER,
        "q": {"const": "suspect"},
    }
    later = {"not": {"anyOf": [{"required": [k]} for k in ("bn", "bt", "id")]}}
    return {
        "title": "All samples of a report as a SenML pack (RFC 8428): <root>/v1/node/<node>/senml",
        "type": "array",
        "minItems": 1,
        "prefixItems": [{"$ref": "#/$defs/record", "required": ["bn", "bt", "id"]}],
        "items": {"$ref": "#/$defs/record", **later},
        "$defs": {"record": _object("record", record, ("n", "v"))},
    }


def _alarm_members() -> dict[str, Any]:
    return {
        "code": {"enum": ["cleared", "event", *ALARM_CODES]},
        "severity": {"enum": ["fault", "preventive", "warning", "emergency"]},
        "quantity": KEY_NAME,
        "value": NUMBER,
        "limit": NUMBER,
        "unit": _unit(),
        "since": TIME,
        "t": TIME,
        "reference": {"type": "string", "description": "law or protocol behind the limit"},
        "text": _object("what people are told", {k: {"type": "string"} for k in LANGUAGES}, LANGUAGES),
        "visibility": {"enum": list(VISIBILITIES)},
        "q": {
            "const": "suspect",
            "description": "the value is outside its valid range, or the node's clock could not be right",
        },
    }


def alert() -> dict[str, Any]:
    """An alarm that is up."""
    members = _alarm_members()
    members["code"] = {"enum": list(ALARM_CODES)}
    members["gw"] = OWNER
    return _object(
        "An alarm while it is up (retained; an empty payload clears it): <root>/v1/node/<node>/alert/<rule>, .../area/<area>/alert/<rule>",
        members,
        ("code", "severity", "quantity", "unit", "since", "t"),
    )


def event() -> dict[str, Any]:
    """Something that happened once."""
    occurrence = {"quantity": KEY_NAME, "v": NUMBER}
    return {
        "title": "What happened at a node or in an area, told once: <root>/v1/node/<node>/event, <root>/v1/area/<area>/event",
        "type": "object",
        "properties": {
            "id": EVENT_ID,
            "event": {"type": "string"},
            "t": TIME,
            "rx": TIME,
        },
        "required": ["id", "event", "t", "rx"],
        "oneOf": [
            _object(
                "change of state",
                {"event": {"enum": ["arrival", "departure", "change"]}, **occurrence},
                ("quantity", "v"),
            ),
            _object(
                "alarm",
                {
                    "event": {"enum": [f"alarm_{s}" for s in ("raised", "updated", "cleared", "event", "late")]},
                    "rule": KEY_NAME,
                    **_alarm_members(),
                },
                ("code", "severity", "quantity", "unit", "since"),
            ),
            _object(
                "status frame",
                {"event": {"enum": ["reboot", "status"]}},
                (),
                description="further members: values of the status frame; stale: names of those that a newer frame told before",
            ),
        ],
    }


def aggregate() -> dict[str, Any]:
    """What a closed period was."""
    value = _object(
        "value; v is absent when too little is known", {"v": NUMBER, "u": _unit(), "capture": CAPTURE}, ("u", "capture")
    )
    return _object(
        "What a closed period was, start < t <= end (the newest is retained): <root>/v1/node/<node>/agg/<name>; older ones when late "
        "rows changed them: .../agg/<name>/revised",
        {
            "start": TIME,
            "end": TIME,
            "revision": REVISION,
            "values": {"type": "object", "propertyNames": KEY_NAME, "additionalProperties": value, "minProperties": 1},
            "version": {"type": "string", "description": "of the index: whose breakpoints"},
            "class": {"type": "string", "description": "of the index"},
            "classes": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
            "worst": {"type": "string", "description": "pollutant that decides the index"},
            "partial": {"type": "boolean", "description": "pollutants that the index needs are not measured"},
            "rx": TIME,
        },
        ("start", "end", "revision", "values", "rx"),
        additionalProperties=False,
    )


def area_lot() -> dict[str, Any]:
    """Free places of a car park."""
    places = {"type": "integer", "minimum": 0}
    return _object(
        "Free places of a car park (retained): <root>/v1/area/<area>/lot",
        {
            "t": TIME,
            "capacity": places,
            "occupied": places,
            "free": places,
            "unknown": {**places, "description": "bays that are silent or were never heard"},
            "drift": {"type": "integer", "description": "sum of the corrections of a lot with counters"},
            "rx": TIME,
            "gw": OWNER,
        },
        ("t", "capacity", "occupied", "free", "unknown", "rx"),
        additionalProperties=False,
    )


def area_balance() -> dict[str, Any]:
    """An hour's water balance."""
    return _object(
        "Water balance of an hour (the newest is retained): <root>/v1/area/<area>/balance, and .../balance/revised",
        {
            "t": {**TIME, "description": "end of the hour"},
            "start": TIME,
            "unit": {"const": "l"},
            "meters": {"type": "integer", "minimum": 0},
            "capture": CAPTURE,
            "revision": REVISION,
            "inflow": NUMBER,
            "outflow": NUMBER,
            "balance": {**NUMBER, "description": "inflow less outflow; absent unless every meter is known"},
            "rx": TIME,
            "gw": OWNER,
        },
        ("t", "start", "unit", "meters", "capture", "revision", "rx"),
        additionalProperties=False,
    )


def meta() -> dict[str, Any]:
    """What a node is."""
    return _object(
        "What a node is (retained): <root>/v1/node/<node>/meta",
        {
            "id": {"type": "integer", "minimum": 1, "maximum": (1 << 32) - 2},
            "name": NODE_NAME,
            "profile": {"type": "string"},
            "interval": {"type": "integer", "minimum": 1, "description": "seconds between reports"},
            "visibility": {"enum": list(VISIBILITIES)},
            "quantities": {"type": "object", "propertyNames": KEY_NAME, "additionalProperties": _unit()},
            "location": _object(
                "GeoJSON point, WGS 84",
                {
                    "type": {"const": "Point"},
                    "coordinates": {
                        "type": "array",
                        "prefixItems": [
                            {"type": "number", "minimum": -180, "maximum": 180},
                            {"type": "number", "minimum": -90, "maximum": 90},
                        ],
                        "items": False,
                        "minItems": 2,
                    },
                },
                ("type", "coordinates"),
            ),
            "area": {
                "type": "array",
                "items": NODE_NAME,
                "minItems": 1,
                "description": "names of the areas it belongs to",
            },
            "firmware": {"type": "string", "maxLength": 64},
            "health": {
                "type": "integer",
                "minimum": 1,
                "description": "seconds between its reports of how it is, when that is not 21600",
            },
            "gw": OWNER,
        },
        ("id", "name", "profile", "interval", "visibility", "quantities"),
    )


def gateway_info() -> dict[str, Any]:
    """What a gateway is."""
    return _object(
        "What a gateway is and has done (retained): <root>/v1/gw/<gw>/info",
        {
            "version": {"type": "string"},
            "instance": {
                "type": "string",
                "pattern": "^[0-9a-f]{16}$",
                "description": "random, of this process: two of them in turns are two gateways under one id",
            },
            "started": TIME,
            "nodes": {"type": "integer", "minimum": 0},
            "counters": {"type": "object"},
            "formats": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "store": _object(
                "how its store is: full takes alarms only; dropped counts events given up at the size limit",
                {
                    "state": {"enum": ["ok", "full", "closed"]},
                    "dropped": {"type": "integer", "minimum": 0},
                    "recovered": _object(
                        "the last recovery from a damaged file",
                        {
                            "at": TIME,
                            "why": {"type": "string"},
                            "damaged": {"type": "array", "items": {"type": "string"}},
                        },
                        ("at", "why", "damaged"),
                        description="further members: what was taken over",
                    ),
                },
                ("state", "dropped"),
            ),
        },
        ("version", "started", "nodes", "counters", "formats"),
    )


def gateway_event() -> dict[str, Any]:
    """What happened to a gateway's store."""
    return _object(
        "What happened to a gateway's store, before any backlog: <root>/v1/gw/<gw>/event",
        {
            "id": {"type": "string", "pattern": "^store:"},
            "event": {"enum": list(REASONS)},
            "t": TIME,
            "events": {"type": "integer", "minimum": 1, "description": "events that were given up"},
            "alarms": {"type": "integer", "minimum": 0, "description": "alarms among them"},
            "since": TIME,
            "until": TIME,
            "outputs": {"type": "array", "items": {"type": "string"}, "description": "those that had not taken them"},
            "tables": {"type": "array", "items": {"type": "string"}, "description": "tables that were damaged"},
        },
        ("id", "event", "t"),
        description="further members: what was taken over of a damaged store",
    )


def mark() -> dict[str, Any]:
    """What a broker remembers of what an output has published, and the question who hears what is published there."""
    kept = _object(
        "Everything retained up to here is in this broker's memory (retained)",
        {
            "store": {
                "type": "string",
                "pattern": "^[0-9a-f]{16}$",
                "description": "random name of the gateway's store",
            },
            "seq": {"type": "integer", "minimum": -1, "description": "number of an event; -1: not yet everything"},
            "generation": {"type": "integer", "minimum": -1, "description": "of registry and outputs"},
            "turn": {"type": "integer", "minimum": 1, "description": "connections of this output to this broker"},
        },
        ("store", "seq", "generation", "turn"),
    )
    probe = _object(
        "Published at every connect, to learn whether the topic can be read, and for another output's, to learn whether it is at this broker (never retained)",
        {"probe": {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "random; answered by nothing"}},
        ("probe",),
    )
    return {
        "title": "The mark of an output, or a probe: <root>/v1/gw/<gw>/mark/<output>. For the gateway itself.",
        "type": "object",
        "oneOf": [kept, probe],
    }


def gateway_health() -> dict[str, Any]:
    """What is wrong with a gateway."""
    problem = {
        "code": {"type": "string", "pattern": "^[a-z0-9_]+$", "description": "stable name of the problem"},
        "level": {"enum": ["degraded", "failing"]},
        "text": {"type": "string"},
        "next": {"type": "string", "minLength": 1, "description": "what to do"},
    }
    output = {
        "connected": {"type": "boolean"},
        "behind": {"type": "integer", "minimum": 0, "description": "events it has not taken"},
    }
    return _object(
        "How a gateway is (retained, at every change and every minute; also GET /health): <root>/v1/gw/<gw>/health",
        {
            "status": {"enum": ["ok", "degraded", "failing"], "description": "failing: frames are not taken"},
            "t": TIME,
            "until": {**TIME, "description": "older than this means that nobody renews it"},
            "uptime": {"type": "integer", "minimum": 0, "description": "seconds"},
            "problems": {"type": "array", "items": _object("problem", problem, tuple(problem))},
            "outputs": {
                "type": "object",
                "propertyNames": NODE_NAME,
                "additionalProperties": _object("output", output, tuple(output)),
            },
            "pending": {
                "type": "integer",
                "minimum": 0,
                "description": "frames that are decided but not committed yet",
            },
        },
        ("status", "t", "until", "uptime", "problems", "outputs", "pending"),
    )


def reject() -> dict[str, Any]:
    """Why a frame was refused."""
    return _object(
        "Why a frame was refused: <root>/v1/gw/<gw>/reject",
        {
            "reason": {"type": "string", "pattern": "^[a-z0-9_]+$"},
            "link": {"type": "string"},
            "node": NODE_NAME,
            "node_id": {
                "type": "integer",
                "description": "of a node that is not in the registry, or not shown at this output",
            },
            "detail": {
                "type": "string",
                "description": "what was sent where, and what is right, where no frame is known",
            },
            "t": TIME,
        },
        ("reason", "link", "t"),
        **{"not": {"required": ["node", "node_id"]}},
    )


COMMAND_ID = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_.:-]{1,64}$",
    "description": "the requester's own; the same id is executed once",
}
COMMAND_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,31}$"}
COMMAND_ARGS = {
    "description": "a list for commands of the node; an object for interval, limit and config",
    "oneOf": [
        {
            "type": "array",
            "maxItems": MAX_ARGUMENTS,
            "items": {
                "type": ["integer", "boolean", "null", "string"],
                "minimum": -(1 << 31),
                "maximum": (1 << 31) - 1,
            },
        },
        {"type": "object", "minProperties": 1},
    ],
}


def command() -> dict[str, Any]:
    """A request to a node."""
    return _object(
        "A request to a node, QoS 1, not retained: <root>/v1/cmd/<requester>/<node>; answers: ack.json",
        {
            "id": COMMAND_ID,
            "name": COMMAND_NAME,
            "args": COMMAND_ARGS,
            "requester": {**NODE_NAME, "description": "as in the topic"},
            "expires": {
                "type": "string",
                "format": "date-time",
                "description": "RFC 3339 with a time zone: must not begin later",
            },
            "reason": {
                "type": "string",
                "maxLength": MAX_REASON,
                "description": "for a valve one of " + ", ".join(VALVE_REASONS),
            },
        },
        ("id", "name", "requester"),
        additionalProperties=False,
        **{
            "if": {"properties": {"name": {"const": VALVE}}},
            "then": {"properties": {"reason": {"enum": list(VALVE_REASONS)}}, "required": ["expires", "reason"]},
        },
    )


def ack() -> dict[str, Any]:
    """A step of a command."""
    return _object(
        "A step of a command, told once: <root>/v1/node/<node>/ack, and to who asked <root>/v1/cmd/<requester>/<node>/ack",
        {
            "event": {
                "type": "string",
                "description": "<node id>:<key epoch>:commands:..., the same at every repeat of this message",
            },
            "node": NODE_NAME,
            "id": COMMAND_ID,
            "requester": NODE_NAME,
            "name": {"type": "string"},
            "args": {"type": ["array", "object"]},
            "reason": {"type": "string"},
            "state": {
                "enum": [
                    "accepted",
                    "queued",
                    "sent",
                    "done",
                    "failed",
                    "expired",
                    "refused",
                    "superseded",
                    "withdrawn",
                ]
            },
            "detail": {"type": "string", "description": "for people: what the node said, or why"},
            "error": {"type": "string", "pattern": "^[a-z_]+$", "description": "why the gateway refused it"},
            "number": {
                "type": "integer",
                "minimum": 1,
                "description": "the node's id of the command; absent when it was refused here",
            },
            "sends": {"type": "integer", "minimum": 0},
            "expires": TIME,
            "again": {
                "const": True,
                "description": "a known id was sent again: this is its state, nothing is executed",
            },
            "t": TIME,
        },
        ("event", "node", "state", "t"),
    )


SCHEMAS = {
    "command": command,
    "ack": ack,
    "native-q": native_q,
    "senml": senml,
    "alert": alert,
    "event": event,
    "aggregate": aggregate,
    "area-lot": area_lot,
    "area-balance": area_balance,
    "meta": meta,
    "gateway-info": gateway_info,
    "gateway-event": gateway_event,
    "gateway-health": gateway_health,
    "mark": mark,
    "reject": reject,
    **formats.SCHEMAS,
}


def schema(name: str) -> dict[str, Any]:
    """Return a complete schema document."""
    return {"$schema": DIALECT, "$id": f"urn:citymote:v{VERSION}:{name}", **SCHEMAS[name]()}


def registry() -> dict[str, Any]:
    """The quantities as a document for backends: how raw integers are read, ranges, and what people are told."""
    rows = [
        {
            "id": q[ID],
            "key": q[KEY],
            "unit": q[UNIT],
            "published_unit": quantity_of(int(q[ID])).unit,
            "exponent": q[EXPONENT],
            "offset": q[OFFSET],
            "range": [q[LOWEST], q[HIGHEST]],
            "method": (about := ABOUT[str(q[KEY])]).method,
            "visibility": about.visibility,
            "label": {language: getattr(about, language) for language in LANGUAGES},
        }
        for q in QUANTITIES
    ]
    return {"version": VERSION, "quantities": rows}


def documents() -> dict[str, str]:
    """File name -> text of everything that is generated."""
    found = {f"{name}.json": schema(name) for name in SCHEMAS} | {"registry.json": registry()}
    return {name: json.dumps(doc, indent=1, ensure_ascii=False) + "\n" for name, doc in found.items()}

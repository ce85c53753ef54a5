"""Schemas of the formats for other worlds: SenML-CBOR, NGSI-LD in three forms, Home Assistant discovery, rows of files and open data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gateway.schemas as s
from gateway.outputs.ngsi_ld import CORE
from gateway.outputs.records import COLUMNS

URI = {
    "type": "string",
    "pattern": r"^urn:ngsi-ld:[A-Za-z]+:[a-z0-9_-]+(:[a-z0-9_-]+)?$",
}  # an Alert is of a node, and a rule
POINT = {
    "type": "object",
    "properties": {
        "type": {"const": "Point"},
        "coordinates": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
    "required": ["type", "coordinates"],
}
URIS = {"oneOf": [URI, {"type": "array", "items": URI, "minItems": 1}]}
UNIT_CODE = {
    "enum": ["GQ", "CEL", "C62", "A97", "2N", "LTR", "MTQ", "DBM"],
    "description": "UN/CEFACT Recommendation 20",
}
VALUE = {"type": ["number", "string", "array", "object"]}


def senml_cbor() -> dict[str, Any]:
    """The pack of `senml`, as it reads when integer labels have their names."""
    told = "The same in CBOR: labels bn -2, bt -3, n 0, u 1, v 2, t 6 (RFC 8428 section 6); this schema is of the resolved labels"
    return {**s.senml(), "title": f"{told}: <root>/v1/node/<node>/senml-cbor"}


def _entity(form: str, attribute: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": f"An entity, {form} (retained): <root>/v1/ngsi-ld/<Type>/<local-id>",
        "description": "Types and attributes: smartdatamodels.org; the models' own schemas describe the simplified form",
        "type": "object",
        "properties": {
            "id": URI,
            "type": {"enum": s.NGSI_TYPES},
            "@context": {
                "type": "array",
                "items": {"type": ["string", "object"]},
                "minItems": 2,
                "contains": {"const": CORE},
            },
        },
        "required": ["id", "type", "@context"],
        "minProperties": 4,
        "additionalProperties": attribute,
    }


def ngsi_ld() -> dict[str, Any]:
    """An entity with every attribute an object of its type."""
    prop = {"type": {"const": "Property"}, "value": VALUE, "unitCode": UNIT_CODE, "observedAt": s.TIME}
    return _entity("normalized", {
        "oneOf": [
            {"type": "object", "properties": prop, "required": ["type", "value"], "additionalProperties": False},
            {"type": "object", "properties": {"type": {"const": "GeoProperty"}, "value": POINT}, "required": ["type", "value"], "additionalProperties": False},
            {"type": "object", "properties": {"type": {"const": "Relationship"}, "object": URIS}, "required": ["type", "object"], "additionalProperties": False},
        ]
    })  # fmt: skip


def ngsi_ld_concise() -> dict[str, Any]:
    """An entity without what can be inferred."""
    with_more = {"value": VALUE, "unitCode": UNIT_CODE, "observedAt": s.TIME}
    return _entity("concise", {
        "oneOf": [
            {"type": ["number", "string", "array"]},
            POINT,
            {"type": "object", "properties": with_more, "required": ["value"], "additionalProperties": False},
            {"type": "object", "properties": {"object": URIS}, "required": ["object"], "additionalProperties": False},
        ]
    })  # fmt: skip


def ngsi_ld_keyvalues() -> dict[str, Any]:
    """An entity as bare values."""
    return _entity("keyvalues (simplified)", VALUE)


def homeassistant() -> dict[str, Any]:
    """A node to Home Assistant."""
    text = {"type": "string", "minLength": 1}
    component = {
        "platform": {"enum": ["sensor", "binary_sensor"]},
        "unique_id": {"type": "string", "pattern": "^citymote_[a-z0-9_-]+$"},
        "name": text, "state_topic": text, "value_template": text, "device_class": text, "unit_of_measurement": text,
        "state_class": {"enum": ["measurement", "total_increasing"]}, "entity_category": {"const": "diagnostic"},
        "expire_after": {"type": "integer", "minimum": 3}, "suggested_display_precision": {"type": "integer", "minimum": 0},
        "enabled_by_default": {"const": False},
    }  # fmt: skip
    device = {
        "identifiers": {"type": "array", "items": text, "minItems": 1}, "name": s.NODE_NAME, "manufacturer": {"const": "citymote"},
        "model": text, "serial_number": text, "sw_version": text, "suggested_area": text,
    }  # fmt: skip
    return s._object(
        "A node as a Home Assistant device (retained): <prefix>/device/<node>/config",
        {
            "device": s._object("device", device, ("identifiers", "name", "manufacturer", "model", "serial_number")),
            "origin": s._object("origin", {"name": {"const": "citymote"}, "sw_version": text}, ("name", "sw_version")),
            "availability": {
                "type": "array",
                "items": s._object("topic", {"topic": text}, ("topic",)),
                "minItems": 2,
                "maxItems": 2,
            },
            "availability_mode": {"const": "all"},
            "qos": {"const": 1},
            "components": {
                "type": "object",
                "propertyNames": s.KEY_NAME,
                "minProperties": 1,
                "additionalProperties": s._object(
                    "component", component, ("platform", "unique_id", "name", "state_topic", "value_template")
                ),
            },
        },
        ("device", "origin", "availability", "availability_mode", "qos", "components"),
    )


def record() -> dict[str, Any]:
    """A row of a file."""
    types: dict[str, Any] = {
        name: {"type": "number" if kind == "double" else "string"} for name, kind in COLUMNS.items()
    }
    types |= {
        "id": {"type": "string", "pattern": "^[^:]+:.+:[a-z0-9_-]+$", "description": "the same at every repeat"},
        "kind": {"enum": ["reading", "alarm", "aggregate", "area"]}, "node": s.NODE_NAME, "t": s.TIME, "received": s.TIME, "quantity": s.KEY_NAME,
        "unit": s._unit(), "quality": s.QUALITY, "state": {"enum": ["raised", "updated", "cleared", "event", "late"]},
        "severity": {"enum": ["fault", "preventive", "warning", "emergency"]}, "start": s.TIME,
    }  # fmt: skip
    title = "A value, alarm message, aggregate or area as a row: lines of an output of kind files, and (without kind) open data's readings"
    return s._object(title, types, ("id", "t", "received", "quantity", "unit"))


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "senml-cbor": senml_cbor,
    "ngsi-ld": ngsi_ld,
    "ngsi-ld-concise": ngsi_ld_concise,
    "ngsi-ld-keyvalues": ngsi_ld_keyvalues,
    "homeassistant": homeassistant,
    "record": record,
}

"""`ngsi-ld`, `ngsi-ld-concise`, `ngsi-ld-keyvalues`: entities of the Smart Data Models (ETSI GS CIM 009), retained, one topic each.

normalized keeps everything and is the default; concise says the same in fewer bytes; keyvalues is the form the models' schemas
describe, without units and times. An alert that ends is told once more, with validTo, and its topic is cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.core.current import Current
from gateway.core.model import Event, Node
from gateway.outputs.message import NOTHING, Known, Message, iso, json
from gateway.outputs.ngsi_models import GEO, PROPERTY, RELATIONSHIP, Attr, Entity, entities, lots, whole
from gateway.outputs.owner import PROVIDER

CORE = "https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context-v1.8.jsonld"
SUBJECT = "https://raw.githubusercontent.com/smart-data-models/{}/master/context.jsonld"
OWN = {name: f"urn:citymote:v1:{name}" for name in ("LA10", "LA50", "LA90")}  # what no model has a name for


def normalized(entity: Entity) -> dict[str, Any]:
    """Return an entity with every attribute an object of its type."""
    return _with_context(entity, {name: {"type": a.kind, **_value(a)} for name, a in entity.attrs.items()})


def concise(entity: Entity) -> dict[str, Any]:
    """Return an entity without what can be inferred; nothing is lost."""

    def short(a: Attr) -> Any:
        if a.kind == GEO or a.kind == PROPERTY and a.unit is None and a.t is None and not isinstance(a.value, dict):
            return a.value
        return _value(a)

    return _with_context(entity, {name: short(a) for name, a in entity.attrs.items()})


def keyvalues(entity: Entity) -> dict[str, Any]:
    """Return an entity as bare values."""
    return _with_context(entity, {name: a.value for name, a in entity.attrs.items()})


def _value(a: Attr) -> dict[str, Any]:
    if a.kind == RELATIONSHIP:
        return {"object": a.value}
    found: dict[str, Any] = {"value": a.value}
    if a.unit is not None:
        found["unitCode"] = a.unit
    if a.t is not None:
        found["observedAt"] = iso(a.t)
    return found


def _with_context(entity: Entity, attrs: dict[str, Any]) -> dict[str, Any]:
    own = {name: uri for name, uri in OWN.items() if name in attrs}
    context: list[Any] = [SUBJECT.format(entity.subject), *([own] if own else []), CORE]
    return {"id": entity.id, "type": entity.type, **attrs, "@context": context}


def _provided(entity: Entity, known: Known) -> Entity:
    """Return an entity that names the gateway as its provider: who else publishes at this broker leaves its topic alone."""
    return entity._replace(attrs={**entity.attrs, PROVIDER: Attr(PROPERTY, known.gateway)})


def _messages(form: Callable[[Entity], dict[str, Any]], e: Event, root: str, known: Known = NOTHING) -> list[Message]:
    out = []
    for entity in (_provided(entity, known) for entity in entities(e, known)):
        topic = "/".join((root, "v1", "ngsi-ld", entity.type, entity.local))
        if entity.ended:
            out.append(Message(topic, json(form(entity))))
            out.append(Message(topic, b"", retain=True, newest=entity.t))
        else:
            out.append(Message(topic, json(form(entity)), retain=True, newest=entity.t))
    return out


def _retained(
    form: Callable[[Entity], dict[str, Any]],
    c: Current,
    name: str,
    root: str,
    node: Node | None,
    known: Known = NOTHING,
) -> list[Message]:
    """Return all entities of a subject whole, from its facts."""
    found = lots(c, known) if node is None else whole(c, node, known)
    return [
        Message(
            "/".join((root, "v1", "ngsi-ld", e.type, e.local)), json(form(_provided(e, known))), retain=True, newest=e.t
        )
        for e in found
    ]


messages = partial(_messages, normalized)
messages_concise = partial(_messages, concise)
messages_keyvalues = partial(_messages, keyvalues)
retained = partial(_retained, normalized)
retained_concise = partial(_retained, concise)
retained_keyvalues = partial(_retained, keyvalues)

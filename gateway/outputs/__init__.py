"""Output formats: name -> pure function (event, root, what is known) -> messages. A new format is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.current import Current
from gateway.core.model import Event, Node
from gateway.outputs import homeassistant, native, ngsi_ld, senml, senml_cbor
from gateway.outputs.message import Known, Message

FORMATS: Mapping[str, Callable[[Event, str, Known], list[Message]]] = {
    "native": native.messages,
    "senml": senml.messages,
    "senml-cbor": senml_cbor.messages,
    "ngsi-ld": ngsi_ld.messages,
    "ngsi-ld-concise": ngsi_ld.messages_concise,
    "ngsi-ld-keyvalues": ngsi_ld.messages_keyvalues,
    "homeassistant": homeassistant.messages,
}
Retained = Callable[[Current, str, str, Node | None, Known], list[Message]]
RETAINED: Mapping[str, Retained] = {
    "native": native.retained,
    "ngsi-ld": ngsi_ld.retained,
    "ngsi-ld-concise": ngsi_ld.retained_concise,
    "ngsi-ld-keyvalues": ngsi_ld.retained_keyvalues,
    "homeassistant": homeassistant.retained,
}
"""A format that retains anything -> pure function (facts, name, root, node or None for an area, what is known) -> all of a subject."""
WHOLE = frozenset(("ngsi-ld", "ngsi-ld-concise", "ngsi-ld-keyvalues"))
"""Formats whose retained messages gather many facts: what an event changes is rendered from the facts, not from the event."""
NEEDS: Mapping[str, str] = {"homeassistant": "native"}  # a format -> another one whose topics it points at
INSTEAD = frozenset(
    ("ngsi-ld", "ngsi-ld-concise", "ngsi-ld-keyvalues")
)  # they share their topics: an output has one of them

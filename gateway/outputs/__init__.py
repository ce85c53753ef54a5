"""Output formats: name -> pure function (event, root, what is known) -> messages. A new format is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.model import Event
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
NEEDS: Mapping[str, str] = {"homeassistant": "native"}  # a format -> another one whose topics it points at
INSTEAD = frozenset(
    ("ngsi-ld", "ngsi-ld-concise", "ngsi-ld-keyvalues")
)  # they share their topics: an output has one of them

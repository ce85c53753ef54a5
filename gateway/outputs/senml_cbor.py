"""`senml-cbor`: the pack of `senml` in CBOR (RFC 8428 section 6): integer labels, definite lengths, numbers as short as they stay exact."""

from __future__ import annotations

import cbor2

from gateway.core.model import Event
from gateway.outputs.message import NOTHING, Known, Message, node_topic
from gateway.outputs.senml import pack

# RFC 8428 table 4; labels that are not in it (`id`, `q`) stay text
LABELS = {"bn": -2, "bt": -3, "n": 0, "u": 1, "v": 2, "t": 6}


def messages(e: Event, root: str, known: Known = NOTHING) -> list[Message]:
    """Return the pack of a report; nothing for other events."""
    records = pack(e)
    if not records:
        return []
    body = [{LABELS.get(key, key): value for key, value in record.items()} for record in records]
    return [Message(node_topic(root, e.name, "senml-cbor"), cbor2.dumps(body, canonical=True))]

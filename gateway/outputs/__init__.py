"""Output formats: name -> pure function (event, root) -> messages. A new format is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.model import Event
from gateway.outputs import native, senml
from gateway.outputs.message import Message

FORMATS: Mapping[str, Callable[[Event, str], list[Message]]] = {
    "native": native.messages,
    "senml": senml.messages,
}

"""Output formats: name -> pure function (event, root, what is known) -> messages. A new format is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.model import Event
from gateway.outputs import native, senml
from gateway.outputs.message import Known, Message

FORMATS: Mapping[str, Callable[[Event, str, Known], list[Message]]] = {
    "native": native.messages,
    "senml": senml.messages,
}
NEEDS: Mapping[str, str] = {}  # a format -> another one whose topics it points at
INSTEAD: frozenset[str] = frozenset()  # formats that share their topics: an output has one of them

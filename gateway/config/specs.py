"""The keys of every section with kind, default and range, learned by reading an example with a table that takes notes.

So nobody writes a range twice, and a new key cannot be forgotten by `init` or by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli

from gateway.config import SECTIONS, Broker, MqttOutputConfig
from gateway.config.manual import example
from gateway.config.nodes import read_node
from gateway.config.table import ConfigError, Table
from gateway.core.model import Node

FILE = Path("/etc/citymote/gateway.toml")
OUTPUTS = (MqttOutputConfig("city", Broker("127.0.0.1", 1883)),)


@dataclass(frozen=True, slots=True)
class Spec:
    """One key. kind: text, number, choice, choices, names, name, path, address, bool or list. default: ... when it must be there."""

    key: str
    kind: str
    default: Any = ...
    low: int | None = None
    high: int | None = None
    allowed: tuple[str, ...] = ()

    def range(self) -> str:
        """Say what may stand there."""
        if self.low is not None:
            return f"{self.low} to {self.high}"
        if self.allowed:
            return ("any of " if self.kind == "choices" else "one of ") + ", ".join(self.allowed)
        return {
            "name": "1 to 32 of a-z 0-9 _ -",
            "names": "names of a-z 0-9 _ -",
            "address": "host:port",
            "bool": "true or false",
            "tables": f"or tables of their own: [commands.{self.key}.NAME]",
            "path": "a path",
        }.get(self.kind, "")


class _Noting(Table):
    """A table that notes which keys are asked for, and how."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.specs: dict[str, Spec] = {}
        self.allowed: tuple[str, ...] = ()

    def _note(self, spec: Spec) -> None:
        self.specs.setdefault(spec.key, spec)  # number() asks get(): the first to ask knows most

    def only(self, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        super().only(allowed)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = ..., what: str = "") -> Any:
        kinds = {str: "text", bool: "bool", list: "list", int: "number", (int, float): "number"}
        self._note(Spec(key, kinds.get(kind, "text"), default))
        return super().get(key, kind, default, what)

    def number(self, key: str, default: int, low: int, high: int) -> int:
        self._note(Spec(key, "number", default, low, high))
        return super().number(key, default, low, high)

    def name(self, key: str, default: Any = ...) -> str:
        self._note(Spec(key, "name", default))
        return super().name(key, default)

    def names(self, key: str) -> tuple[str, ...]:
        self._note(Spec(key, "names", None))
        return super().names(key)

    def choice(self, key: str, allowed: tuple[str, ...], default: Any = ...) -> str:
        self._note(Spec(key, "choice", default, allowed=allowed))
        return super().choice(key, allowed, default)

    def choices(self, key: str, allowed: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        self._note(Spec(key, "choices", default, allowed=allowed))
        return super().choices(key, allowed, default)

    def address(self, key: str, default_port: int | None, lowest: int = 1) -> tuple[str, int]:
        self._note(Spec(key, "address"))
        return super().address(key, default_port, lowest)

    def tables(self, key: str) -> dict[str, Table]:
        self._note(Spec(key, "tables", None))
        return super().tables(key)

    def path(self, key: str, default: Any = ...) -> Path | None:
        self._note(Spec(key, "path", default))
        return super().path(key, default)


def sections() -> dict[str, tuple[Spec, ...]]:
    """Return the keys of every section and kind of section, in the order in which `only` names them: {"link.mqtt": (Spec, ...)}."""
    nodes: Mapping[int, Node] = {}
    found: dict[str, tuple[Spec, ...]] = {}
    for section in SECTIONS:
        if not section.many:
            found[section.name] = _learn(section.name, {}, lambda t, s=section: s.reader("", t, nodes, OUTPUTS))
            continue
        reader = lambda t, s=section: s.reader("a", t, nodes, OUTPUTS)  # noqa: E731
        first = _Noting(FILE, "", f"{section.name}.a", {"kind": "?"})
        try:
            reader(first)
        except ConfigError:
            pass  # it has said which kinds there are
        kinds = first.specs["kind"].allowed if "kind" in first.specs else ()
        for kind in kinds:
            found[f"{section.name}.{kind}"] = _learn(f"{section.name}.a", {"kind": kind}, reader)
        if not kinds:
            found[section.name] = _learn(f"{section.name}.a", {}, reader)
    found["node"] = _learn("node", {}, read_node)
    return found


def _learn(where: str, data: dict[str, Any], reader: Callable[[Table], Any]) -> tuple[Spec, ...]:
    specs: dict[str, Spec] = {}
    allowed: tuple[str, ...] = ()
    tried: set[str] = set()
    given = dict(data)
    while True:
        t = _Noting(FILE, "", where, given)
        wrong: ConfigError | None = None
        try:
            reader(t)
        except ConfigError as e:
            wrong = e
        allowed = t.allowed or allowed
        for key, spec in t.specs.items():
            specs.setdefault(key, spec)
        missing = wrong.missing if wrong is not None else None
        if wrong is not None and missing is None and wrong.key in given and wrong.key not in data:
            del given[wrong.key or ""]  # a file of an example, which is not here
        elif missing is not None and missing not in tried:
            sample = example(where, data.get("kind"), missing)
            if sample is None:
                raise LookupError(f"{where}: the key {missing} needs an example in gateway/config/manual.py") from wrong
            given[missing] = tomli.loads(f"x = {sample}")["x"]
            tried.add(missing)
            continue
        # keys that are read only when they are there, or when another is
        unread = [key for key in allowed if key not in specs]
        if not unread or tried.issuperset(allowed):
            break
        for key in unread if not tried.issuperset(unread) else allowed:
            tried.add(key)
            sample = example(where, data.get("kind"), key)
            if sample is not None:
                given[key] = tomli.loads(f"x = {sample}")["x"]
    return tuple(_required(specs[key], where) for key in allowed if key in specs)


def _required(spec: Spec, where: str) -> Spec:
    """[http] has no key that must be there, though `bind`, once there, is read like one that must; [commands] is nothing without people."""
    default = {("http", "bind"): None, ("commands", "role"): ..., ("commands", "requester"): ...}
    return replace(spec, default=default.get((where, spec.key), spec.default))

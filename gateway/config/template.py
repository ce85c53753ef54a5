"""The commented configuration that `citymote gateway init` writes: every section, every key, its default, range and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gateway.config.manual import SECTION_HELP, Help, help_of
from gateway.config.specs import Spec, sections
from gateway.config.table import SECRETS

HEAD = """\
# Configuration of a citymote gateway. Lines that begin with `#` and a key hold the default or an example: remove the `#` to change it.
# After a change:  citymote gateway check --config THIS-FILE   says what is wrong, if anything,
#                  systemctl reload citymote-gateway           puts it in force without losing a frame.
"""
NODES = """\
# The nodes of this gateway and their keys. Keep this file readable by the gateway alone (mode 0600). One entry for each node:
#
# [[node]]
"""
WIDTH = 110
ON = {
    "gateway": "",
    "log": "",
    "http": "",
    "link.udp-forwarder": "lora",
    "output.mqtt": "city",
}  # sections that are in force
NAMES = {"link.mqtt": "wifi", "output.files": "archive", "output.ngsi-ld-http": "platform"}


def config_text(values: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return gateway.toml. It is valid as it stands, beside any nodes.toml. values: {"gateway.store": "/a/file"} take the
    place of defaults and examples, in force where their section is."""
    parts = [HEAD]
    for section, specs in sections().items():
        if section == "node":
            continue
        first, _, kind = section.partition(".")
        name = ON.get(section, NAMES.get(section, kind))
        header = f"[{first}.{name}]" if name else f"[{first}]"
        off = "" if section in ON else "# "
        lines = [*_wrapped(SECTION_HELP.get(section, "")), f"{off}{header}"]
        for spec in specs:
            *said, line = _key(section, spec, kind, off)
            name_of = f"{section}.{spec.key}"
            lines += [*said, f"{off}{spec.key} = {toml(values[name_of])}" if name_of in values else line]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def registry_text() -> str:
    """Return nodes.toml without any node."""
    lines: list[str] = []
    for spec in sections()["node"]:
        lines += _key("node", spec, "", "# ")
    return NODES + "\n".join(lines) + "\n"


def _key(section: str, spec: Spec, kind: str, off: str) -> list[str]:
    known = help_of(section, spec.key) or Help("")
    if spec.key == "kind" and kind:
        return [f'{off}kind = "{kind}"']
    must = spec.default is ...
    value = known.example if must or not spec.default else toml(spec.default)
    if not must and not known.example and spec.default is not None:
        value = toml(spec.default)
    if spec.key in SECRETS:
        value = '"32 hex digits"'  # no key that somebody could leave as it is
    facts = [spec.range(), "must be there" if must else "none by default" if not spec.default and spec.default is not False
             and spec.default != 0 else f"default {toml(spec.default)}"]  # fmt: skip
    text = f"{known.text} ({known.facts or '; '.join(f for f in facts if f)})"
    return [*_wrapped(text), f"{off}{spec.key} = {value}" if must else f"# {spec.key} = {value}"]


def _wrapped(text: str) -> list[str]:
    lines, line = [], "#"
    for word in text.replace(" [", "\0[").split():  # no line may begin with what looks like a table
        word = word.replace("\0", " ")
        if len(line) + len(word) >= WIDTH:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line] if text else []


def toml(value: Any) -> str:
    """Return a default as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return str(value)

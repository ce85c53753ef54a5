"""What `check` finds in a configuration that can be read but ought not to be used.

A gateway starts with these all the same, since an upgrade that knows more mistakes must not leave a box down that worked yesterday: it
logs them, and keys that are no secret are a problem in its health. `check` refuses those that are dangerous (exit code 2) and warns of the
others; `check --strict` refuses all.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from gateway.config import Config, ConfigError
from gateway.config.filter import Filter
from gateway.config.keys import shared_keys, weak_keys
from gateway.config.links import MqttLinkConfig
from gateway.config.outputs import PROFILES, FilesOutputConfig, MqttOutputConfig, NgsiHttpOutputConfig, OutputConfig
from gateway.core.model import Node
from gateway.core.value import replace

MOST = 100  # findings that are shown
INSTALLED = ("etc", "citymote", "gateway.toml")  # the file that the unit runs, in / or in an image
STATE = "/var/lib/citymote"  # the unit's StateDirectory=
DROP_INS = "etc/systemd/system/citymote-gateway.service.d"
NEW_KEY = "make one with: citymote gateway key, and give it to the node"


_PLACE = re.compile(r"(.*?):([0-9]+): ")  # how the text of what stands in a file begins


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. refuses: dangerous, so that `check` refuses it also without --strict."""

    code: str
    text: str
    hint: str
    refuses: bool = False

    def document(self) -> dict[str, Any]:
        """Return it for --json: as ConfigError does, with a code."""
        place = _PLACE.match(self.text)
        file, line = (place[1], int(place[2])) if place else (None, None)
        return {
            "code": self.code,
            "file": file,
            "line": line,
            "text": self.text,
            "hint": self.hint,
            "refuses": self.refuses,
        }


def findings(c: Config, keys: list[Finding] | None = None) -> list[Finding]:
    """Return what is wrong with a configuration, dangerous things first, MOST at most. keys: its key_findings(), where they are known."""
    found = [
        *(_keys(c.gateway.registry, c.nodes) if keys is None else keys),
        *_names(c),
        *_outputs(c),
        *_profiles(c),
        *_balances(c),
        *_modes(c),
        *_places(c),
    ]
    return sorted(found, key=lambda f: not f.refuses)[:MOST]


def key_findings(c: Config) -> list[Finding]:
    """Return only what is wrong with keys, for the running gateway's health."""
    return list(_keys(c.gateway.registry, c.nodes))


def keys_beside(e: ConfigError) -> list[Finding]:
    """Return what is wrong with keys of a registry that has other mistakes, or whose configuration has."""
    return list(_keys(e.registry, e.nodes))[:MOST] if e.registry is not None else []


def _keys(registry: Path, nodes: Mapping[int, Node]) -> Iterator[Finding]:
    at = Lines(registry)
    for node, name, why in weak_keys(nodes.values()):
        yield Finding(
            f"weak_{name}", f"{at(node.id)}: {name} of {node.name!r} {why}: others may know it", NEW_KEY, True
        )
    for node, name, owner, whole in shared_keys(nodes):
        place = f"{at(node.id)}: {name} of {node.name!r}"
        if whole:
            text = f"{place} is a key of {owner.name!r} too: who has one node's speaks for both"
        else:
            text = f"{place} is but for a few bytes a key of {owner.name!r}: who has one node's finds the other"
        yield Finding("duplicate_key" if whole else "related_key", text, f"{NEW_KEY}, under a higher epoch", True)


def _names(c: Config) -> Iterator[Finding]:
    """Topics and file names take any of NAME; a spreadsheet reads -1 as a formula, a command line -x as an option."""
    at = Lines(c.gateway.registry)
    named = [(str(c.file), "gateway.id", c.id)]
    named += [
        (str(c.file), f"{kind}.{x.name}", x.name) for kind, of in (("link", c.links), ("output", c.outputs)) for x in of
    ]
    for node in c.nodes.values():
        if not node.name[0].isalnum() or any(not a[0].isalnum() for a in node.area):
            named += [(at(node.id), "node.name", node.name), *((at(node.id), "node.area", a) for a in node.area)]
    for place, what, name in named:
        if not name[0].isalnum():
            yield Finding("bad_name", f"{place}: {what} is {name!r}", "begin it with a letter or a digit", True)


def _profiles(c: Config) -> Iterator[Finding]:
    """A profile of the operator's own is right when something goes by it: a filter, a rule, a role."""
    own = {n.profile: n for n in reversed(list(c.nodes.values())) if n.profile not in (*PROFILES, "unknown")}
    texts = [_text(f) for f in (c.file, c.gateway.rules) if f is not None] if own else []
    at = Lines(c.gateway.registry)
    for profile, node in own.items():
        if any(f'"{profile}"' in text or f"'{profile}'" in text for text in texts):
            continue
        near = difflib.get_close_matches(profile, PROFILES, 1, 0.5)
        yield Finding(
            "unknown_profile",
            f"{at(node.id)}: profile of {node.name!r} is {profile!r}, which no filter, rule or role here names: filters, rules and NGSI-LD entities of other profiles leave it out",
            f"did you mean `{near[0]}`?" if near else f"known: {', '.join(PROFILES)}",
        )


def _balances(c: Config) -> Iterator[Finding]:
    """Sums over so few households that each guesses its neighbour's use."""
    if c.rules is None or c.gateway.rules is None:
        return
    circles = {n.name: n.visibility for n in c.nodes.values()}
    for area in c.rules.areas:
        households = area.households(circles) if area.kind == "balance" else frozenset()
        seen = [o.name for o in c.outputs if area.visibility in o.filter.visibility]
        if households and len(households) < area.least and seen:
            yield Finding(
                "few_households",
                f"{c.gateway.rules}: area {area.name!r} sums what {len(households)} household{'s' * (len(households) > 1)} used, fewer than {area.least}, "
                f"and output{'s' * (len(seen) > 1)} {', '.join(seen)} publish{'' if len(seen) > 1 else 'es'} it",
                f'give [area.{area.name}] more meters or visibility = "personal"; least says how many are enough',
            )


def _outputs(c: Config) -> Iterator[Finding]:
    for a, b in combinations(c.outputs, 2):
        if isinstance(a, FilesOutputConfig) and isinstance(b, FilesOutputConfig):
            if a.folder == b.folder:
                yield Finding("same_folder", f"{c.file}: outputs {a.name} and {b.name} write to {a.folder}",
                              "give each output its own folder: the second one is refused it while it runs", True)  # fmt: skip
        elif (same := _same_place(a, b)) and _overlap(a.filter, b.filter):
            yield Finding("published_twice", f"{c.file}: outputs {a.name} and {b.name} publish the same to {same}",
                          "remove one, or give them roots, formats, or nodes that differ (profiles, areas)")  # fmt: skip
        if shared := _shared(a, b):
            yield Finding("same_topics", f"{c.file}: outputs {a.name} and {b.name} publish on {shared}, each what the other does not: whoever was last stands there",
                          "give them roots (of Home Assistant: discovery prefixes) or nodes that differ (profiles, areas), or the same quantities and one NGSI-LD format")  # fmt: skip


def _same_place(a: OutputConfig, b: OutputConfig) -> str:
    """Name the place where both publish the same formats, "" when there is none."""
    if isinstance(a, MqttOutputConfig) and isinstance(b, MqttOutputConfig):
        formats = [f for f in a.formats if f in b.formats]
        brokers = {(_host(o.broker.host), o.broker.port, o.root) for o in (a, b)}
        return (
            f"{b.broker.host}:{b.broker.port}, root {b.root}: {', '.join(formats)}"
            if formats and len(brokers) == 1
            else ""
        )
    if isinstance(a, NgsiHttpOutputConfig) and isinstance(b, NgsiHttpOutputConfig):
        return b.url if (a.url, a.tenant) == (b.url, b.tenant) else ""
    return ""


def _shared(a: OutputConfig, b: OutputConfig) -> str:
    """Name the topics on which two outputs publish different things of the same nodes, "" where there are none."""
    if not isinstance(a, MqttOutputConfig) or not isinstance(b, MqttOutputConfig):
        return ""
    f, g = a.filter, b.filter
    brokers = {(_host(o.broker.host), o.broker.port) for o in (a, b)}
    if len(brokers) > 1 or not _overlap(replace(f, quantities=frozenset()), replace(g, quantities=frozenset())):
        return ""
    # of the rest `published_twice` says it
    differ = not _overlap(f, g)
    found: list[str] = []
    if a.root == b.root:
        ngsi = [{x for x in o.formats if x.startswith("ngsi-ld")} for o in (a, b)]
        if differ and "native" in a.formats and "native" in b.formats:
            found.append(f"{a.root}/v1/node/<node>/meta")
        if ngsi[0] and ngsi[1] and (differ or ngsi[0] != ngsi[1]):
            found.append(f"{a.root}/v1/ngsi-ld/<Type>/<node>")
    both = "homeassistant" in a.formats and "homeassistant" in b.formats
    if both and a.discovery == b.discovery and (differ or a.root != b.root):
        found.append(f"{a.discovery}/device/<node>/config")
    return ", ".join(found)


def _host(name: str) -> str:
    return "127.0.0.1" if name.lower() in ("localhost", "::1", "ip6-localhost") else name.lower()


def _overlap(a: Filter, b: Filter) -> bool:
    pairs = ((a.profiles, b.profiles), (a.quantities, b.quantities), (a.areas, b.areas))
    return bool(a.visibility & b.visibility) and all(not x or not y or x & y for x, y in pairs)


def _modes(c: Config) -> Iterator[Finding]:
    """Files with secrets that others may read, and files of ours that others may write."""
    secret = {c.gateway.registry: "the nodes' keys"} | dict.fromkeys(secret_files(c), "a secret")
    for file, what in secret.items():
        mode = _mode(file)
        if mode & 0o007:
            yield Finding("readable", f"{file} holds {what} and has mode {stat.S_IMODE(mode):04o}: every user of this machine may read it",
                          f"chmod o= {file}")  # fmt: skip
    for file in (c.file, c.gateway.rules, *secret):
        if file is not None and _mode(file) & 0o002:
            yield Finding("writable", f"{file} may be written by every user of this machine", f"chmod o-w {file}")


def secret_files(c: Config) -> list[Path]:
    """Return the files that a configuration names for passwords, tokens and private keys."""
    brokers = [x.broker for x in (*c.links, *c.outputs) if isinstance(x, (MqttLinkConfig, MqttOutputConfig))]
    names = [f for b in brokers for f in (b.password_file, b.key_file)]
    names += [f for o in c.outputs if isinstance(o, NgsiHttpOutputConfig) for f in (o.token_file, o.key_file)]
    return list(dict.fromkeys(f for f in names if f is not None))


def _places(c: Config) -> Iterator[Finding]:
    """Folders that are not there, or that the unit may not write to."""
    folder = c.store.parent
    if not folder.is_dir() and not _unit_makes(c, folder):
        yield Finding("no_store_folder", f"{c.file}: the store's folder {folder} does not exist, so a new store would be started",
                      f"correct gateway.store, or: mkdir -m 700 {folder}")  # fmt: skip
    if c.file.parts[-3:] != INSTALLED:
        return
    written = [("gateway.store", c.store)]
    written += [(f"output.{o.name}.folder", o.folder) for o in c.outputs if isinstance(o, FilesOutputConfig)]
    open_ = [Path(STATE), *_opened(c.file.parents[2] / DROP_INS)]
    for what, path in written:
        if not any(path.is_relative_to(o) for o in open_):
            yield Finding("read_only", f"{c.file}: {what} is {path}, where the unit may not write",
                          f"name a place below {STATE}, or: systemctl edit citymote-gateway, [Service], ReadWritePaths={path.parent}")  # fmt: skip


def _unit_makes(c: Config, folder: Path) -> bool:
    return c.file.parts[-3:] == INSTALLED and str(folder) == STATE


def _opened(drop_ins: Path) -> Iterator[Path]:
    """Yield what drop-ins of the unit let it write to."""
    for file in sorted(drop_ins.glob("*.conf")):
        for line in re.findall(r"(?m)^\s*(?:ReadWritePaths|BindPaths)\s*=\s*(.*)$", _text(file)):
            for word in line.split():
                yield Path(word.lstrip("-+").partition(":")[0])


class Lines:
    """Where a node's entry stands: "nodes.toml:12", or the file alone when that cannot be seen."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: dict[int, int] | None = None

    def __call__(self, node: int) -> str:
        if self._lines is None:
            lines = _text(self._file).splitlines()
            matches = ((n, re.match(r"\s*id\s*=\s*([0-9_]+)\s*(?:#|$)", line)) for n, line in enumerate(lines, 1))
            self._lines = {int(m[1].replace("_", "")): n for n, m in matches if m and m[1].strip("_")}
        line = self._lines.get(node)
        return f"{self._file}:{line}" if line else str(self._file)


def _text(file: Path) -> str:
    """Return a text file; "" when it has gone since it was read."""
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def _mode(file: Path) -> int:
    try:
        return os.stat(file).st_mode
    except OSError:
        return 0  # it has gone, so no one reads it

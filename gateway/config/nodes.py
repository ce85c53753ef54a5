"""nodes.toml: the registry of provisioned nodes, with their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gateway.config.mistakes import Mistakes
from gateway.config.table import NAME, ConfigError, Table
from gateway.core.model import RESTRICTED, Node
from gateway.core.registry import VISIBILITIES

NEW_KEY = "make one with: citymote gateway key"
LONGEST_S = 7 * 86400
_NODE_KEYS = tuple(f.name for f in fields(Node))
_PLAIN_KEYS = frozenset(_NODE_KEYS) - {"area", "next_key", "next_epoch"}
_KEY = re.compile(r"[0-9a-fA-F]{32}")


def load_registry(file: Path, book: Mistakes | None = None, unsaid: set[int] | None = None) -> dict[int, Node]:
    """Read nodes.toml. Mistakes go into `book`, or are raised as ConfigError; a key is never quoted in a message.

    unsaid: gets the nodes whose entry has no line `visibility`.
    """
    own = book is None
    book = book or Mistakes()
    nodes: dict[int, Node] = {}
    toml = book.toml(file, "registry")
    text, data = toml.text, toml.data
    top = Table(file, text, "", data)
    book.read(lambda t: t.only(("node",)), top)
    entries = data.get("node", [])
    if not isinstance(entries, list):
        book.note(ConfigError(f"{file}: node must be a list of tables", "write [[node]] before each node", file))
        entries = []
    ids: dict[int, str] = {}
    names: dict[str, int] = {}
    for nth, entry in enumerate(entries):
        if not isinstance(entry, dict):
            book.note(ConfigError(f"{file}: node must be a list of tables", "write [[node]] before each node", file))
            continue
        node = None if toml.broken else plain_node(entry)
        t = None
        if node is None:
            t = Table(file, text, "node", entry, nth)
            node = None if toml.hurt(t) else book.read(read_node, t)
        # also of an entry with other mistakes: they are all to be seen at once
        number, name = entry.get("id"), entry.get("name", f"node-{entry.get('id')}")
        if not isinstance(number, int) or isinstance(number, bool):
            number = None
        if number is not None and number in ids:
            t = t or Table(file, text, "node", entry, nth)
            book.note(t.error("id", f"{number} is taken by {ids[number]!r}", "give every node its own id"))
        elif isinstance(name, str) and name in names:
            taken = f"{name!r} is taken by node {names[name]}"
            t = t or Table(file, text, "node", entry, nth)
            book.note(t.error("name", taken, "give every node its own name"))
        elif number is not None and isinstance(name, str):
            ids[number], names[name] = name, number
            if node is not None:
                nodes[node.id] = node
                if unsaid is not None and "visibility" not in entry:
                    unsaid.add(node.id)
    if own:
        book.close()
    return nodes


def read_node(t: Table) -> Node:
    """Read one [[node]]. Raises ConfigError."""
    t.only(_NODE_KEYS)
    number = t.get("id", int, what="a number")
    if not 0 < number < 0xFFFFFFFF or number == 0xFFFF:
        raise t.error("id", f"is {number}", "choose 1..4294967294, but not 65535 (reserved)")
    key = t.get("key", str, what='"32 hex digits"')
    if not _KEY.fullmatch(key):
        raise t.error("key", "is not 32 hex digits", "copy the node's key from its provisioning (16 bytes as hex)")
    lat, lon = (t.get(k, (int, float), None, "degrees") for k in ("lat", "lon"))
    if (lat is None) != (lon is None):
        raise t.error("lat" if lon is None else "lon", "stands alone", "give lat and lon, or neither")
    if lat is not None and not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise t.error(
            "lat", f"and lon are {lat}, {lon}", "degrees north -90..90, degrees east -180..180", also=("lon",)
        )
    return Node(
        number,
        t.name("name", f"node-{number}"),
        bytes.fromhex(key),
        t.number("epoch", 0, 0, (1 << 32) - 1),
        t.name("profile", "unknown"),
        t.number("interval_s", 3600, 1, LONGEST_S),
        lat,
        lon,
        t.choice("visibility", VISIBILITIES, RESTRICTED),
        *_next_key(t, key),
        t.names("area"),
    )


def plain_node(entry: Mapping[str, Any]) -> Node | None:
    """Return what read_node() makes of an entry that is as most are, in a third of the time; None: read_node() is to be asked.

    A start reads 25,000 of them. Whatever is not plainly right is left to read_node(), which alone has the messages.
    """
    get, key = entry.get, entry.get("key")
    number, name = get("id"), get("name")
    epoch, profile, interval_s = get("epoch", 0), get("profile", "unknown"), get("interval_s", 3600)
    lat, lon, visibility = get("lat"), get("lon"), get("visibility", RESTRICTED)
    if (
        not _PLAIN_KEYS.issuperset(entry)
        or not (type(number) is int and 0 < number < 0xFFFFFFFF and number != 0xFFFF)
        or not (type(key) is str and _KEY.fullmatch(key))
        or not (type(name) is str and NAME.fullmatch(name))
        or not (type(profile) is str and NAME.fullmatch(profile))
        or not (type(epoch) is int and 0 <= epoch < 1 << 32)
        or not (type(interval_s) is int and 1 <= interval_s <= LONGEST_S)
        or not (type(visibility) is str and visibility in VISIBILITIES)
    ):
        return None
    placed = type(lat) is float and type(lon) is float and -90 <= lat <= 90 and -180 <= lon <= 180
    if not placed and ("lat" in entry or "lon" in entry):
        return None
    return Node(number, name, bytes.fromhex(key), epoch, profile, interval_s, lat, lon, visibility)


def _next_key(t: Table, key: str) -> tuple[bytes | None, int | None]:
    """Read next_key and next_epoch: both or neither, another key, and 1 to 3 epochs on, so that the slots differ."""
    following = t.get("next_key", str, None, '"32 hex digits"')
    if following is None:
        if "next_epoch" in t.data:
            raise t.error("next_epoch", "stands alone", "give next_key too, or neither")
        return None, None
    if not _KEY.fullmatch(following):
        raise t.error("next_key", "is not 32 hex digits", NEW_KEY, also=("next_epoch",))
    if following.lower() == key.lower():
        raise t.error("next_key", "is the key the node has", NEW_KEY, also=("next_epoch",))
    epoch = t.number("epoch", 0, 0, (1 << 32) - 1)
    return bytes.fromhex(following), t.number("next_epoch", epoch + 1, epoch + 1, min(epoch + 3, (1 << 31) - 1))

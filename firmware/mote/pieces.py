"""A configuration from afar. Loaded while one arrives: the numbers of downlink key 4 become names, and pieces of a JSON object become the object.

Pieces {17: [transaction, index, count, bytes]} may come in any order and repeatedly. They are kept on flash (a node that sleeps loses its
RAM), belong to one transaction at a time, and are dropped when another one begins or a day passed since the latest. The object holds the keys of
/config.json that shall change; null takes a key back to its default.
"""

import json
from binascii import crc32
from struct import pack, unpack

from micropython import const
from mote.errors import BadConfig
from mote.files import remove
from mote.hal import clock
from motewire.codes import CONFIG_NAMES

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_ABOVE = const(2)
_CONFIG_ALARM = const(16)
_CONFIG_PIECE = const(17)

PIECES = "/config.part"
_MOST = const(2048)  # bytes of a whole object
_STALE_S = const(86400)
_HEAD = const(14)  # transaction u32, board time u32, index, count, length u16; CRC-32 behind the data


def rule_of(v):
    """Return the rule {"q", "above" | "below", ...} of a wire rule whose shape was checked; values become physical. A removal has no
    limit. Raises BadConfig (unknown quantity)."""
    from motewire.quantities import EXPONENT, ID, KEY, OFFSET, QUANTITIES

    for q in QUANTITIES:
        if q[ID] == v[0]:
            break
    else:
        raise BadConfig("alarms: unknown quantity %d" % v[0])
    scale, offset = 10 ** -int(q[EXPONENT]), int(q[OFFSET])

    def physical(raw, offset):
        raw += offset
        return raw // scale if raw % scale == 0 else raw / scale

    rule = {"q": q[KEY]}
    if len(v) > 2:
        rule["above" if v[1] == _ALARM_ABOVE else "below"] = physical(v[2], offset)
    for i, name in ((3, "clear"), (4, "hold"), (5, "step"), (6, "update_s"), (7, "boost")):
        if len(v) > i and v[i] is not None:
            rule[name] = physical(v[i], offset) if i == 3 else physical(v[i], 0) if i == 5 else v[i]
    return rule


def with_rule(alarms, v):
    """Return the alarm rules with this wire rule in the place of the one of its quantity and direction; without it when it is a removal."""
    rule = rule_of(v)
    way = "above" if v[1] == _ALARM_ABOVE else "below"
    kept = [r for r in alarms if r.get("q") != rule["q"] or way not in r]
    if way in rule:
        kept.append(rule)
    return kept


def updates_of(value, values):
    """Return {name: value} for config.change() out of downlink key 4 {number: value}; {} when there is nothing to do yet.

    values: the configuration in force. Raises BadConfig, OSError. Numbers that nobody knows are left alone.
    """
    updates = {}
    if _CONFIG_PIECE in value:
        updates.update(Pieces().take(value[_CONFIG_PIECE]) or {})
    for key in value:
        if 0 < key < len(CONFIG_NAMES):
            updates[CONFIG_NAMES[key]] = value[key]
    if _CONFIG_ALARM in value:
        updates["alarms"] = with_rule(updates.get("alarms", values["alarms"]), value[_CONFIG_ALARM])
    return updates


class Pieces:
    """The pieces of one transaction."""

    def __init__(self, path=PIECES):
        self._path = path
        self._forget()
        self._load()

    def _forget(self):
        self._transaction = -1
        self._t = 0  # of the latest piece, by the board's clock
        self._count = 0
        self._parts = {}

    def _load(self):
        """Take up what the boot before had; behind a torn record nothing could be stored, so it ends the transaction."""
        try:
            with open(self._path, "rb") as f:
                while True:
                    head = f.read(_HEAD)
                    if not head:
                        return
                    n = unpack(">H", head[12:])[0] if len(head) == _HEAD else 0
                    data = f.read(n + 4)
                    if len(data) < n + 4 or crc32(data[:n], crc32(head)) != unpack(">I", data[n:])[0]:
                        break
                    self._transaction, self._t, index, self._count, n = unpack(">IIHHH", head)
                    self._parts[index] = data[:n]
        except OSError:
            return  # there are none
        self.drop()

    def drop(self):
        """Forget an unfinished transaction."""
        self._forget()
        remove(self._path)

    def take(self, v):
        """Take a piece [transaction, index, count, bytes]; return the object when it is whole, else None. Raises BadConfig, OSError."""
        transaction, index, count, data = v
        if transaction != self._transaction or not 0 <= clock.now() - self._t <= _STALE_S:
            self.drop()
        elif count != self._count or index in self._parts and self._parts[index] != data:
            self.drop()
            raise BadConfig("pieces contradict")
        if index not in self._parts:
            if sum([len(p) for p in self._parts.values()]) + len(data) > _MOST:
                self.drop()
                raise BadConfig("pieces: more than %d bytes" % _MOST)
            self._transaction, self._count = transaction, count
            self._store(index, data)
            self._parts[index] = data
        if len(self._parts) < count:
            return None
        text = b"".join([self._parts[i] for i in range(count)])
        self._forget()
        remove(self._path)
        try:
            whole = json.loads(text)
        except (ValueError, RuntimeError):  # RuntimeError: nested too deeply
            raise BadConfig("pieces make no JSON")
        if not isinstance(whole, dict):
            raise BadConfig("pieces make no JSON object")
        return whole

    def _store(self, index, data):
        self._t = clock.now()
        head = pack(">IIHHH", self._transaction, self._t, index, self._count, len(data))
        with open(self._path, "ab") as f:
            f.write(head + data + pack(">I", crc32(data, crc32(head))))

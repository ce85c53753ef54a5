"""Where the fuzz of the gateway begins: inputs of each target that reach deep, and strategies that stay near them."""

from __future__ import annotations

import json
from typing import Any

import cbor2
from hypothesis import strategies as st
from motewire import codes

from host_sim.hostile import flat
from tests.gateway.fuzz_gateway import GATEWAY, NODES, RULES
from tests.gateway.world import T0

_REPORT, _ALARM, _STATUS = 0, 1, 2
INTEGERS = [
    0, 1, 2, 3, 5, 9, 20, 21, 23, 24, 255, 256, 65_535, 65_536, 1 << 27, (1 << 27) + 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -2, -25, -(1 << 27), -(1 << 31), -(1 << 63), -(1 << 63) - 1, -(1 << 64),
]  # fmt: skip
TIMES = [
    T0,
    T0 - 60,
    T0 + 200,
    T0 + 400,
    T0 + 90_000,
    5,
    -5,
    -(1 << 31),
    70_000,
    946_688_400,
    2_082_758_400,
    (1 << 32) - 1,
    1 << 32,
]
TEXTS = [
    "", "a", "\0", "\n\x1b[31m", "\u00e9", "x" * 200, "5: taken back", "99999999999999999999999: x", "\u0661: x", "1" * 300 + ": x", "0.1.0", "+",
    "#", "/", "a/b", "\U0001f600",
]  # fmt: skip


def _cbor(kind: int, body: Any) -> bytes:
    return bytes((kind,)) + cbor2.dumps(body, canonical=True)


def _request(who: int, **body: Any) -> bytes:
    return (
        bytes((who,))
        + json.dumps({"id": "r-1", "requester": "ana", "expires": "2026-01-01T01:00:00Z", **body}).encode()
    )


SEEDS: dict[str, list[bytes]] = {
    "payload": [
        _cbor(_STATUS, {codes.STATUS_UPTIME_S: 5, codes.STATUS_BOOTS: 1, codes.STATUS_FIRMWARE: "0.1.0", codes.STATUS_BATTERY: 371}),
        _cbor(_STATUS, {codes.STATUS_SCHEMA: {200: [1, 2, 260]}, codes.STATUS_COMMAND: [5, 1], codes.STATUS_PROBLEM: "5: taken back"}),
        _cbor(_STATUS, {3: -(1 << 64), 99: {"a": [1, b"b"]}}),
        _cbor(_STATUS, {3: True, 5: "x" * 200, 10: [1, 5]}),
        _cbor(_ALARM, [2, T0, 6, 181, 150]),
        _cbor(_ALARM, [1, T0, 14, None]),
        _cbor(_ALARM, [2, 2_082_758_400, 65_535, 1 << 27, 5, {1: [1]}]),
        _cbor(_REPORT, [[1, 2, 3], T0, 60, [231, 631, 121]]),
        _cbor(_REPORT, [[5], 70_000, 0, [5]]),
        _cbor(_REPORT, [3, [T0, 60], 0, [[1, 2]] * 6]),
        _cbor(_REPORT, [[17 + 256 * i for i in range(16)], T0, 0, 240, flat(240, 16, events=True)]),
        _cbor(_REPORT, [[1 + 256 * i for i in range(16)], T0, 1, 240, flat(240, 16)]),
        _cbor(_REPORT, [200, T0, 60, 2, bytes(8)]),
    ],
    "datagram": [
        b'\x01"rssi":-80,"lsnr":7.5,"modu":"LORA","codr":"4/5","stat":1}],"stat":{"time":"2026-01-01 00:00:00 GMT"}}',
        b'\x01"time":"2026-01-01T00:00:00Z"}]}\0',
        b'\x02{"rxpk":[{"data":"AAAA","size":3,"tmst":1,"freq":868.1,"datr":"SF7BW125"}]}',
        b'\x02{"rxpk":[],"stat":{"time":5}}',
        b"\x02" + b"[" * 900,
        b"\x02" + b'{"rxpk":' + b"[" * 2000,
        b'\x03{"txpk_ack":{"error":"TOO_LATE"}}',
        b"\x00\x02\x01\x01\x00\xaa\x55\x5a\x00\x00\x00\x00\x01{}",
    ],
    "request": [
        _request(0, name="read_now", args=[]),
        _request(0, name="valve", args=["close"], reason="leak"),
        _request(0, name="interval", args=[{"sample_s": 10, "row_s": 60, "report_s": 600}]),
        _request(0, name="limit", args=[{"q": "pm10", "above": 150, "clear": 120}]),
        _request(0, name="config", args=[{"x": 1 << 70, "wifi": {"ssid": "a"}}]),
        _request(4, name="x", args=[1 << 70]),
        _request(0, name="read_now", args=[], expires="0001-01-01T00:00:00+23:59"),
        _request(0, name="identify", args=[[[[[]]]]]),
        b'\x00{"args":' + b"[" * 900,
    ],
    "configuration": [
        b"\x00" + GATEWAY.encode(), b"\x01" + NODES.encode(), b"\x02" + RULES.encode(), b"\x01", b"\x02a=" + b"[" * 3000,
        b"\x01" + b"\xef\xbb\xbf" + NODES.encode(), b"\x00" + GATEWAY.encode().replace(b"gw-1", b"\xff"), b"\x02a=" + b"{b=" * 900, b"\x00a=" + b"9" * 5000,
        b"\x01" + NODES.replace("45.5", "nan").encode(), b"\x02" + RULES.replace("30", str(10**400)).encode(),
        b"\x02" + RULES.replace("30", "1979-05-27T07:32:00Z").encode(),
    ],
}  # fmt: skip

_leaves = st.one_of(
    st.sampled_from(INTEGERS + TIMES),
    st.sampled_from([None, True, False]),
    st.sampled_from(TEXTS),
    st.binary(max_size=20),
)
items = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from([0, 1, 2, 7, 15, 22, (1 << 64) - 1, "k", -1]), inner, max_size=3)
    ),
    max_leaves=8,
)
_columns = st.lists(st.sampled_from([5, None, 0, 1, -1, 1 << 26, 1 << 27, -(1 << 27)]), min_size=1, max_size=5)
_ids = st.lists(
    st.sampled_from([*range(1, 31), 256 + 5, 256 + 17, 65_535, 12_345]), min_size=1, max_size=6, unique=True
)
_reports = st.tuples(
    _ids,
    st.sampled_from(TIMES) | st.lists(st.sampled_from([*TIMES, 0, 1, 60, -60, 86_400 * 400]), min_size=1, max_size=5),
    st.sampled_from([0, 1, 8, 60, 86_400, 1 << 31]),
    st.lists(st.sampled_from([5, None, 1 << 27, -(1 << 27)]) | _columns, min_size=1, max_size=6),
).map(list)
_alarms = st.tuples(
    st.sampled_from([1, 2, 3, 4, 5, 6, (1 << 64) - 1]), st.sampled_from(TIMES), st.sampled_from([1, 5, 14, 15, 17, 21, 24, 261, 65_535]),
    st.sampled_from([None, 0, 5, 1 << 27, -(1 << 27)]),
).flatmap(lambda head: st.lists(items, max_size=2).map(lambda rest: [*head, *rest]))  # fmt: skip
_statuses = st.dictionaries(st.sampled_from([*range(1, 26), 99, (1 << 64) - 1]), items, min_size=1, max_size=6)
_kinds = st.integers(0, 17)


def _near(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A seed with a few bytes replaced, cut out or put in."""

    def mutate(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        out = bytearray(raw)
        for at, cut, put in changes:
            at %= len(out) + 1
            out[at : at + cut] = put
        return bytes(out)

    change = st.tuples(st.integers(0, 4096), st.integers(0, 4), st.binary(max_size=4))
    return st.builds(mutate, st.sampled_from(seeds), st.lists(change, max_size=4))


def _sealed(kind: int, bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda flags, body: bytes((kind + 3 * flags,)) + cbor2.dumps(body, canonical=True)[:900],
        st.integers(0, 5),
        bodies,
    )


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(TEXTS)
    | st.sampled_from(["SF7BW125", "4/5", "LORA", "FSK"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "q", "above", "report_s", "time", "data"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_fields = st.dictionaries(
    st.sampled_from(
        ["tmst", "freq", "chan", "stat", "modu", "datr", "codr", "rssi", "lsnr", "size", "data", "time", "rsig"]
    ),
    _json,
    max_size=3,
)
STRATEGIES: dict[str, st.SearchStrategy[bytes]] = {
    "payload": _sealed(_REPORT, _reports) | _sealed(_ALARM, _alarms) | _sealed(_STATUS, _statuses) | _near(SEEDS["payload"])
    | st.builds(lambda kind, body: bytes((kind,)) + body, _kinds, st.binary(max_size=60)),
    "datagram": _near(SEEDS["datagram"]) | st.binary(max_size=60)
    | _fields.map(lambda f: b"\x01" + json.dumps(f).encode()[1:] + b"]}" if f else b"\x01")
    | st.builds(lambda body, kind: bytes((kind,)) + json.dumps({"rxpk": body, "stat": body}).encode(), _json, st.sampled_from([2, 3])),
    "request": _near(SEEDS["request"]) | st.builds(
        lambda who, name, args, more: _request(who, name=name, args=args, **more),
        st.integers(0, 15), st.sampled_from(["read_now", "valve", "interval", "limit", "config", "identify", "safe_mode", "x", ""]),
        st.lists(_json, max_size=3) | _json, st.dictionaries(st.sampled_from(["reason", "expires", "id", "requester", "y"]), _json, max_size=2),
    ),
    "configuration": _near(SEEDS["configuration"]) | st.builds(lambda which, body: bytes((which,)) + body, st.integers(0, 2), st.binary(max_size=80)),
}  # fmt: skip

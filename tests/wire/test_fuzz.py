"""Any bytes in the world: every reader gives a value or its own refusal, and never works longer than the size allows.

Work is counted in calls (sys.setprofile), not in seconds, so that a slow machine says the same.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motewire import cbor, downlink, frame, messages
from motewire.ccm import Ccm
from motewire.errors import WireError

from gateway.core import cbor as gateway_cbor
from gateway.core.decide import decide
from gateway.core.messages import decode_alarm, decode_status
from gateway.core.model import Node, NodeState, Reception
from gateway.core.receive import Header, parse
from gateway.core.refusals import Unreadable
from gateway.core.report import decode
from gateway.crypto import opener
from tests.wire import vms
from tests.wire.test_ccm import Block

VECTORS = json.loads(vms.VECTORS.read_text())
GOLDEN = [bytes.fromhex(v["hex"]) for s in VECTORS.values() if isinstance(s, list) for v in s]
NOW = 1767225600
KEY = bytes(range(16))
CALLS_A_BYTE = 60
CALLS_AT_MOST = 60_000
"""A frame of a few bytes may rightly hold 240 rows of 16 columns, 3840 values; past that, work goes with the bytes."""


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A golden vector with a few bytes replaced, cut out or put in: it reaches deeper than pure noise."""
    raw = bytearray(draw(st.sampled_from(GOLDEN)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw[: frame.MAX_FRAME])


def acks(data: bytes) -> None:
    """What a node does with a downlink."""
    known, _ = downlink.read_downlink(data, 0, len(data))
    ack = messages.Ack(known)
    ack.covers(7)


def opened(data: bytes) -> None:
    """Header and tag check as a node does them."""
    buf = bytearray(data)
    end = frame.parse_header(buf)[-1]
    Ccm(Block(KEY)).open(buf, end, len(buf), bytes(13))


READERS: dict[str, tuple[Callable[[bytes], Any], type[Exception]]] = {
    "node: cbor": (lambda b: cbor.read(b, 0, len(b)), WireError),
    "node: header": (frame.parse_header, WireError),
    "node: downlink": (acks, WireError),
    "node: open": (opened, WireError),
    "gateway: header": (parse, WireError),
    "gateway: cbor": (gateway_cbor.load, Unreadable),
    "gateway: report": (lambda b: decode(b, NOW, {900: (1, 257)}), Unreadable),
    "gateway: alarm": (lambda b: decode_alarm(b, NOW), Unreadable),
    "gateway: status": (decode_status, Unreadable),
}


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count calls, of Python and of C, while the block runs."""
    calls, before = [0], sys.getprofile()

    def note(_frame: Any, event: str, _arg: Any) -> None:
        calls[0] += event.endswith("call")

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=400)
@given(data=st.one_of(st.binary(max_size=300), mutants()))
def test_any_bytes_give_a_value_or_a_typed_refusal_in_bounded_work(name: str, data: bytes) -> None:
    read, refusal = READERS[name]
    with counted() as calls, suppress(refusal):
        read(data)
    assert calls[0] <= CALLS_AT_MOST + CALLS_A_BYTE * len(data)


REFUSED = object()


@settings(max_examples=400)
@given(data=mutants())
def test_both_readers_of_the_dialect_agree(data: bytes) -> None:
    """The node's reader and the gateway's scan with cbor2 behind it: the same value, or both refuse.

    Integers that no store and no JSON reader holds are refused by the gateway alone.
    """
    try:
        ours = cbor.read(data, 0, len(data))
    except WireError:
        ours = REFUSED
    if ours is REFUSED or _holds_more_than_64_bits(ours):
        with pytest.raises(Unreadable):
            gateway_cbor.load(data)
    else:
        assert gateway_cbor.load(data) == ours


def _holds_more_than_64_bits(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds_more_than_64_bits, cast("list[object]", value)))
    if isinstance(value, dict):
        return any(
            map(_holds_more_than_64_bits, (x for pair in cast("dict[object, object]", value).items() for x in pair))
        )
    return isinstance(value, int) and not -(1 << 63) <= value < 1 << 63


@pytest.mark.parametrize(
    "data",
    [
        b"\x99\x01\x00" * 300,  # arrays of 256 in arrays of 256
        b"\xb9\x01\x00" * 300,
        b"\x9b" + b"\xff" * 8,
        b"\x5b" + b"\x7f" + b"\xff" * 7,
        bytes.fromhex("85901018191418151816181718181819181a181b181c181d181e181f182018211822")[:2] * 400,
        bytes.fromhex("850c1a6955b9000018f0590380") + b"\xff" * 896,  # 240 escapes
        bytes.fromhex("850c1a6955b9000018f0590380") + b"\x00" * 896,
    ],
    ids=range(7),
)
def test_hostile_sizes_cost_no_more_than_their_bytes(data: bytes) -> None:
    for name, (read, refusal) in READERS.items():
        with counted() as calls, suppress(refusal):
            read(data)
        assert calls[0] <= 5_000 + CALLS_A_BYTE * len(data), name


@given(payload=st.one_of(st.binary(max_size=200), mutants()), kind=st.integers(0, 2))
def test_an_authentic_frame_of_any_payload_is_decided_upon(payload: bytes, kind: int) -> None:
    """Its counter is taken and it becomes an event; what cannot be read carries a refusal beside it and is kept."""
    payload = payload[: frame.MAX_FRAME - 9 - 8]
    buf = bytearray(9 + len(payload) + 8)
    at = frame.put_header(buf, kind, 263, 1, 0, True)
    buf[at : at + len(payload)] = payload
    nonce = bytearray(13)
    frame.put_nonce(nonce, frame.UP, 263, 0, 1)
    data = bytes(buf[: Ccm(Block(KEY)).seal(buf, at, at + len(payload), nonce)])
    header = parse(data)
    assert isinstance(header, Header)
    decision = decide(Node(263, "n", KEY), NodeState(), header, Reception(data, NOW, "lora", "r"), opener)
    assert decision.counter == 1 and decision.event is not None
    assert decision.refusal is None or decision.refusal.keep and decision.event.kind == "opaque"

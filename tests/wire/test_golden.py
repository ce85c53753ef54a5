"""The golden vectors hold on CPython, on the 64-bit VM and on the 32-bit VM (an ESP32's small ints and object sizes)."""

import json

import cbor2
import pytest
from motewire import EPOCH_2000
from motewire.frame import DOWN, DOWNLINK, max_frame

from gateway.core.messages import decode_alarm, decode_status
from gateway.core.model import Node, NodeState
from gateway.core.receive import Header, authenticate, parse
from gateway.core.refusals import Unreadable
from gateway.core.replay import Replay
from gateway.core.report import decode
from gateway.crypto import opener
from host_sim.vm32.lib.aes_block import Aes128
from tests.wire import replay, vms

VECTORS = json.loads(vms.VECTORS.read_text())
NOW = 1767225600


def named(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("v", VECTORS[section], ids=lambda v: v["name"])


def test_vectors_hold_on_cpython() -> None:
    assert replay.run(VECTORS, Aes128) == []


def test_vectors_hold_on_the_64_bit_vm() -> None:
    assert vms.in_64_bit_vm("replay", vms.VECTORS) == []


def test_vectors_hold_on_the_32_bit_vm() -> None:
    assert vms.in_32_bit_vm("replay", vms.VECTORS) == []


def test_the_replay_can_fail() -> None:
    """A changed vector must be noticed, or the three tests above say nothing."""
    vectors = json.loads(vms.VECTORS.read_text())
    vectors["reports"][0]["rows"][1][0] += 1
    vectors["frames"][0]["counter"] += 1
    vectors["maps"][0]["items"][0][1] += 1
    vectors["bad_payloads"][0]["cbor"] = "malformed"
    complaints = replay.run(vectors, Aes128)
    assert len(complaints) >= 5


def test_no_two_vectors_share_a_name() -> None:
    names = [v["name"] for section in VECTORS.values() if isinstance(section, list) for v in section]
    assert len(set(names)) == len(names) > 150


@pytest.mark.parametrize("v", VECTORS["reports"] + VECTORS["foreign"], ids=lambda v: v["name"])
def test_the_gateway_reads_a_golden_report(v: dict) -> None:
    announced = {number: tuple(ids) for number, ids in v.get("announced", [])}
    report = decode(bytes.fromhex(v["hex"]), v.get("received", NOW), announced)
    assert report.ids == tuple(v["ids"])
    assert report.times == tuple(t + EPOCH_2000 for t in v["times"])
    assert [list(row) for row in zip(*report.columns, strict=True)] == v["rows"]
    assert report.ext == (replay.value_of(v["ext"]) if "ext" in v else None)


@named("alarms")
def test_the_gateway_reads_a_golden_alarm(v: dict) -> None:
    a = decode_alarm(bytes.fromhex(v["hex"]), v.get("received", NOW))
    assert (a.code, a.t, a.quantity, a.value) == (v["code"], v["t"] + EPOCH_2000, v["quantity"], v["value"])
    assert a.limit == v["limit"]
    assert a.ext == (replay.value_of(v["ext"]) if "ext" in v else None)


@named("maps")
def test_a_golden_map_is_what_an_independent_codec_says(v: dict) -> None:
    meaning = {k: replay.value_of(x) for k, x in v["items"]}
    assert bytes.fromhex(v["hex"]) == cbor2.dumps(meaning, canonical=True)
    if v["kind"] != DOWNLINK:
        told = decode_status(bytes.fromhex(v["hex"]))
        assert len(told.values) + bool(told.schemas) == len(meaning)
        assert len(v["hex"]) // 2 <= max_frame(12) - 9 - 8  # every part of a status fits a frame at SF12


@named("frames")
def test_the_gateway_opens_a_golden_frame(v: dict) -> None:
    data = bytes.fromhex(v["hex"])
    node = Node(v["node"], "n", bytes.fromhex(v["key"]), v["epoch"])
    state = NodeState(epoch=v["epoch"], replay=Replay(next=max(0, v["counter"] - 3)))
    if v["direction"] == DOWN:
        refused = parse(data)
        assert not isinstance(refused, Header) and refused.reason == "wrong_direction"
        head = len(v["payload"]) // 2
        nonce = b"\x01" + b"".join(v[k].to_bytes(4, "big") for k in ("node", "epoch", "counter"))
        at = len(data) - 8 - head
        assert opener(node.key, nonce, data[at:], data[:at]) == bytes.fromhex(v["payload"])
        return
    header = parse(data)
    assert isinstance(header, Header)
    assert authenticate(node, state, header, data, opener) == (v["counter"], bytes.fromhex(v["payload"]))


@named("bad_headers")
def test_the_gateway_refuses_a_bad_header(v: dict) -> None:
    refused = parse(bytes.fromhex(v["hex"]))
    assert not isinstance(refused, Header)
    assert refused.reason == {"truncated": "too_short", "malformed": "garbage"}.get(v["reason"], v["reason"])
    assert refused.keep == (v["reason"] == "bad_version")  # a later version may be read one day


@named("bad_payloads")
def test_the_gateway_refuses_a_bad_payload_by_name(v: dict) -> None:
    raw = bytes.fromhex(v["hex"])
    with pytest.raises(Unreadable) as refusal:
        {0: lambda: decode(raw, NOW, {}), 1: lambda: decode_alarm(raw, NOW), 2: lambda: decode_status(raw)}[v["kind"]]()
    assert refusal.value.reason == v["reason"]

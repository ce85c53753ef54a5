"""The concentrator: what it forwards, which downlinks it takes, what it cannot hear. The gateway's end is a bare socket."""

from __future__ import annotations

import base64
import json
import socket

import pytest

from host_sim.air import Air, Modulation, Station, Transmission
from host_sim.forwarder import Forwarder, GatewaySilent
from host_sim.lora import time_on_air_us
from host_sim.receiver import Receiver

EUI = bytes.fromhex("aa555a0000000001")
UNIX0 = 1_772_409_600


class Peer:
    """A gateway's UDP socket under the test's control."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(30)

    def take(self):
        """(kind, token, json) of the next datagram."""
        data, self.peer = self.sock.recvfrom(65536)
        assert data[0] == 2 and data[4:12] == EUI
        return data[3], data[1:3], json.loads(data[12:]) if data[12:] else None

    def order(self, **txpk):
        self.sock.sendto(b"\2\x77\x88\3" + json.dumps({"txpk": txpk}).encode(), self.peer)

    def ack(self, token):
        self.sock.sendto(b"\2" + token + b"\4", self.peer)


@pytest.fixture
def setup():
    peer, air = Peer(), Air(1, shadow_db=0)
    forwarder = Forwarder(EUI, peer.sock.getsockname())
    receiver = Receiver(Station("rx", (45.0, 13.0), roof=True), EUI, air, forwarder, UNIX0, (1 << 32) - 1_000_000)
    air.stations |= {"rx": receiver.station, "n": Station("n", (45.001, 13.0))}
    yield peer, air, receiver
    forwarder.close()
    peer.sock.close()


def frame(start_us=2_000_000, freq=868_300_000, sf=9, sync=0x12, serial=1, payload=b"hello"):
    mod = Modulation(freq, sf, sync=sync)
    return Transmission("n", serial, start_us, start_us + time_on_air_us(sf, len(payload)), mod, 14, payload)


def test_a_heard_frame_is_pushed_with_virtual_time_and_counter(setup):
    peer, air, receiver = setup
    tx = frame()
    air.transmit(tx)
    receiver.forward(receiver.hear(tx))
    kind, _, body = peer.take()
    (rx,) = body["rxpk"]
    assert kind == 0
    assert rx["time"] == f"2026-03-02T00:00:0{tx.end // 1_000_000}.{tx.end % 1_000_000:06d}Z"
    assert rx["tmst"] == tx.end - 1_000_000  # wrapped
    assert (rx["freq"], rx["datr"], rx["codr"], rx["stat"], rx["size"]) == (868.3, "SF9BW125", "4/5", 1, 5)
    assert base64.b64decode(rx["data"]) == b"hello"
    assert -115 < rx["rssi"] < -80


def test_foreign_sync_words_and_channels_are_not_heard(setup):
    _, air, receiver = setup
    for i, tx in enumerate((frame(sync=0x34), frame(freq=869_525_000, serial=2))):
        air.transmit(tx)
        assert receiver.hear(tx) is None, i


def test_it_is_deaf_while_it_transmits(setup):
    _, air, receiver = setup
    tx = frame()
    own = Transmission("rx", 1, tx.start + 1000, tx.start + 50_000, Modulation(869_525_000, 7), 14, b"x", down=True)
    for t in (tx, own):
        air.transmit(t)
    assert receiver.hear(tx) is None


def test_it_demodulates_eight_frames_at_once_and_no_ninth(setup):
    _, air, receiver = setup
    heard = []
    for i in range(9):
        tx = Transmission(
            "n", i, 2_000_000, 2_500_000, Modulation(868_100_000 + 200_000 * (i % 3), 7 + i // 3), 14, b"x"
        )
        air.stations[f"m{i}"] = Station(f"m{i}", (45.001, 13.0))
        heard.append(Transmission(f"m{i}", i, tx.start, tx.end, tx.mod, 14, b"x"))
        air.transmit(heard[-1])
    assert sum(receiver.hear(t) is not None for t in heard) == 8


def pull(peer, receiver, now, *orders):
    receiver.pull_begin()
    kind, token, _ = peer.take()
    assert kind == 2
    for order in orders:
        peer.order(**order)
    peer.ack(token)
    sent = receiver.pull_end(now)
    errors = []
    for _ in orders:
        kind, token, body = peer.take()
        assert kind == 5 and token == b"\x77\x88"
        errors.append(body["txpk_ack"]["error"] if body else "")
    return sent, errors


def order(receiver, at, **changes):
    return {
        "tmst": receiver.tmst(at), "freq": 868.3, "powe": 14, "modu": "LORA", "datr": "SF9BW125", "codr": "4/5", "ipol": False,
        "size": 5, "data": base64.b64encode(b"reply").decode().rstrip("="),
    } | changes  # fmt: skip


def test_a_downlink_goes_out_at_its_tmst(setup):
    peer, _, receiver = setup
    sent, errors = pull(peer, receiver, 10_000_000, order(receiver, 11_000_000))
    assert errors == [""]
    assert [(t.start, t.payload, t.mod.sf, t.down) for t in sent] == [(11_000_000, b"reply", 9, True)]
    assert sent[0].end - sent[0].start == time_on_air_us(9, 5)


def test_downlinks_it_cannot_keep_are_refused_by_name(setup):
    peer, _, receiver = setup
    now = 10_000_000
    sent, errors = pull(
        peer,
        receiver,
        now,
        order(receiver, now - 5_000),
        order(receiver, now + 11_000_000),
        order(receiver, now + 1_000_000),
        order(receiver, now + 1_050_000),
        order(receiver, now + 5_000_000, freq=433.1),
        order(receiver, now + 5_000_000, powe=30),
    )
    assert errors == ["TOO_LATE", "TOO_EARLY", "", "COLLISION_PACKET", "TX_FREQ", "TX_POWER"]
    assert len(sent) == 1 and receiver.refused["TOO_LATE"] == 1


def test_a_silent_gateway_is_an_error(setup, monkeypatch):
    peer, _, receiver = setup
    receiver._forwarder._timeout = 0.1
    receiver.pull_begin()
    with pytest.raises(GatewaySilent, match="aa555a0000000001"):
        receiver.pull_end(0)

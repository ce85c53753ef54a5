"""A small torture of the real gateway, and that it sees what it is there to see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_sim.load import Mote
from host_sim.outboxes import Load, Subscriber
from host_sim.torture_service import Toll, torture_service
from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import T0
from tools.cli import cli


@pytest.mark.slow
def test_kills_a_bounced_broker_and_a_full_disk_lose_nothing(tmp_path: Path, mosquitto: BrokerAddress) -> None:
    toll = torture_service(tmp_path, kills=4, seed=3)
    assert toll.ok, toll.as_dict()
    assert (toll.kills, toll.lost, toll.undetectable, toll.downlinks_reused, toll.never_acked) == (4, 0, 0, 0, 0)
    assert toll.bounces >= 1 and toll.disk_full_seen and toll.alarms_while_full > 0 and toll.acked > 300


SOUND = {"kills": 4, "acked": 9, "duplicates_allowed": 100}


@pytest.mark.parametrize(
    "wrong",
    [{"lost": 1}, {"never_acked": 1}, {"undetectable": 1}, {"downlinks_reused": 1}, {"duplicates": 101},
     {"disk": "tmpfs"}, {"disk": "tmpfs", "disk_full_seen": True, "alarms_while_full": 3}],
)  # fmt: skip
def test_whatever_is_wrong_is_a_failure(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, int]) -> None:
    assert Toll(1, **SOUND).ok
    toll = Toll(1, **SOUND, **wrong)
    monkeypatch.setattr("tools.torture_gateway.torture_service", lambda *_: toll)
    done = CliRunner().invoke(cli, ["sim", "torture", "gateway", "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["ok"] is False and "--seed 1 --keep" in done.stderr


def pack(ident: str, t: int, value: float = 1.0) -> bytes:
    return json.dumps(
        [{"bn": "urn:x:", "bt": t, "id": ident, "n": "pm10", "u": "kg/m3", "v": value}, {"t": 60, "v": 2.0}]
    ).encode()


def test_the_subscriber_tells_repeats_from_what_looks_like_news(mosquitto: BrokerAddress) -> None:
    s = Subscriber(mosquitto)
    try:
        topic = "city/v1/node/n-1/senml"
        for payload in (pack("1:0:1", T0), pack("1:0:1", T0), pack("1:0:2", T0 + 120)):
            s._arrived(topic, payload, False)
        s._arrived("city/v1/node/n-1/event", b'{"id": "1:0:3:0"}', False)
        s._arrived("city/v1/node/n-1/event", b'{"id": "1:0:9:0"}', True)
        assert s.seen == {(1, 1): 2, (1, 2): 1, (1, 3): 1} and s.undetectable == []
        s._arrived(topic, pack("1:0:2", T0 + 120, 3.0), False)
        s._arrived(topic, pack("1:0:7", T0), False)
        assert len(s.undetectable) == 3, "other content under a known id; two known rows under another"
        assert s.wait({(1, 1)}, 0.1) and not s.wait({(5, 5)}, 0.1)
    finally:
        s.close()


def test_a_downlink_counter_with_two_contents_is_seen() -> None:
    from motewire import frame
    from motewire.downlink import put_downlink

    m = Mote(263)
    load = Load([m], 0, 1, T0)

    def down(counter: int, next_: int) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESCCM

        buf, head = bytearray(64), bytearray(frame.HEADER_MAX)
        plain = bytes(buf[: put_downlink(buf, 0, [(1, next_)])])
        end = frame.put_header(head, frame.DOWNLINK, m.id, counter, 0, True)
        nonce = bytearray(frame.NONCE)
        frame.put_nonce(nonce, frame.DOWN, m.id, 0, counter)
        return bytes(head[:end]) + AESCCM(m.key, tag_length=8).encrypt(bytes(nonce), plain, bytes(head[:end]))

    for counter, next_ in ((1, 2), (1, 2), (2, 3)):
        load._answer(down(counter, next_))
    assert load.reused == []
    load._answer(down(2, 4))
    assert load.reused == [(263, 2)]

"""The packet forwarder's link in front of a real pipeline: what receivers claim, which address they speak from, what they are sent."""

from __future__ import annotations

import base64
import json
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import UdpForwarderConfig
from gateway.links.udp_forwarder import PULL_ACK, PULL_DATA, PULL_RESP, PUSH_ACK, PUSH_DATA, TX_ACK, UdpForwarderLink
from tests.gateway.test_pipeline import World

ONE, TWO = "aa555a0000000001", "aa555a0000000002"
HOME, THIEF = ("10.0.0.7", 40001), ("10.0.0.66", 40001)


class Wire:
    """The socket: what was sent, and to whom."""

    def __init__(self) -> None:
        self.out: list[tuple[bytes, tuple[Any, ...]]] = []

    def sendto(self, data: bytes, address: tuple[Any, ...]) -> None:
        self.out.append((data, address))

    def close(self) -> None:
        return None


class Mast:
    """A world whose only link is the real one; datagrams come from any address."""

    def __init__(self, **config: Any) -> None:
        self.world = World()
        w = self.world
        config = {"allow": frozenset((ONE, TWO)), "collect_ms": 0, **config}
        self.config = UdpForwarderConfig("lora", "127.0.0.1", 0, **config)
        self.link = UdpForwarderLink(self.config, w.pipeline.deliver, w.pipeline.flush, w.clock, w.metrics)
        self.wire = Wire()
        self.link._transport, self.link._taking = self.wire, True  # type: ignore[assignment]
        w.pipeline.attach(self.link, 0.0)

    def datagram(self, kind: int, body: bytes = b"", eui: str = ONE, address: tuple[Any, ...] = HOME) -> None:
        self.link.datagram_received(bytes((2, 7, 8, kind)) + bytes.fromhex(eui) + body, address)

    def pull(self, eui: str = ONE, address: tuple[Any, ...] = HOME) -> None:
        self.datagram(PULL_DATA, b"", eui, address)

    async def push(
        self, data: bytes, *heard: dict[str, Any], eui: str = ONE, address: tuple[Any, ...] = HOME
    ) -> list[tuple[dict[str, Any], tuple[Any, ...]]]:
        """One datagram with one rxpk per entry of `heard`; return the txpk and address of every downlink."""
        self.wire.out.clear()
        packets = [
            {"tmst": 1_000_000, "freq": 868.1, "stat": 1, "modu": "LORA", "datr": "SF7BW125", "codr": "4/5", "rssi": -80, "lsnr": 7.5,
             "size": len(data), "data": base64.b64encode(data).decode(), **fields}
            for fields in heard or ({},)
        ]  # fmt: skip
        self.datagram(PUSH_DATA, json.dumps({"rxpk": packets}).encode(), eui, address)
        await self.world.pipeline.settle()
        return self.downlinks()

    def downlinks(self) -> list[tuple[dict[str, Any], tuple[Any, ...]]]:
        return [(json.loads(d[4:])["txpk"], to) for d, to in self.wire.out if d[3] == PULL_RESP]

    def kinds(self) -> list[int]:
        return [d[3] for d, _ in self.wire.out]


@pytest.fixture
async def mast() -> Mast:
    mast = Mast()
    mast.pull()
    mast.pull(TWO)
    return mast


WEAK = {"freq": 868.3, "rssi": -112, "lsnr": -9.0}
STRONG = {"freq": 868.1, "rssi": -38, "lsnr": 9.5}


@pytest.mark.parametrize("gap", [0, 4, -4, 900, 7_999])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("base", [5_000_000, 0xFFFFFFFE, 0])
async def test_a_frame_heard_on_two_channels_is_answered_once_on_the_one_it_was_sent_on(
    mast: Mast, gap: int, order: tuple[int, int], base: int
) -> None:
    pair = [{**WEAK, "tmst": base}, {**STRONG, "tmst": base + gap & 0xFFFFFFFF}]
    found = await mast.push(mast.world.mote.status({1: 5}), *(pair[i] for i in order))
    ((txpk, _),) = found
    assert (txpk["freq"], txpk["tmst"]) == (868.1, base + gap + 1_000_000 & 0xFFFFFFFF)
    (entry,) = mast.world.engine.fetch(0, 10)
    assert (entry.event.rssi, entry.event.copies) == (-38, 2)
    assert sum(row[3] for row in mast.world.engine.airtime(0)) < 100_000, "booked once"


async def test_a_ghost_at_another_spreading_factor_and_one_in_another_datagram_are_copies_too() -> None:
    mast = Mast(collect_ms=0)
    mast.pull()
    data = mast.world.mote.status({1: 5})
    await mast.push(data, {**WEAK, "datr": "SF8BW125", "tmst": 5_000_100}, {**STRONG, "tmst": 5_000_000})
    ((txpk, _),) = mast.downlinks()
    assert txpk["datr"] == "SF7BW125" and txpk["tmst"] == 6_000_000
    assert await mast.push(data, {**WEAK, "tmst": 5_000_004}) == []
    assert mast.world.metrics.totals["copies"] == 2 and mast.world.metrics.refused["replayed"] == 0


async def test_the_same_bytes_sent_again_within_a_second_are_a_repeat_and_answered_on_their_own(mast: Mast) -> None:
    data = mast.world.mote.status({1: 5})
    await mast.push(data, {"tmst": 5_000_000})
    ((txpk, _),) = await mast.push(data, {"tmst": 5_600_000, "freq": 868.5})
    assert (txpk["freq"], txpk["tmst"]) == (868.5, 6_600_000)
    assert mast.world.metrics.totals["copies"] == 0 and mast.world.metrics.refused["replayed"] == 1


@pytest.mark.parametrize(
    "claim", [{"rssi": 100}, {"rssi": 1}, {"rssi": 1e308}, {"rssi": -1e9}, {"rssi": -1, "lsnr": 1e300}]
)
@pytest.mark.parametrize("first", [True, False])
async def test_a_claim_no_receiver_can_measure_wins_nothing(mast: Mast, claim: dict[str, Any], first: bool) -> None:
    data = mast.world.mote.status({1: 5})
    mast.link._deliver, taken = (lambda rx: receptions.append(rx)), mast.link._deliver  # type: ignore[assignment,func-returns-value]
    receptions: list[Any] = []
    for eui, fields in ((ONE, {"rssi": -119, "lsnr": -15.0}), (TWO, claim))[:: -1 if first else 1]:
        await mast.push(data, fields, eui=eui)
    mast.link._deliver = taken
    for rx in receptions:
        taken(rx)
    await mast.world.pipeline.settle()
    assert [bytes.fromhex(ONE)] == [bytes.fromhex(e.event.receiver) for e in mast.world.engine.fetch(0, 10)]
    ((txpk, to),) = mast.downlinks()
    assert to == HOME and txpk["tmst"] == 2_000_000


async def test_an_impossible_rssi_is_published_as_none(mast: Mast) -> None:
    await mast.push(mast.world.mote.report(1767225600, [[3, 5, 5, 231, 631, 121]]), {"rssi": 77})
    (entry,) = mast.world.engine.fetch(0, 10)
    assert entry.event.rssi is None and mast.world.metrics.totals["rssi_implausible"] == 1


async def test_a_pinned_receiver_is_heard_and_answered_at_its_own_address_only() -> None:
    mast = Mast(pins={ONE: (ip_network("10.0.0.7"),)})
    mast.pull()
    mast.pull(ONE, THIEF)
    mast.datagram(TX_ACK, b"", ONE, THIEF)
    data = mast.world.mote.status({1: 5})
    assert await mast.push(data, address=THIEF) == [] and mast.kinds() == [], "not even acknowledged"
    assert mast.world.ids() == [] and mast.world.metrics.refused["wrong_address"] == 3
    ((_, to),) = await mast.push(data)
    assert to == HOME and mast.kinds() == [PUSH_ACK, PULL_RESP]
    mast.pull(ONE, ("10.0.0.7", 50999))
    mast.world.clock.time += 20
    up = ("10.0.0.7", 40002)  # a forwarder pushes from a socket of its own
    ((_, to),) = await mast.push(mast.world.mote.status({1: 6}), address=up)
    assert to == ("10.0.0.7", 50999), "a router may give it another port"


@pytest.mark.parametrize(
    ("pin", "host", "may"),
    [("10.0.0.0/24", "10.0.0.66", True), ("10.0.0.0/24", "10.0.1.66", False), ("10.0.0.7", "::ffff:10.0.0.7", True),
     ("fd00::/64", "fd00::7", True), ("fd00::/64", "fe80::7%eth0", False), ("fe80::7", "fe80::7%eth0", True), ("10.0.0.7", "fd00::7", False)],
)  # fmt: skip
def test_a_pin_is_an_address_or_a_network_of_either_kind(pin: str, host: str, may: bool) -> None:
    config = UdpForwarderConfig("lora", "::", 0, frozenset((ONE, TWO)), pins={ONE: (ip_network(pin),)})
    assert config.may_come_from(ONE, host) is may
    assert config.may_come_from(TWO, host), "one without a pin may come from anywhere"


async def test_a_reload_that_pins_a_receiver_forgets_the_path_to_a_thief() -> None:
    mast = Mast()
    mast.pull(ONE, THIEF)
    mast.link.use(
        UdpForwarderConfig("lora", "127.0.0.1", 0, frozenset((ONE, TWO)), pins={ONE: (ip_network("10.0.0.7"),)})
    )
    assert await mast.push(mast.world.mote.status({1: 5})) == []
    assert mast.world.metrics.refused["no_downlink_path"] == 1
    mast.pull()
    assert mast.kinds()[-1] == PULL_ACK
    mast.world.clock.time += 20
    ((_, to),) = await mast.push(mast.world.mote.status({1: 6}))
    assert to == HOME


async def test_who_pulls_under_the_eui_of_a_receiver_that_is_there_gets_none_of_its_answers(mast: Mast) -> None:
    mast.pull(ONE, THIEF)  # last, and from another host
    ((_, to),) = await mast.push(mast.world.mote.status({1: 5}))
    assert to == HOME


@given(st.one_of(st.none(), st.floats(allow_nan=False), st.integers(-(2**60), 2**60)))
def test_whatever_strength_is_claimed_it_is_a_plausible_dbm_or_none(claimed: float | None) -> None:
    link = UdpForwarderLink.__new__(UdpForwarderLink)
    link._metrics = type("M", (), {"totals": {"rssi_implausible": 0}})()
    found = link._rssi(claimed)
    assert found is None or -200 <= found <= 0 and claimed is not None and abs(found - claimed) <= 0.5

"""What packet forwarders send: standard and nearly standard is taken, everything else is counted, and one bad part spoils nothing beside it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.config import UdpForwarderConfig
from gateway.core.model import Reception
from gateway.links import forwarders, udp_forwarder
from gateway.links.forwarders import ALIVE_S, EVEN_US, FORGET_S, MAX_FORWARDERS, Forwarder, Forwarders
from gateway.links.udp_forwarder import PULL_ACK, PULL_DATA, PULL_RESP, PUSH_ACK, PUSH_DATA, TX_ACK, UdpForwarderLink
from gateway.metrics import Metrics

EUI = bytes.fromhex("aa555a0000000001")
HOME = ("127.0.0.1", 4001)
GOOD: dict[str, Any] = {
    "tmst": 5_000_000, "freq": 868.1, "stat": 1, "modu": "LORA", "datr": "SF7BW125", "codr": "4/5", "rssi": -80, "lsnr": 7.5,
    "size": 3, "data": base64.b64encode(b"abc").decode(),
}  # fmt: skip


class Wires:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[Any, ...]]] = []

    def sendto(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.sent.append((data, addr))

    def close(self) -> None: ...


class Clock:
    follows_receivers = False

    def __init__(self) -> None:
        self.times: list[float] = []

    def now(self) -> float:
        return 1e9

    def heard(self, unix: float, receiver: str) -> None:
        assert receiver == EUI.hex()
        self.times.append(unix)


class Lab:
    """A link without a socket. taken: what it delivered."""

    def __init__(self, deliver: Any = None) -> None:
        self.metrics, self.clock, self.wires = Metrics(), Clock(), Wires()
        self.taken: list[Reception] = []
        self.link = UdpForwarderLink(
            UdpForwarderConfig("lora", "127.0.0.1", 0), deliver or self.take, lambda: None, self.clock, self.metrics  # type: ignore[arg-type]
        )  # fmt: skip
        self.link._transport, self.link._taking = self.wires, True  # type: ignore[assignment]

    def take(self, rx: Reception) -> None:
        self.taken.append(rx)

    def say(self, kind: int, body: bytes = b"", addr: tuple[Any, ...] = HOME, eui: bytes = EUI) -> None:
        self.link.datagram_received(bytes((2, 1, 2, kind)) + eui + body, addr)

    def push(self, *rxpk: Any, addr: tuple[Any, ...] = HOME, tail: bytes = b"", **more: Any) -> None:
        self.say(PUSH_DATA, json.dumps({"rxpk": list(rxpk), **more}).encode() + tail, addr)

    @property
    def refused(self) -> dict[str, int]:
        return {k: n for k, n in self.metrics.refused.items() if n}


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\0\0\0\0", b"\0left over of a longer one}", b"\n", b" \0\xff\xfe"],
    ids=["nul", "nuls", "rest", "newline", "bytes"],
)
def test_a_c_string_is_sent_whole_and_taken(lab: Lab, tail: bytes) -> None:
    lab.push(GOOD, tail=tail)
    assert [rx.data for rx in lab.taken] == [b"abc"] and not lab.refused


@pytest.mark.parametrize(
    "stat",
    [{"time": 7}, [], "x", 5, {"time": ["a"]}, {"time": "no time"}, None, {"time": None}, {}, {"rxnb": "x"}, True],
    ids=str,
)
def test_a_stat_of_any_kind_spoils_no_packet_beside_it(lab: Lab, stat: Any) -> None:
    lab.push(GOOD, stat=stat)
    assert [rx.data for rx in lab.taken] == [b"abc"]
    assert set(lab.refused) <= {"bad_stat"} and lab.clock.times == []


def test_a_good_stat_beside_a_bad_packet_gives_the_time(lab: Lab) -> None:
    lab.push({"data": 7}, GOOD, stat={"time": "2026-01-01 00:00:10 GMT"})
    assert len(lab.taken) == 1 and lab.refused == {"bad_json": 1} and lab.clock.times == [1767225610.0]


def test_numbers_may_be_texts(lab: Lab) -> None:
    lab.push({k: str(v) if isinstance(v, int | float) else v for k, v in GOOD.items()})
    (rx,) = lab.taken
    assert (rx.rssi, rx.snr, rx.radio and rx.radio.freq_hz, rx.radio and rx.radio.tmst) == (
        -80,
        7.5,
        868_100_000,
        5_000_000,
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", 1e308, "1e308", None, -500])
def test_a_strength_that_is_none_is_none(lab: Lab, value: Any) -> None:
    lab.push({**GOOD, "rssi": value, "lsnr": value})
    assert len(lab.taken) == 1 and not lab.metrics.refused["internal"]
    assert lab.taken[0].snr is None
    assert lab.taken[0].rssi is None or -200 <= lab.taken[0].rssi <= 100


def test_of_several_antennas_the_strongest_counts(lab: Lab) -> None:
    base = {k: v for k, v in GOOD.items() if k not in ("rssi", "lsnr")}
    lab.push(
        {
            **base,
            "rsig": [
                {"ant": 0, "chan": 7, "rssic": -112, "lsnr": -2.5},
                {"ant": 1, "chan": 7, "rssic": -97, "lsnr": 5.2},
            ],
        }
    )
    for odd in ([], [{}], 5, None, [{"rssic": "x"}], [[]]):
        lab.push({**base, "rsig": odd})
    assert [(rx.rssi, rx.snr) for rx in lab.taken] == [(-97, 5.2), *[(None, None)] * 6]


@pytest.mark.parametrize(("codr", "meant"), [("4/5", "4/5"), ("4/8", "4/8"), ("2/3", "4/6"), ("1/2", "4/8")])
def test_old_names_of_coding_rates_are_known(lab: Lab, codr: str, meant: str) -> None:
    lab.push({**GOOD, "codr": codr})
    assert lab.taken[0].radio is not None and lab.taken[0].radio.codr == meant


@pytest.mark.parametrize("codr", ["OFF", "5/4", "4/9", ""])
def test_what_is_no_coding_rate_is_not_lora(lab: Lab, codr: str) -> None:
    lab.push({**GOOD, "codr": codr})
    assert lab.refused == {"not_lora": 1}


def test_a_description_in_another_encoding_spoils_nothing(lab: Lab) -> None:
    lab.say(
        PUSH_DATA,
        b'{"rxpk":[' + json.dumps(GOOD).encode() + b'],"stat":{"time":"2026-01-01 00:00:10 GMT","desc":"Ko\xe8evje"}}',
    )
    lab.say(PUSH_DATA, b"\xef\xbb\xbf" + json.dumps({"rxpk": [GOOD]}).encode())
    assert len(lab.taken) == 2 and lab.refused in ({}, {"bad_stat": 1})


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 20_000, b'{"rxpk":[' + b"[" * 20_000, b'{"rxpk":[' + b"[" * 500 + b"]" * 500 + b"]}", b'{"stat":' + b'{"a":' * 3000, b"",
        b"{", b"null", b'{"rxpk":{}}', b'{"rxpk":[{"data":"' + b"9" * 9000, b'{"rxpk":[{"tmst":' + b"9" * 6000 + b"}]}",
    ],
    ids=range(10),
)  # fmt: skip
def test_any_depth_and_length_is_one_datagrams_fault(lab: Lab, body: bytes) -> None:
    lab.say(PUSH_DATA, body)
    lab.say(TX_ACK, body)
    assert set(lab.refused) <= {"bad_json", "bad_stat"} and not lab.metrics.refused["internal"]
    lab.push(GOOD)
    assert len(lab.taken) == 1


def test_a_fault_of_ours_is_one_packets_fault() -> None:
    taken: list[bytes] = []

    def deliver(rx: Reception) -> None:
        if rx.data == b"bad":
            raise OverflowError
        taken.append(rx.data)

    lab = Lab(deliver)
    bad = {**GOOD, "data": base64.b64encode(b"bad").decode()}
    with capture_logs() as lines:
        for _ in range(100):
            lab.push(GOOD, bad, GOOD, stat={"time": "2026-01-01 00:00:10 GMT"})
    assert taken == [b"abc"] * 200 and lab.metrics.refused["internal"] == 100 and len(lab.clock.times) == 100
    assert len([line for line in lines if line["event"] == "internal"]) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "time", "rssic", "lsnr"]), inner, max_size=3)
    ),
    max_leaves=8,
)
packets = st.fixed_dictionaries({}, optional=dict.fromkeys((*GOOD, "time", "rsig"), json_values)).map(
    lambda odd: {**GOOD, **odd}
)


@given(
    st.one_of(
        st.binary(max_size=64),
        st.builds(lambda kind, body: bytes((2, 1, 2, kind)) + EUI + body, st.sampled_from([PUSH_DATA, TX_ACK, PULL_DATA]), st.binary(max_size=80)),
        st.builds(
            lambda rxpk, stat, cut: (bytes((2, 1, 2, PUSH_DATA)) + EUI + json.dumps({"rxpk": rxpk, "stat": stat}).encode())[: cut or None],
            st.lists(packets, max_size=3) | json_values, json_values, st.just(0) | st.integers(12, 400),
        ),
    )
)  # fmt: skip
def test_any_datagram_is_taken_or_counted_and_raises_nothing(data: bytes) -> None:
    async def run() -> None:
        lab = Lab()
        lab.link.datagram_received(data, HOME)
        assert not lab.metrics.refused["internal"], lab.metrics.faults
        lab.push(GOOD)
        assert lab.taken and lab.taken[-1].data == b"abc"

    asyncio.run(run())


def test_each_sender_and_kind_leaves_one_line(lab: Lab) -> None:
    other = bytes.fromhex("aa555a0000000002")
    with capture_logs() as lines:
        for _ in range(500):
            lab.say(PUSH_DATA, b"{")
            lab.say(PUSH_DATA, b"{", eui=other)
            lab.push({**GOOD, "stat": -1})
            lab.link.datagram_received(b"x", ("10.0.0.9", 1))
    told = Counter((line["reason"], line["receiver"]) for line in lines if line["event"] == "datagram_refused")
    assert told == {
        ("bad_json", EUI.hex()): 1,
        ("bad_json", other.hex()): 1,
        ("bad_crc", EUI.hex()): 1,
        ("bad_datagram", "10.0.0.9"): 1,
    }
    assert lab.refused == {"bad_json": 1000, "bad_crc": 500, "bad_datagram": 500}


def test_made_up_senders_leave_a_bounded_number_of_lines(lab: Lab) -> None:
    with capture_logs() as lines:
        for n in range(5000):
            lab.say(PUSH_DATA, b"{", ("10.0.0.1", 5), n.to_bytes(8, "big"))
            lab.link.datagram_received(b"", (f"10.1.{n >> 8}.{n & 255}", 1))
    assert len(lines) <= 64


def test_made_up_euis_make_room_once_they_are_silent() -> None:
    all_of_them, now = Forwarders(), 0.0
    for n in range(MAX_FORWARDERS):
        assert all_of_them.enter(n.to_bytes(8, "big"), now) is not None
    honest = bytes.fromhex("aa" * 8)
    assert all_of_them.enter(honest, now + FORGET_S - 1) is None
    assert all_of_them.enter(honest, now + FORGET_S) is not None
    assert len(list(all_of_them)) == MAX_FORWARDERS


def answer_of(lab: Lab, rx: Reception) -> tuple[Any, ...] | None:
    lab.wires.sent.clear()
    lab.link.send(rx, 7, b"down")
    return next((addr for data, addr in lab.wires.sent if data[3] == PULL_RESP), None)


def test_the_box_that_heard_is_answered_and_two_boxes_of_one_eui_are_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(udp_forwarder.time, "monotonic", lambda: now[0])
    boxes = {("10.0.0.7", 5000): 0, ("10.0.0.8", 5000): 3_000_000_000}
    lab.link.use(UdpForwarderConfig("lora", "127.0.0.1", 0, frozenset((EUI.hex(),))))
    with capture_logs() as lines:
        for n in range(8):
            for (ip, port), offset in boxes.items():
                now[0] += 7
                lab.say(PULL_DATA, addr=(ip, port + 1))  # its other socket
                tmst = round(now[0] * 1e6 + offset) % (1 << 32)
                lab.push(
                    {**GOOD, "tmst": tmst, "data": base64.b64encode(bytes((n,))).decode(), "size": 1}, addr=(ip, port)
                )
                assert answer_of(lab, lab.taken[-1]) == (ip, port + 1)
    first, second = lab.taken[-2:]
    assert [answer_of(lab, rx) for rx in (first, second, first)] == [
        ("10.0.0.7", 5001),
        ("10.0.0.8", 5001),
        ("10.0.0.7", 5001),
    ]
    (problem,) = lab.link.problems()
    assert problem.code == "receiver_twin" and all(part in problem.text for part in (EUI.hex(), "10.0.0.7", "10.0.0.8"))
    assert [line["event"] for line in lines if line["event"] == "receiver_twin"] == ["receiver_twin"]
    now[0] += forwarders.TOLD_S
    assert list(lab.link.problems()) == []


def drive(pushes: list[tuple[float, tuple[str, int], int]]) -> Forwarder:
    f = Forwarder(0.0)
    for now, address, offset in pushes:
        f.pushed(address, round(now * 1e6 + offset) % (1 << 32), now)
    return f


A, B = ("10.0.0.7", 1), ("10.0.0.8", 1)


@pytest.mark.parametrize(
    "pushes",
    [
        [(n * 10.0, A, 0) for n in range(20)],
        [(n * 10.0, A, 0 if n < 10 else 77_000_000) for n in range(20)],  # started anew
        [(n * 10.0, A if n < 10 else B, 0) for n in range(20)],  # another address, the same box
        [(n * 10.0, A if n < 10 else B, 0 if n < 10 else 900_000_000) for n in range(20)],  # replaced
        [(n * 10.0, (A, B)[n % 2], EVEN_US // 2 * (n % 2)) for n in range(20)],  # one box behind two addresses
        [(n * 10.0, A, n * 400_000_000 % (1 << 32)) for n in range(20)],  # one whose counter is none
    ],
    ids=["one", "restart", "moved", "replaced", "two ways", "erratic"],
)
def test_one_box_is_not_taken_for_two(pushes: list[tuple[float, tuple[str, int], int]]) -> None:
    assert drive(pushes).twins is None


def test_a_counter_that_wraps_is_still_one_line() -> None:
    f = drive([(n * 600.0, (A, B)[n % 2], 0) for n in range(30)])  # five hours, wraps every 72 min
    assert f.twins is None


def test_a_new_port_of_the_same_host_is_where_downlinks_go() -> None:
    f = Forwarder(0.0)
    f.pulled(("10.0.0.7", 1000), 0.0)
    f.pushed(("10.0.0.7", 2000), 77, 1.0)
    f.pulled(("10.0.0.7", 1001), 2.0)
    assert f.path(77, 3.0) == ("10.0.0.7", 1001)
    f.pulled(("10.0.0.9", 1), 4.0)
    assert f.path(77, 5.0) == ("10.0.0.7", 1001), "another host that pulls takes no answer of a box that is there"
    f.pulled(("10.0.0.9", 1), ALIVE_S + 10)
    assert f.path(77, ALIVE_S + 10) == ("10.0.0.9", 1), "but one of a box that has gone"
    f.only_from(lambda host: host == "10.0.0.7")
    assert f.path(78, ALIVE_S + 10) == ("10.0.0.7", 1001)


async def test_a_socket_that_the_loop_closes_is_opened_anew() -> None:
    lab = Lab()
    lab.link._transport = None
    place = await lab.link.start()
    port = int(place.rsplit(":", 1)[1])
    lab.link._config = UdpForwarderConfig("lora", "127.0.0.1", port)
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    class Far(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
            answers.put_nowait(data)

    far, _ = await loop.create_datagram_endpoint(Far, remote_addr=("127.0.0.1", port))
    assert lab.link._transport is not None
    lab.link._transport._fatal_error(MemoryError("as recvfrom may raise"))  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    assert not lab.link.connected
    async with asyncio.timeout(60):
        while not lab.link.connected:
            await asyncio.sleep(0.05)
        far.sendto(bytes((2, 1, 2, PUSH_DATA)) + EUI + json.dumps({"rxpk": [GOOD]}).encode())
        assert (await answers.get())[3] == PUSH_ACK
    assert len(lab.taken) == 1 and lab.metrics.restarts["link-lora"] == 1
    far.sendto(bytes((2, 1, 2, PULL_DATA)) + EUI)
    assert (await answers.get())[3] == PULL_ACK
    far.close()
    await lab.link.close()

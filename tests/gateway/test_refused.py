"""What a broker may do to an output by what it retains, refuses and shares: it costs the one message, and never the output."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession
from gateway.outputs.flight import Flight
from gateway.outputs.mark import Mark, mark_of
from gateway.outputs.message import Message
from gateway.outputs.refusal import MOST, TIMES, Refusals
from tests.gateway.conftest import Mosquitto
from tests.gateway.world import Backend, Concentrator, Mote, Process, toml_of, until

NOW = int(time.time())

GOOD = {"store": "a", "seq": 1, "generation": 2, "turn": 3}


@pytest.mark.parametrize("field", ["seq", "generation", "turn"])
@given(number=st.integers(-(1 << 70), 1 << 70) | st.sampled_from([-(10**30), 10**400, -1, 0, 1 << 63, (1 << 63) - 1]))
def test_a_mark_holds_only_what_fits_the_store(field: str, number: int) -> None:
    found = mark_of(
        msgspec.json.encode({**GOOD, field: 0}).replace(
            b'"%s":0' % field.encode(), b'"%s":%d' % (field.encode(), number)
        )
    )
    assert found == (Mark(**{**GOOD, field: number}) if -1 <= number < 1 << 63 else None)


@pytest.mark.parametrize("payload", [
    b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"[" * 100_000, b"\xff", b'{"store":"\xff","seq":1,"generation":1,"turn":1}', b"",
    b'{"store":"a","seq":1e400,"generation":1,"turn":1}', b'{"store":"a","seq":true,"generation":1,"turn":1}',
])  # fmt: skip
def test_what_is_no_mark_counts_as_none(payload: bytes) -> None:
    assert mark_of(payload) is None


@given(st.binary())
def test_nothing_that_a_broker_retains_raises(payload: bytes) -> None:
    mark_of(payload)


# a message that the broker will not take


def test_a_report_that_is_too_long_for_the_broker_costs_itself_and_neither_alarms_nor_what_follows(
    tmp_path: Path, broker: Mosquitto
) -> None:
    broker.stop()
    conf = broker.folder / "mosquitto.conf"
    conf.write_text(conf.read_text() + "max_packet_size 4000\n")
    broker.start()
    a, b = Mote(263), Mote(264)
    p, back = Process(toml_of(tmp_path, (broker.host, broker.port), [a, b])), Backend((broker.host, broker.port))
    try:
        c = Concentrator(p.port)
        c.push(b.report(NOW - 6000, [[3, 5, 5, 231, 631, 121]]))
        c.push(a.report(NOW - 3600, [[3 + i % 7, 5 + i % 5, 5 + i % 3, 231 + i % 9, 631, 121] for i in range(60)]))
        for i in range(5):
            c.push(b.report(NOW - 900 + i * 30, [[i, 5, 5, 231, 631, 121]]))
        c.push(b.alarm(2, NOW, 6, 400, 150))
        c.pull()
        back.wait(lambda: back.on("node/n-264/alert/pm10-above"), 30)
        assert until(lambda: len(back.on("node/n-264/senml")) >= 6, 30)
        refused = [line for line in p.lines() if line["event"] == "message_refused"]
        assert [line["topic"] for line in refused] == ["city/v1/node/n-263/senml"] and refused[0]["bytes"] > 4000
        assert until(lambda: b"message_refused" in (back.on("gw/gw-1/health") or [b""])[-1], 15)
        health = back.on("gw/gw-1/health")[-1]
        assert b"max_packet_size" in health and b"n-263/senml" in health and b"another client" not in health
        before = len([line for line in p.lines() if line["event"] == "output_connected"])
        c.push(b.report(NOW, [[9, 5, 5, 231, 631, 121]]))
        c.pull()
        assert until(lambda: len(back.on("node/n-264/senml")) >= 7, 10)
        assert len([line for line in p.lines() if line["event"] == "output_connected"]) == before <= 6
    finally:
        p.kill()
        back.close()


BIG, SMALL = Message("r/big", b"x" * 100), Message("r/small", b"x")


def test_what_ended_three_connections_in_a_row_alone_is_set_aside_and_counted() -> None:
    metrics = Metrics()
    r = Refusals("city", metrics)
    assert not r.lost([SMALL, BIG], worked=True)
    assert r.is_suspect(BIG) and r.is_suspect(SMALL)
    r.taken(SMALL)
    assert not r.is_suspect(SMALL)
    for _ in range(TIMES):
        assert not r.is_refused(BIG)
        assert r.lost([BIG], worked=True)
    assert r.is_refused(BIG) and not r.is_refused(SMALL) and not r.is_suspect(BIG)
    assert metrics.totals["messages_refused"] == 1
    assert "r/big (100 bytes)" in next(iter(r.problems())).text
    longer = Message("r/longer", b"x" * 101)
    assert r.lost([longer], worked=True) and r.is_refused(longer)  # as long as one that is known: once is enough


def test_a_message_is_not_blamed_where_the_broker_takes_nothing_or_another_is_under_way_or_it_is_taken_after_all() -> (
    None
):
    r = Refusals("city", Metrics())
    for _ in range(9):
        r.lost([BIG], worked=False)
        r.lost([SMALL, BIG], worked=True)
    for _ in range(9):
        r.lost([BIG], worked=True)
        r.lost([BIG], worked=True)
        r.taken(BIG)
    for _ in range(9):
        r.lost([BIG], worked=True)
        r.lost([SMALL], worked=True)
        r.lost([], worked=True)
    assert not r.is_refused(BIG) and not r.is_refused(SMALL) and not list(r.problems())


def test_a_broker_that_takes_no_message_of_any_node_is_not_emptied_into() -> None:
    r = Refusals("city", Metrics())
    many = [Message(f"r/v1/node/n-{i}/senml", b"x") for i in range(3 * MOST)]
    for m in many:
        for _ in range(TIMES):
            r.taken(Message("r/v1/gw/gw-1/state", b"online"))
            r.lost([m], worked=True)
    assert sum(r.is_refused(m) for m in many) == MOST
    r.taken(Message("r/v1/node/n-1/q/pm10", b"x"))
    r.lost([many[-1]], worked=True)
    assert r.n == MOST + 1


class Session:
    """Takes what is published, acknowledges when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self.on_puback: Callable[[int], None] = lambda _mid: None

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> int:
        self.sent.append((len(self.sent) + 1, topic))
        return len(self.sent)


@given(st.lists(st.sampled_from("abcdef") | st.just("ack"), max_size=60), st.sets(st.sampled_from("abcdef")))
def test_what_is_suspected_is_alone_on_the_wire_and_order_and_number_are_kept(
    steps: list[str], suspects: set[str]
) -> None:
    session, r = Session(), Refusals("city", Metrics())
    flight = Flight(8, Metrics(), r)
    flight.begin(cast(MqttSession, session))
    r.lost([Message(t, b"") for t in suspects], worked=True)
    wanted, done, acked = [], [], 0
    for step in [*steps, *["ack"] * 60]:
        if step != "ack":
            wanted.append(step)
            flight.send(Message(step, b""), partial(done.append, step))
        elif acked < len(session.sent):
            acked += 1
            session.on_puback(acked)
        open_ = [t for n, t in session.sent if n > acked]
        assert len(open_) <= 1 or not any(r.is_suspect(Message(t, b"")) for t in open_)
    assert wanted == done == [t for _, t in session.sent] and not len(flight)

"""What a broker may do to an output by what it retains, refuses and shares: it costs the one message, and never the output."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import MqttOutputConfig
from gateway.config.broker import Broker
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession
from gateway.outputs.flight import Flight
from gateway.outputs.mark import Mark, mark_of
from gateway.outputs.message import Message
from gateway.outputs.mqtt import MqttOutput
from gateway.outputs.outstanding import ALL, FIRST_S, KEPT, LONGEST_S, PACE_S, Outstanding
from gateway.outputs.refusal import MOST, TIMES, Refusals
from gateway.store.engine import StoreError
from gateway.store.ledger import read_refused
from gateway.store.memory import MemoryEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.world import REPO, Backend, Concentrator, Mote, Process, packet, toml_of, until

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
        back.wait(lambda: back.on("node/n-264/alert/pm10-above"))
        assert until(lambda: len(back.on("node/n-264/senml")) >= 6)
        refused = [line for line in p.lines() if line["event"] == "message_refused"]
        assert [line["topic"] for line in refused] == ["city/v1/node/n-263/senml"] and refused[0]["bytes"] > 4000
        assert until(lambda: b"message_refused" in (back.on("gw/gw-1/health") or [b""])[-1])
        health = back.on("gw/gw-1/health")[-1]
        assert b"max_packet_size" in health and b"n-263/senml" in health and b"another client" not in health
        before = len([line for line in p.lines() if line["event"] == "output_connected"])
        c.push(b.report(NOW, [[9, 5, 5, 231, 631, 121]]))
        c.pull()
        assert until(lambda: len(back.on("node/n-264/senml")) >= 7)
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
    """Takes what is published, and answers in the order of the wire when it is told to. denies: a topic that it acknowledges and ends the
    connection then. sent: what was handed to it, with its id; wire: what has left and is not answered, topics or numbers of pings. prompt: pings are answered first."""

    def __init__(self, denies: str = "") -> None:
        self.sent: list[tuple[int, str]] = []
        self.wire: deque[tuple[int, str | None]] = deque()
        self.on_puback: Callable[[int], None] = lambda _mid: None
        self.on_pong: Callable[[int], None] = lambda _number: None
        self.denies, self.over, self.prompt = denies, False, False
        self._behind: list[tuple[int, str | None]] | None = None
        self._pings = 0

    def ping(self) -> int:
        self._pings += 1
        self.wire.append((self._pings, None))
        return self._pings

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, first: bool = False) -> int:
        self.sent.append((len(self.sent) + 1, topic))
        (self.wire if first or self._behind is None else self._behind).append(self.sent[-1])
        return len(self.sent)

    def hold(self) -> None:
        self._behind = [] if self._behind is None else self._behind

    def release(self) -> bool:
        kept, self._behind = self._behind or [], None
        self.wire.extend(kept)
        return bool(kept)

    def answer(self) -> bool:
        """Answer what has come first; False when there is nothing, or the connection has ended."""
        if self.over or not self.wire:
            return False
        at = next((i for i, (_, t) in enumerate(self.wire) if self.prompt and t is None), 0)
        number, topic = self.wire[at]
        del self.wire[at]
        self.over = topic is not None and topic == self.denies
        (self.on_pong if topic is None else self.on_puback)(number)
        return True


@given(
    st.lists(st.sampled_from("abcdef") | st.sampled_from(("ack", "mark")), max_size=60),
    st.sets(st.sampled_from("abcdef")),
    st.booleans(),
)
def test_what_is_suspected_is_alone_on_the_wire_and_order_and_number_are_kept(
    steps: list[str], suspects: set[str], prompt: bool
) -> None:
    """prompt: the broker answers a ping before it acknowledges what came before it, as MQTT allows; of
    marks, which are no messages of the flight, nothing is known then."""
    session, r = Session(), Refusals("city", Metrics())
    session.prompt = prompt
    flight = Flight(8, Metrics(), r)
    flight.begin(cast(MqttSession, session))
    r.lost([Message(t, b"") for t in suspects], worked=True)
    wanted, done = [], []
    for step in [*steps, *["ack"] * 300]:
        if step == "mark":
            session.publish("mark", b"", 1, True)
        elif step != "ack":
            wanted.append(step)
            flight.send(Message(step, b""), partial(done.append, step))
        else:
            session.answer()
        open_ = [t for _, t in session.wire if t is not None and not (prompt and t == "mark")]
        assert len(open_) <= 1 or not any(r.is_suspect(Message(t, b"")) for t in open_)
    assert wanted == done == [t for _, t in session.sent if t != "mark"] and not len(flight) and not session.wire


def connected(r: Refusals, metrics: Metrics, denies: str = "") -> tuple[Session, Flight]:
    session, flight = Session(denies), Flight(8, metrics, r)
    flight.begin(cast(MqttSession, session))
    return session, flight


def test_what_was_acknowledged_just_before_an_end_is_a_suspect_and_no_one_else_is_blamed_for_it() -> None:
    """mosquitto 2.0.11 with max_queued_messages 0 acknowledges what its ACL denies, and closes the connection behind it."""
    metrics = Metrics()
    r = Refusals("city", metrics)
    sent = [Message(f"r/v1/node/n/q/{key}", b"x", retain=True) for key in "abcd"]
    done: list[str] = []
    for n in range(9):
        session, flight = connected(r, metrics, sent[2].topic)
        for m in sent:
            flight.send(m, partial(done.append, m.topic), "n")
        session.publish("r/v1/gw/gw-1/mark/city", b"", 1, True)
        while session.answer():
            pass
        if not session.over:
            break
        assert n == 0 or sent[3].topic not in {t for _, t in session.sent}, "before the broker has gone on behind it"
        assert flight.lost() == (n > 0), "at first another one was under way"
    assert n == TIMES + 1 and r.outstanding.topics() == [sent[2].topic] and metrics.totals["messages_refused"] == 1
    assert not len(flight) and not any(r.is_suspect(m) for m in (sent[0], sent[1], sent[3]))


def test_what_is_acknowledged_and_followed_by_a_pong_is_taken() -> None:
    metrics = Metrics()
    r = Refusals("city", metrics)
    session, flight = connected(r, metrics, SMALL.topic)
    flight.send(SMALL)
    assert session.answer() and session.over and not flight.lost() and r.is_suspect(SMALL), (
        "the broker has ended the connection behind it"
    )
    session, flight = connected(r, metrics)
    done: list[int] = []
    flight.send(BIG)
    flight.send(SMALL, partial(done.append, 1))
    assert session.answer() and list(session.wire) == [(1, None)], "who was before it is not blamed on it"
    assert session.answer() and list(session.wire) == [(2, SMALL.topic), (2, None)]
    assert session.answer() and not done
    assert session.answer() and done == [1] and not r.is_suspect(SMALL) and not flight.lost() and not r.is_suspect(BIG)


def test_what_is_kept_back_for_a_suspect_waits_for_one_alone_however_many_there_are() -> None:
    """Answers to probes and marks have time limits."""
    r = Refusals("city", Metrics())
    many = [Message(f"r/{n}", b"x") for n in range(50)]
    r.lost(many, worked=True)
    session, flight = connected(r, Metrics())
    for m in many:
        flight.send(m)
    session.publish("mark", b"", 1)
    for _ in range(3):
        session.answer()
    assert "mark" in {t for _, t in session.wire}
    while session.answer():
        pass
    assert not len(flight) and not session.wire


# what is retained is owed, and comes once the broker takes it


class Gate(threading.Thread):
    """A broker that ends the connection at a PUBLISH on some topics, as brokers of MQTT 3.1.1 do where the user may not publish: a real
    mosquitto behind a proxy that reads every packet.

    refuses: parts of topics. acknowledges: what is refused is acknowledged first, as by mosquitto 2.0.11 with max_queued_messages 0. ends:
    connections it has ended, with the topic.
    """

    def __init__(self, behind: tuple[str, int], refuses: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._server, self._behind = socket.create_server(("127.0.0.1", 0)), behind
        self.address: tuple[str, int] = self._server.getsockname()
        self.refuses = refuses
        self.acknowledges = False
        self.ends: list[str] = []

    def run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            broker = socket.create_connection(self._behind)
            threading.Thread(target=self._up, args=(client, broker), daemon=True).start()
            threading.Thread(target=self._down, args=(broker, client), daemon=True).start()

    def _up(self, client: socket.socket, broker: socket.socket) -> None:
        stream = client.makefile("rb")
        with contextlib.suppress(OSError):
            while found := packet(stream):
                head, lengths, body = found
                topic = (
                    body[2 : 2 + int.from_bytes(body[:2], "big")].decode(errors="replace") if head[0] >> 4 == 3 else ""
                )
                if any(part in topic for part in self.refuses):
                    self.ends.append(topic)
                    if self.acknowledges and head[0] & 0x06:
                        at = 2 + int.from_bytes(body[:2], "big")
                        client.sendall(bytes((0x40, 2)) + body[at : at + 2])
                    break
                broker.sendall(head + lengths + body)
        for end in (client, broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _down(self, broker: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := broker.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def gate(broker: Mosquitto) -> Iterator[Gate]:
    found = Gate((broker.host, broker.port), ("node/n-263/meta",))
    found.start()
    yield found
    found.close()


def again(config: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Call the verb."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "republish", "--config", str(config), "--output", "city", "--json", *more],
        cwd=REPO, capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def is_retained(broker: Mosquitto, topic: str) -> bool:
    seen = Backend((broker.host, broker.port), f"city/v1/{topic}")
    try:
        seen.fence()
        return bool(seen.messages and seen.messages[0][1])
    finally:
        seen.close()


META = "node/n-263/meta"


def test_what_a_broker_refused_to_retain_is_named_until_it_takes_it_and_comes_when_asked_for(
    tmp_path: Path, broker: Mosquitto, gate: Gate
) -> None:
    a, b = Mote(263), Mote(264)
    config = toml_of(tmp_path, gate.address, [a, b])
    p, back = Process(config), Backend((broker.host, broker.port))
    try:
        c = Concentrator(p.port)
        c.push(b.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
        c.push(a.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
        c.pull()
        back.wait(lambda: any(b"n-263/meta" in x for x in back.on("gw/gw-1/health")))
        assert until(lambda: is_retained(broker, "node/n-263/q/pm10")), "all but the one topic"
        code, said = again(config)
        assert (code, said["done"], said["refused"]) == (1, False, ["city/v1/node/n-263/meta"]) and META in said["text"]
        assert again(config, "--node", "n-264")[0] == 0
        assert not is_retained(broker, META)
        gate.refuses = ()
        code, said = again(config)
        assert (code, said["done"]) == (0, True) and "refused" not in said
        assert is_retained(broker, META)
        back.wait(lambda: b"message_refused" not in back.on("gw/gw-1/health")[-1])
    finally:
        p.kill()
        back.close()


def test_a_broker_that_acknowledges_what_it_denies_and_ends_the_connection_costs_that_topic_alone(
    tmp_path: Path, broker: Mosquitto, gate: Gate
) -> None:
    gate.refuses, gate.acknowledges = ("node/n-263/q/pm10",), True
    a, b = Mote(263), Mote(264)
    p, back = Process(toml_of(tmp_path, gate.address, [a, b])), Backend((broker.host, broker.port))
    try:
        c = Concentrator(p.port)
        c.push(b.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
        c.push(a.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
        c.pull()
        back.wait(lambda: any(b"n-263/q/pm10" in x for x in back.on("gw/gw-1/health")))
        assert until(lambda: all(is_retained(broker, f"node/n-{n}/q/temperature") for n in (263, 264)))
        assert until(
            lambda: any(b'"seq":-1' not in x and b'"seq":0' not in x for x in back.on("gw/gw-1/mark/city")[-1:])
        )
        for n in range(3):
            c.push(a.report(NOW - 50 + n, [[4 + n, 5, 5, 231, 631, 121]]))
        c.pull()
        assert until(lambda: len(back.on("node/n-263/senml")) >= 4)
        refused = {line["topic"] for line in p.lines() if line["event"] == "message_refused"}
        assert refused == {"city/v1/node/n-263/q/pm10"} == set(gate.ends)
        assert len(gate.ends) <= TIMES + 5, "one more to learn who it was; a shorter one is tried once"
    finally:
        p.kill()
        back.close()


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_what_a_broker_refused_to_retain_comes_at_the_next_start_though_the_mark_has_passed_it(
    tmp_path: Path, broker: Mosquitto, gate: Gate, how: str
) -> None:
    a, b = Mote(263), Mote(264)
    config = toml_of(tmp_path, gate.address, [a, b])
    p, marks = Process(config), Backend((broker.host, broker.port), "city/v1/gw/gw-1/mark/city")
    c = Concentrator(p.port)
    c.push(b.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
    c.push(a.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
    c.pull()
    assert until(lambda: any(line["event"] == "message_refused" for line in p.lines()))
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as db:
        (newest,) = db.execute("SELECT max(seq) FROM current").fetchone()
    marks.wait(lambda: any(json.loads(x).get("seq", -1) >= newest for x in marks.on("gw/gw-1/mark/city")))
    assert p.stop() == 0 if how == "in order" else p.kill() is None
    marks.close()
    gate.refuses = ()
    p = Process(config)
    try:
        assert until(lambda: is_retained(broker, META))
    finally:
        p.kill()


def test_a_broker_without_a_limit_any_more_has_what_was_too_long_for_it(tmp_path: Path, broker: Mosquitto) -> None:
    """Mosquitto itself, at its own limit: one node's Home Assistant message."""
    broker.stop()
    conf = broker.folder / "mosquitto.conf"
    text = conf.read_text()
    conf.write_text(text + "max_packet_size 2600\n")
    broker.start()
    a = Mote(263)
    config = toml_of(tmp_path, (broker.host, broker.port), [a], output_city='formats = ["native", "homeassistant"]')
    p = Process(config)
    try:
        c = Concentrator(p.port)
        c.push(a.report(NOW - 60, [[3, 5, 5, 231, 631, 121]]))
        c.pull()
        assert until(lambda: any(line["event"] == "message_refused" for line in p.lines()))
        (topic,) = {line["topic"] for line in p.lines() if line["event"] == "message_refused"}
        assert topic == "homeassistant/device/n-263/config"
        broker.stop()
        conf.write_text(text)
        broker.start()
        assert until(lambda: again(config)[0] == 0)
        seen = Backend((broker.host, broker.port), topic)
        seen.wait(lambda: seen.messages)
    finally:
        p.kill()


# of an output, across its connections


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.booleans(), st.sampled_from([1.0, 61.0, 700.0, 30_000.0])), max_size=80
    ),
    st.integers(0, 80),
)
def test_every_topic_that_was_refused_is_tried_until_it_is_taken_and_the_store_always_knows_which_are_not(
    steps: list[tuple[str, bool, float]], mended: int
) -> None:
    """mended: from this step on the broker takes everything. A restart is a new one that loads what the store knows."""
    clock = Clock()
    o, owed = Outstanding(clock), set[str]()
    for n, (topic, restart, seconds) in enumerate(steps):
        m = Message(f"node/{topic}/meta", b"x" * 9, retain=True)
        if restart:
            known = o.known()
            o = Outstanding(clock)
            o.load(known)
        elif n < mended and not o.spares(m):
            o.refused(m, topic)
            owed.add(topic)
        clock.now += seconds
        ends = 0
        while (subject := o.next()) is not None:
            sent = Message(f"node/{subject}/meta", b"x" * 9, retain=True)
            assert not o.spares(sent) and subject in owed
            if n < mended:
                o.refused(sent, subject)
                ends += 1
            else:
                owed.discard(subject)
                o.taken(sent)
            o.published(subject)
        assert ends <= 1, "an attempt ends a connection, and there is one a minute at most"
        assert o.known().keys() == owed
    clock.now += LONGEST_S + PACE_S
    while (subject := o.next()) is not None:
        owed.discard(subject)
        o.taken(Message(f"node/{subject}/meta", b"x" * 9, retain=True))
        o.published(subject)
    assert owed == set() and o.known() == {}


def refused(clock: Clock, *topics: str) -> Outstanding:
    """Return what holds refused topics `node/<subject>/<leaf>`."""
    o = Outstanding(clock)
    for topic in topics:
        o.refused(Message(topic, b"x", retain=True), topic.split("/")[1])
    return o


def test_a_topic_that_is_not_wanted_any_more_does_not_show_that_the_broker_takes_the_others() -> None:
    clock = Clock()
    o = refused(clock, "node/7/meta", "node/8/meta")
    clock.now += FIRST_S + PACE_S
    assert o.next() == "7"
    o.published("7")  # nothing was sent on it
    assert o.known() == {"8": ["node/8/meta"]} and o.next() == "8"
    o.refused(Message("node/8/meta", b"x", retain=True), "8")
    clock.now += PACE_S
    o.refused(Message("node/9/meta", b"x", retain=True), "9")
    clock.now += FIRST_S
    assert o.next() == "9"
    o.published("9")
    assert o.next() is None, "8 waits for its time"


def test_an_operator_who_asks_costs_one_connection_and_not_one_for_each_topic() -> None:
    clock = Clock()
    o = refused(clock, *(f"node/{i}/meta" for i in range(100)))
    ends = []
    for second in range(600):
        clock.now += 1
        if second == 0:
            o.ask(ALL)
        if (subject := o.next()) is not None:
            o.refused(Message(f"node/{subject}/meta", b"x", retain=True), subject)
            ends.append(second)
    assert ends[0] == 0 and all(b - a >= PACE_S for a, b in zip(ends, ends[1:], strict=False))


def test_once_one_was_taken_each_subject_is_published_again_once_however_many_of_its_topics_are_outstanding() -> None:
    clock = Clock()
    o = refused(clock, *(f"node/{s}/q/{i}" for s in "78" for i in range(50)))
    o.ask(ALL)
    tried = []
    while (subject := o.next()) is not None:
        tried.append(subject)
        for i in range(50):
            m = Message(f"node/{subject}/q/{i}", b"x", retain=True)
            if not o.spares(m):
                o.taken(m)
        o.published(subject)
    assert len(tried) == 3 and o.known() == {}


def test_attempts_become_rarer_up_to_six_hours() -> None:
    clock = Clock()
    o, m, at = Outstanding(clock), Message("node/a/meta", b"x", retain=True), list[float]()
    o.refused(m, "a")
    for _ in range(2 * 86_400 // 60):
        clock.now += 60
        if o.next() is not None:
            at.append(clock.now)
            o.refused(m, "a")
            o.published("a")
    waits = [b - a for a, b in zip([1000.0, *at], at, strict=False)]
    assert waits[:7] == [600, 1200, 2400, 4800, 9600, 19_200, 21_600] and set(waits[7:]) == {21_600}


def test_beyond_what_is_kept_everything_is_published_again_once_the_rest_was_taken() -> None:
    o = Outstanding(Clock())
    for i in range(KEPT + 1):
        o.refused(Message(f"node/{i}/meta", b"x", retain=True), str(i))
    assert len(o.topics()) == KEPT and ALL in o.known()
    o.ask(ALL)
    found = []
    while (subject := o.next()) is not None:
        found.append(subject)
        o.taken(Message(f"node/{subject}/meta", b"x", retain=True))
        o.published(subject)
    assert found[-1] == ALL and len(found) == KEPT + 1 and o.known() == {}


def test_what_the_gateway_states_of_itself_is_sent_again_by_itself_and_a_shorter_one_at_once() -> None:
    clock = Clock()
    o, m = Outstanding(clock), Message("gw/gw-1/info", b"xxx", retain=True)
    o.refused(m, "")
    assert o.spares(m) and not o.spares(Message(m.topic, b"xx", retain=True)) and o.next() is None and o.known() == {}
    clock.now += FIRST_S
    assert not o.spares(m)
    o.taken(m)
    assert m.topic not in o


def test_what_the_store_cannot_read_of_it_stands_for_everything() -> None:
    assert read_refused(b"\xff") == {"": []} and read_refused(None) == {}


async def full(_job: object) -> int:
    """Fail as a store does whose disk is full."""
    raise StoreError("full", "make room")


async def test_no_mark_claims_what_was_refused_until_the_store_knows_it() -> None:
    engine, session = MemoryEngine(["city"]), Session()
    o = MqttOutput(MqttOutputConfig("city", Broker("nowhere", 1)), "gw-1", engine, Metrics(), dict, {})
    resync, m = o.resync, Message("city/v1/node/n-263/meta", b"x", retain=True)
    resync.marking.begin(cast(MqttSession, session))
    resync.marking.may = True
    resync.done.set()
    o._refusals.outstanding.refused(m, "263")
    assert not resync.mark() and session.sent == []
    put, engine.ledger.put = engine.ledger.put, full
    await resync._attempts.note()
    assert not resync.mark() and session.sent == []
    engine.ledger.put = put
    await resync._attempts.note()
    assert engine.ledger.refused(resync.place) == {"263": [m.topic]}
    assert resync.mark() and [topic for _, topic in session.sent] == [resync.mark_topic]

"""The real process against a real broker: kill -9, a broker that goes and comes, hostile datagrams, start and end."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import BrokerAddress, Mosquitto
from tests.gateway.world import REPO, Backend, Concentrator, Mote, Process, ScriptedBroker, frame_of, toml_of, until

ROWS = [[3, 5, 5, 231, 631, 121], [9, 9, 9, 231, 631, 120]]
NOW = int(time.time())

Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start gateways; whatever a test leaves running is ended."""
    running: list[Process] = []

    def make(config: Path) -> Process:
        running.append(Process(config))
        return running[-1]

    yield make
    for p in running:
        p.kill()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("more", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals_while_it_ends_do_not_change_how_it_ends(
    tmp_path: Path, start: Start, first: signal.Signals, more: signal.Signals
) -> None:
    """`systemctl reload` beside `systemctl stop`, an impatient hand: up to the last instant of the process."""
    p = start(toml_of(tmp_path, ("127.0.0.1", 1), [Mote(i) for i in range(263, 300)]))
    p.process.send_signal(signal.SIGHUP)
    p.process.send_signal(first)
    end = time.monotonic() + 30
    while p.process.poll() is None and time.monotonic() < end:
        p.process.send_signal(more)
        time.sleep(0.001)
    assert p.process.poll() == 0
    assert p.lines()[-1]["event"] == "stopped"


def test_a_frame_is_committed_acknowledged_and_published_in_both_formats(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m = Mote(263)
    backend, p = Backend(mosquitto), start(toml_of(tmp_path, mosquitto, [m]))
    c = Concentrator(p.port)
    c.push(m.status({1: 5, 2: 1, 3: 1, 5: "0.1"}, long=True))
    (down,) = c.pull()
    assert c.push_acks == 1
    assert {k: down[k] for k in ("tmst", "freq", "datr", "codr", "ipol", "imme")} == {
        "tmst": c.tmst + 1_000_000, "freq": 868.1, "datr": "SF7BW125", "codr": "4/5", "ipol": False, "imme": False,
    }  # fmt: skip
    answer = m.open(frame_of(down))
    assert answer[1] == 2 and abs(answer[3] - time.time()) < 3
    c.push(m.report(NOW - 120, ROWS))
    c.push(m.alarm(2, NOW, 6, 181, 150))
    assert m.acked(frame_of(c.pull()[-1])).covers(2)
    backend.wait(
        lambda: backend.on("node/n-263/alert/pm10-above") and "263:0:2" in backend.packs()
    )  # alarms come first
    assert json.loads(backend.on("node/n-263/q/pm10")[-1])["v"] == 9
    assert backend.packs()["263:0:2"][0]["v"] == 3e-9
    assert backend.on("gw/gw-1/state") == [b"online"]
    assert backend.on("node/n-263/state")[-1] == b"online"
    assert json.loads(backend.on("node/n-263/meta")[-1])["location"]["coordinates"] == [13.73, 45.54]
    c.push(m.alarm(1, NOW + 1, 6, 140, 150))
    c.pull()
    backend.wait(lambda: backend.on("node/n-263/alert/pm10-above")[-1] == b"")
    assert p.stop() == 0
    backend.wait(lambda: backend.on("gw/gw-1/state")[-1] == b"offline")
    late = Backend(mosquitto)  # only current state is retained
    late.wait(lambda: late.on("gw/gw-1/info"))
    assert json.loads(late.on("gw/gw-1/info")[-1])["counters"]["totals"]["committed"] == 4
    assert all(retained for _, _, retained in late.messages)
    assert not [t for t, _, _ in late.messages if t.endswith(("/senml", "/event")) or "/alert/" in t]


def test_wifi_frames_come_and_are_all_answered_over_mqtt(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m = Mote(70_263)
    p = start(toml_of(tmp_path, mosquitto, [m]))
    backend, air = Backend(mosquitto), Backend(mosquitto, "citymote/v1/down/#")
    for _ in range(3):
        air._client.publish("citymote/v1/up/00011277", m.report(NOW, ROWS))
    air._client.publish("citymote/v1/up/nonsense", m.report(NOW, ROWS))
    air._client.publish("citymote/v1/up/00011277", bytes(2000))
    air.wait(lambda: len(air.messages) == 3)
    assert {t for t, _, _ in air.messages} == {"citymote/v1/down/00011277"}
    assert m.acked(air.messages[-1][1]).next == 4
    backend.wait(lambda: len(backend.packs()) == 3)
    p.stop()
    assert p.lines()[-1]["refused"] == {"bad_topic": 1, "too_long": 1}


def test_two_copies_of_a_frame_are_one_set_of_rows(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    m = Mote(263)
    backend, p = Backend(mosquitto), start(toml_of(tmp_path, mosquitto, [m]))
    a, b = Concentrator(p.port), Concentrator(p.port, "aa555a0000000002")
    a.pull()
    b.pull()  # both have told where they listen
    for _ in range(5):
        data = m.status({1: 5})
        a.push(data, rssi=-110)
        b.push(data, rssi=-60)
        assert (len(b.pull()), len(a.pull())) == (1, 0), "answered through the stronger receiver, once"
        data = m.report(NOW + m.counter, ROWS)
        a.push(data)
        b.push(data)
        a.pull()
        b.pull()  # equally strong: some of these reports are answered through this one
    assert p.stop() == 0
    backend.wait(lambda: backend.on("gw/gw-1/state")[-1] == b"offline")
    assert sorted(backend.packs()) == sorted(f"263:0:{c}" for c in range(2, 11, 2))
    assert sum(t.endswith("/senml") for t, _, _ in backend.messages) == 5


def test_hostile_datagrams_and_frames_reach_no_output_and_are_counted(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m, stranger, forger = Mote(263), Mote(300), Mote(263)
    config = toml_of(tmp_path, mosquitto, [m], link_lora='allow = ["aa555a0000000001"]')
    backend, p = Backend(mosquitto), start(config)
    c, foreign = Concentrator(p.port), Concentrator(p.port, "bbbbbbbbbbbbbbbb")
    good = m.report(NOW, ROWS)
    c.push(good)
    c.pull()
    for n in (0, 3, 11):
        c.sock.send(bytes(n))
    c.sock.send(b"\x01" + bytes(20))
    c.raw(b"{not json")
    c.raw(b'{"rxpk":[{"data":5}]}')
    c.raw(b"[" * 5000)
    foreign.push(m.report(NOW, ROWS, counter=50))
    c.push(m.report(NOW, ROWS, counter=51), stat=-1)
    c.push(m.report(NOW, ROWS, counter=52), size=9)
    c.push(m.report(NOW, ROWS, counter=53), data="!!!")
    c.push(m.report(NOW, ROWS, counter=54), modu="FSK", datr=50000)
    time.sleep(0.01)
    c.push(good)  # replayed: answered, not told
    c.push(good[:-1])
    c.push(b"hello")
    c.push(stranger.report(NOW, ROWS))
    c.push(forger.report(NOW, ROWS, counter=2))
    c.push(b"\xc0" + good[1:])
    assert len(c.pull()) == 1
    backend.wait(lambda: len(backend.on("gw/gw-1/reject")) >= 6)
    assert p.stop() == 0
    assert list(backend.packs()) == ["263:0:1"]
    assert p.lines()[-1]["refused"] == {
        "bad_datagram": 4, "bad_json": 3, "unknown_forwarder": 1, "bad_crc": 1, "bad_base64": 2, "not_lora": 1,
        "replayed": 1, "bad_tag": 2, "too_short": 1, "unknown_node": 1, "bad_version": 1,
    }  # fmt: skip
    secrets = (m.key.hex(), base64.b64encode(good).decode(), good.hex())
    assert not any(s in p.log.read_text() for s in secrets)


class Load(threading.Thread):
    """A node that keeps every frame until it is acknowledged, and goes on whatever happens to the gateway."""

    def __init__(self, m: Mote, frames: int) -> None:
        super().__init__(daemon=True)
        self.m, self.total, self.port = m, frames, 0
        self.acked: set[int] = set()
        self.gateway = threading.Event()

    def run(self) -> None:
        outbox: dict[int, bytes] = {}
        made = 0
        while made < self.total or outbox:
            self.gateway.wait()
            c = Concentrator(self.port)
            try:
                while (made < self.total or outbox) and self.gateway.is_set():
                    while len(outbox) < 40 and made < self.total:
                        made += 1
                        outbox[made] = self.m.report(NOW + made * 60, ROWS)
                    for counter in random.sample(sorted(outbox), min(10, len(outbox))):
                        c.push(outbox[counter], freq=869.525)  # a 10 % sub-band: 600 answers are more than 1 % allows
                    for down in c.pull(timeout=1.0):
                        ack = self.m.acked(frame_of(down))
                        for counter in [n for n in outbox if ack.covers(n)]:
                            del outbox[counter]
                            self.acked.add(counter)
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.02)
            finally:
                c.close()


@pytest.mark.slow
def test_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path, broker: Mosquitto, start: Start) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, broker.address, [m])
    backend = Backend(broker.address)
    load = Load(m, 600)
    load.start()
    rng = random.Random(7)
    for _ in range(6):
        p = start(config)
        load.port = p.port
        load.gateway.set()
        time.sleep(rng.uniform(0.05, 0.6))
        load.gateway.clear()
        p.kill()
        assert set(backend.packs()) <= {f"263:0:{c}" for c in range(1, 601)}
    p = start(config)
    load.port = p.port
    load.gateway.set()
    load.join(60)
    assert not load.is_alive() and len(load.acked) == 600
    assert p.stop() == 0
    backend.wait(lambda: len(backend.packs()) == 600)
    sent = sum(t.endswith("/senml") for t, _, _ in backend.messages)
    assert sent <= 600 + 6 * 256, "repeats only within the span, and each with its id"


@pytest.mark.slow
def test_a_broker_that_bounces_gets_everything_and_retained_values_never_step_back(
    tmp_path: Path, broker: Mosquitto, start: Start
) -> None:
    m = Mote(263)
    p = start(toml_of(tmp_path, broker.address, [m]))
    c = Concentrator(p.port)
    backend = Backend(broker.address)

    def send(n: int) -> None:
        for _ in range(n):
            c.push(m.report(NOW - 50_000 + m.counter * 120, ROWS))
            c.pull()

    send(60)
    broker.stop()
    send(60)  # links work on while the broker is away
    broker.start()
    send(60)
    broker.stop()
    broker.start()
    send(20)
    assert p.stop() == 0
    assert any(line["event"] == "output_unreachable" and "next" in line for line in p.lines())
    late = Backend(broker.address)
    late.wait(lambda: late.on("node/n-263/q/pm10"))
    newest = NOW - 50_000 + 199 * 120 + 60
    assert json.loads(late.on("node/n-263/q/pm10")[-1])["t"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest))
    times = [json.loads(x)["t"] for x in backend.on("node/n-263/q/pm10")]
    live = [
        t for t, r in zip(times, [r for t, _, r in backend.messages if t == "node/n-263/q/pm10"], strict=True) if not r
    ]
    assert live == sorted(live)
    # while the backend itself was away it misses messages; what the store says was delivered must be all of it
    import sqlite3

    db = sqlite3.connect(tmp_path / "gateway.db")
    assert db.execute("SELECT count(*) FROM spool WHERE done = 0").fetchone() == (0,)
    assert db.execute("SELECT count(*), count(DISTINCT counter) FROM frames").fetchone() == (200, 200)
    assert db.execute("SELECT count(*) FROM rows").fetchone() == (400,)
    db.close()


def test_without_a_broker_it_starts_says_so_and_delivers_later(tmp_path: Path, broker: Mosquitto, start: Start) -> None:
    m = Mote(263)
    broker.stop()
    p = start(toml_of(tmp_path, broker.address, [m], gateway="drain_s = 1"))
    c = Concentrator(p.port)
    c.push(m.status({1: 1}))
    assert len(c.pull()) == 1, "the radio side works without any broker"
    assert p.stop() == 0
    log = {line["event"]: line for line in p.lines()}
    assert "start the broker" in log["output_unreachable"]["next"] and log["not_drained"]["events"] >= 1
    broker.start()
    backend = Backend(broker.address)
    start(tmp_path / "gateway.toml")
    backend.wait(lambda: backend.on("node/n-263/q/uptime"))


def test_lwt_says_offline_when_the_gateway_is_killed(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    backend, p = Backend(mosquitto), start(toml_of(tmp_path, mosquitto, [Mote(263)]))
    backend.wait(lambda: backend.on("gw/gw-1/state") == [b"online"])
    p.kill()
    backend.wait(lambda: backend.on("gw/gw-1/state")[-1] == b"offline")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_on_both_signals(tmp_path: Path, mosquitto: BrokerAddress, start: Start, sig: int) -> None:
    p = start(toml_of(tmp_path, mosquitto, [Mote(263)]))
    assert p.stop(sig) == 0
    p.log.read_text().index('"event": "stopped"')


def run(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "run", "--config", str(config)],
        cwd=REPO, capture_output=True, text=True, timeout=60, env={**os.environ, "NOTIFY_SOCKET": ""},
    )  # fmt: skip


def test_a_busy_port_and_a_busy_store_end_it_with_one_line_and_advice(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    config = toml_of(tmp_path, mosquitto, [Mote(263)])
    p = start(config)
    done = run(config)
    assert done.returncode == 1
    assert "error: store" in done.stderr and "in use by another gateway" in done.stderr and "next: " in done.stderr
    p.stop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", 0))
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{busy.getsockname()[1]}"))
        done = run(config)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "error: link lora: cannot listen on udp 127.0.0.1:" in done.stderr
        and "next: stop what uses the port" in done.stderr
    )


def test_forwarder_time_is_the_gateways_time(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    m = Mote(263)
    p = start(toml_of(tmp_path, mosquitto, [m], clock="forwarder"))
    backend, c = Backend(mosquitto), Concentrator(p.port)
    second = Concentrator(p.port, "aa555a0000000002")
    for eui in (c, second):  # two that agree are most: a step of ten years is believed at once
        eui.raw(b'{"stat":{"time":"2036-05-01 12:00:00 GMT"}}')
        eui.pull()
    c.push(m.status({1: 1}), time="2036-05-01T12:00:10.500000Z")
    assert m.open(frame_of(c.pull()[0]))[3] == 2093256010 + 2
    c.push(m.report(2093256000, ROWS), time="2036-05-01T12:00:20Z")
    c.pull()
    backend.wait(lambda: backend.on("node/n-263/q/pm10"))
    assert json.loads(backend.on("node/n-263/q/pm10")[0])["rx"] == "2036-05-01T12:00:20Z"


def test_one_receiver_of_another_time_is_named_and_not_followed(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    motes = [Mote(263), Mote(264)]
    p = start(toml_of(tmp_path, mosquitto, motes, clock="forwarder"))
    backend, c = Backend(mosquitto), Concentrator(p.port)
    odd = Concentrator(p.port, "aa555a00000000ee")
    stat = '{{"stat":{{"time":"{} GMT"}}}}'
    for eui, year in ((c, "%Y"), (odd, "2046")):
        eui.raw(stat.format(time.strftime(f"{year}-%m-%d %H:%M:%S", time.gmtime())).encode())
        eui.pull()
    odd.push(motes[0].status({1: 1}), time="2015-01-01T00:00:00Z")
    assert abs(motes[0].open(frame_of(odd.pull()[0]))[3] - time.time()) < 30
    odd.push(motes[1].report(NOW - 600, ROWS), time="2015-01-01T00:13:00Z")
    odd.pull()
    backend.wait(lambda: backend.on("node/n-264/q/pm10"))
    assert json.loads(backend.on("node/n-264/q/pm10")[0])["rx"].startswith(time.strftime("%Y-", time.gmtime()))
    named = lambda told: b'"receiver_time"' in told and b"aa555a00000000ee" in told  # noqa: E731
    backend.wait(lambda: any(map(named, backend.on("gw/gw-1/health"))), 40)
    assert p.stop() == 0
    assert [line["receiver"] for line in p.lines() if line["event"] == "receiver_time"] == ["aa555a00000000ee"]


def test_the_watchdog_is_fed_by_the_working_loop(
    tmp_path: Path, mosquitto: BrokerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    p = Process(toml_of(tmp_path, mosquitto, [Mote(263)]))
    try:
        assert p._notify.recv(4096) == b"WATCHDOG=1"
        p.process.send_signal(signal.SIGTERM)
        while (told := p._notify.recv(4096)) == b"WATCHDOG=1":
            pass
        assert told.startswith(b"STOPPING=1")
    finally:
        p.stop()


def test_what_a_broker_took_without_acknowledging_is_sent_again(tmp_path: Path, start: Start) -> None:
    m = Mote(263)
    hole = ScriptedBroker(acknowledges=False)
    hole.start()
    p = start(toml_of(tmp_path, hole.address, [m]))
    c = Concentrator(p.port)
    for _ in range(5):
        c.push(m.report(NOW - 5000 + m.counter * 120, ROWS))
        c.pull()
    ids = [f"263:0:{n}" for n in range(1, 6)]
    assert until(lambda: hole.senml == ids)
    hole.end()
    honest = ScriptedBroker(hole.address[1], acknowledges=True)
    honest.start()
    assert until(lambda: honest.senml == ids), honest.senml
    assert p.stop() == 0
    honest.end()

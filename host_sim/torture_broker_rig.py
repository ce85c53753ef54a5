"""What `sim torture broker` breaks: a broker in every state of memory, a gateway with its store, and an empty pair beside them to compare with.

The tortured broker's memory always holds one thing: the session of the backend that counts what arrives (a queue of QoS 1), so that
nothing is published without a listener.
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from host_sim import mqtt_wire as wire
from host_sim.gateway_process import GatewayProcess
from host_sim.mosquitto import Mosquitto, MosquittoError
from host_sim.warm_gateway import Warm

BACKEND = "torture-backend"
COUNTED = ("city/v1/node/+/senml", "city/v1/node/+/event")
MEMORIES = 4  # older ones that are kept
FOLDERS = 3  # brokers that take each other's place
EXCLUDED = ("+/v1/gw/+/health", "+/v1/gw/+/info", "+/v1/gw/+/state", "+/v1/gw/+/mark/+", "+/v1/gw/+/event")
"""What a gateway publishes of itself and of the moment: not compared. `state` is judged by itself."""

Tree = Mapping[str, bytes]
Event = tuple[int, int, str]
"""(node, counter, leaf of the topic)"""


def snapshot(address: tuple[str, int], wait_s: float = 5.0) -> dict[str, bytes]:
    """Return everything a broker retains. Raises OSError (TimeoutError among them) when it does not answer."""
    name = f"torture-{time.monotonic_ns()}".encode()
    hello = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
    found: dict[str, bytes] = {}
    reader = wire.Reader()
    with socket.create_connection(address, wait_s) as s:
        s.settimeout(wait_s)
        # a PINGREQ behind the SUBSCRIBE is answered behind the retained messages
        s.sendall(
            wire.pack(wire.CONNECT, 0, hello)
            + wire.pack(wire.SUBSCRIBE, 2, b"\x00\x01\x00\x01#\x00")
            + wire.pack(wire.PINGREQ, 0, b"")
        )
        while True:
            data = s.recv(1 << 18)
            if not data:
                raise ConnectionError("the broker closed the connection")
            for packet in reader.feed(data):
                if packet.kind == wire.PINGRESP:
                    s.sendall(wire.pack(wire.DISCONNECT, 0, b""))
                    return found
                if packet.kind == wire.PUBLISH and packet.flags & 1:
                    topic, at = wire.text(packet.body, 0)
                    found[topic] = packet.body[at:]


def compared(tree: Tree) -> dict[str, Any]:
    """Return what of a tree is compared with another: payloads by their content, whatever the order of their keys."""
    return {topic: _said(payload) for topic, payload in tree.items() if "/v1/gw/" not in topic}


def _said(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload


def newest(store: Path) -> int:
    """Return the number of the newest event of a store that a gateway is writing."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as db:
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spool'").fetchone()
    return 0 if row is None else row[0]


class Backend:
    """Counts the events that arrive at the tortured broker, whatever becomes of it; its session outlives every broker."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.seen: set[Event] = set()
        self.last = time.monotonic()
        self._ready = threading.Event()
        c: Any = paho.Client(CallbackAPIVersion.VERSION2, BACKEND, clean_session=False)
        c.on_connect = lambda *_: c.subscribe([(topic, 1) for topic in COUNTED])
        c.on_subscribe = lambda *_: self._ready.set()
        c.on_message = lambda _c, _d, m: self._arrived(m.topic, bytes(m.payload))
        c.reconnect_delay_set(1, 1)
        self._client = c
        c.connect(*address)
        c.loop_start()
        if not self._ready.wait(10):
            raise MosquittoError("the broker does not answer; next: look at its log")

    def read(self, quiet_s: float = 0.15, longest_s: float = 3.0) -> None:
        """Return when nothing has arrived for quiet_s."""
        began = time.monotonic()
        while time.monotonic() - max(self.last, began) < quiet_s and time.monotonic() - began < longest_s:
            time.sleep(0.01)

    def close(self) -> None:
        """Leave; the session stays."""
        self._client.disconnect()
        self._client.loop_stop()

    def _arrived(self, topic: str, payload: bytes) -> None:
        self.last = time.monotonic()
        leaf = topic.rpartition("/")[2]
        body: Any = json.loads(payload)
        parts = (body[0]["id"] if leaf == "senml" else body["id"].rpartition(":")[0]).split(":")
        if all(part.isdigit() for part in parts):  # others are the gateway's own
            self.seen.add((int(parts[0]), int(parts[-1]), leaf))


class Tortured:
    """The broker of the outputs: one port, several brokers and several states of memory."""

    def __init__(self, folder: Path) -> None:
        self._folders = [folder / f"broker-{i}" for i in range(FOLDERS)]
        self._older = folder / "older"
        self._older.mkdir()
        for f in self._folders:
            f.mkdir()
        first = Mosquitto(self._folders[0])
        self.host, self.port = first.host, first.port
        self._brokers = [first, *(Mosquitto(f, first.port) for f in self._folders[1:])]
        self._at = 0
        self._kept: list[Path] = []
        self._serial = 0
        self._hole: socket.socket | None = None
        self._blank = folder / "blank.db"
        first.start()
        Backend((self.host, self.port)).close()
        first.stop()
        shutil.copy(first.memory, self._blank)
        for broker in self._brokers[1:]:
            shutil.copy(self._blank, broker.memory)
        first.start()
        self.up = True

    @property
    def address(self) -> tuple[str, int]:
        """(host, port), the same for all of them."""
        return self.host, self.port

    @property
    def _now(self) -> Mosquitto:
        return self._brokers[self._at]

    def remember(self) -> None:
        """Keep what it knows now, for a day on which it will know no more than this."""
        self._now.save()
        self._serial += 1
        target = self._older / f"{self._serial}.db"
        shutil.copy(self._now.memory, target)
        self._kept.append(target)
        if len(self._kept) > MEMORIES:
            self._kept.pop(0).unlink()

    def begin(self, what: str, older: int, read: Callable[[], None] = lambda: None) -> None:
        """Begin a fault: it is out of order until end(). older: which of the kept memories, any number.

        read: returns when the backend has read what was on its way. A power cut takes what a broker has acknowledged and not passed on,
        which no gateway can know; so it happens when there is nothing of the kind, and what is missing then is the gateway's loss.
        """
        broker, self.up = self._now, False
        if what == "frozen":
            broker.freeze()
        elif what == "exchanged":
            broker.freeze()
            read()
            broker.thaw()
            broker.stop()
            self._at = (self._at + 1) % len(self._brokers)
        elif what in ("silent", "restarted"):
            broker.stop()
            if what == "silent":
                self._hole = socket.create_server((self.host, self.port), backlog=64, reuse_port=False)
        else:  # a power cut: what it had not written is gone, or all of it
            broker.freeze()
            read()
            broker.kill()
            shutil.copy(self._kept[older % len(self._kept)] if what == "older" else self._blank, broker.memory)

    def end(self) -> None:
        """The broker of now is there again. Raises MosquittoError."""
        hole, self._hole = self._hole, None
        if hole is not None:
            hole.close()
        if self._now.running:
            self._now.thaw()
        else:
            self._now.start()
        self.up = True

    def close(self) -> None:
        """Leave nothing behind."""
        if self._hole is not None:
            self._hole.close()
        for broker in self._brokers:
            if broker.running:
                broker.thaw()
                broker.kill()


class Watch(threading.Thread):
    """Looks at what the tortured broker retains again and again, so that one knows afterwards since when it was as it is."""

    EVERY_S = 0.15

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True, name="watch")
        self._address = address
        self._seen: list[tuple[float, int]] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self.EVERY_S):
            try:
                tree = snapshot(self._address, 1.0)
            except (OSError, wire.ProtocolError):
                tree = None
            self._seen.append((time.monotonic(), 0 if tree is None else self._print(tree)))

    def _print(self, tree: Tree) -> int:
        return hash(frozenset((t, p) for t, p in tree.items() if "/v1/gw/" not in t))

    def end(self, tree: Tree) -> float:
        """Stop; return the time since which the tree has been this one (now, when it was seen for the first time)."""
        self._ended.set()
        self.join()
        wanted, since = self._print(tree), time.monotonic()
        for at, seen in reversed(self._seen):
            if seen != wanted:
                break
            since = at
        return since


class Mirror:
    """The empty pair: a gateway without a past at its broker, on a copy of the store. compute() returns what it publishes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "mirror"
        self._folder.mkdir()
        (self._folder / "broker").mkdir()
        self._broker = Mosquitto(self._folder / "broker", persistent=False)
        self.address = (self._broker.host, self._broker.port)
        self._warm = Warm()

    def compute(self, store: Path, write: Any, outputs: int, longest_s: float = 20.0) -> dict[str, bytes]:
        """Copy `store`, write the configuration (write(folder, address, links, store)), start, and wait until it has published all.

        That is when its marks are there (gw/<gw>/mark/<output> of each output; generation -1 says that it has only begun), else when it has been quiet for a second.
        Raises GatewayError, MosquittoError.
        """
        copy = self._folder / "gateway.db"
        for old in self._folder.glob("gateway.db*"):
            old.unlink()
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db, closing(sqlite3.connect(copy)) as to:
            db.backup(to)
        config = write(self._folder, f"{self.address[0]}:{self.address[1]}",
                       '[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n', copy)  # fmt: skip
        self._broker.kill()
        self._broker.start()
        gateway = GatewayProcess(config, start=self._warm.start)
        try:
            return self._quiet(outputs, longest_s)
        finally:
            gateway.kill()

    def _quiet(self, outputs: int, longest_s: float) -> dict[str, bytes]:
        before: dict[str, bytes] = {}
        since = began = time.monotonic()
        while True:
            tree = snapshot(self.address)
            now = time.monotonic()
            marks = sum("/mark/" in topic and json.loads(said)["generation"] >= 0 for topic, said in tree.items())
            if tree.keys() != before.keys() or compared(tree) != compared(before):
                before, since = tree, now
            quiet = now - since
            if (marks >= outputs and quiet >= 0.1) or quiet >= 1.0 or now - began > longest_s:
                return tree
            time.sleep(0.05)

    def close(self) -> None:
        """Leave nothing behind."""
        self._warm.close()
        self._broker.kill()

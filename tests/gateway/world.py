"""Stand-ins for the outside of a gateway: nodes that seal frames with motewire, a concentrator, a backend, the real process.

Sealing here is written on motewire's encoder and the `cryptography` package; the gateway decodes with cbor2 and a bit reader of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.load import PULL_ACK, PULL_DATA, PULL_RESP, PUSH_ACK, PUSH_DATA, TX_ACK, Mote, registry
from host_sim.load import report as report  # tests take it from here

REPO = Path(__file__).resolve().parents[2]
T0 = 1767225600  # 2026-01-01T00:00:00Z
PATIENCE_S = 60.0  # for what comes at once where nothing else runs: a box may be many times slower


class Concentrator:
    """A packet forwarder on a UDP socket; pull() is the barrier behind which everything pushed is committed."""

    def __init__(self, port: int, eui: str = "aa555a0000000001") -> None:
        self.eui = bytes.fromhex(eui)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", port))
        self.tmst = 1000
        self.push_acks = 0

    def _send(self, kind: int, body: bytes = b"") -> bytes:
        token = secrets.token_bytes(2)
        self.sock.send(bytes((2,)) + token + bytes((kind,)) + self.eui + body)
        return token

    def push(self, data: bytes, /, **fields: Any) -> None:
        """PUSH_DATA one packet as heard at SF7 on 868.1 MHz; fields replace those of rxpk."""
        self.tmst += 10_000
        rxpk = {
            "tmst": self.tmst, "freq": 868.1, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA", "datr": "SF7BW125", "codr": "4/5",
            "rssi": -80, "lsnr": 7.5, "size": len(data), "data": base64.b64encode(data).decode(), **fields,
        }  # fmt: skip
        self.raw(json.dumps({"rxpk": [rxpk]}).encode())

    def raw(self, body: bytes) -> None:
        """PUSH_DATA any body."""
        self._send(PUSH_DATA, body)

    def pull(self, timeout: float = PATIENCE_S) -> list[dict[str, Any]]:
        """PULL_DATA, wait for its PULL_ACK, return the txpk of every PULL_RESP that came before."""
        token = self._send(PULL_DATA)
        found = []
        deadline = time.monotonic() + timeout
        while True:
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            got = self.sock.recv(65536)
            if got[3] == PUSH_ACK:
                self.push_acks += 1
            elif got[3] == PULL_RESP:
                found.append(json.loads(got[4:])["txpk"])
                self.sock.send(bytes((2, got[1], got[2], TX_ACK)) + self.eui)
            elif got[3] == PULL_ACK and got[1:3] == token:
                return found

    def close(self) -> None:
        """Let go of the socket."""
        self.sock.close()


def frame_of(txpk: dict[str, Any]) -> bytes:
    """Return the frame of a txpk."""
    return base64.b64decode(txpk["data"])


class Backend:
    """An MQTT subscriber that keeps all messages in order of arrival: (topic below city/v1, payload, retain flag)."""

    def __init__(self, address: tuple[str, int], topic: str = "city/#") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._news = threading.Condition()
        self._fence, self._passed = f"fence/{secrets.token_hex(8)}", threading.Event()
        ready = threading.Event()
        c = paho.Client(CallbackAPIVersion.VERSION2, f"backend-{secrets.token_hex(4)}")
        c.on_connect = lambda *_: c.subscribe(topic, 1)
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = self._arrived
        c.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self._client = c
        c.connect(*address)
        c.loop_start()
        assert ready.wait(PATIENCE_S)

    def _arrived(self, _c: Any, _d: Any, m: paho.MQTTMessage) -> None:
        if m.topic == self._fence:
            self._passed.set()
            return
        with self._news:
            self.messages.append((m.topic.removeprefix("city/v1/"), bytes(m.payload), m.retain))
            self._news.notify_all()

    def fence(self) -> None:
        """Wait until all has arrived that the broker had for us: a message of our own comes behind it.

        Where an ACL keeps that from us, until nothing has come for a second since the broker has acknowledged it.
        """
        self._passed.clear()
        self._client.subscribe(self._fence, 1)
        self._client.publish(self._fence, b"", 1).wait_for_publish(PATIENCE_S)
        before = -1
        while not self._passed.wait(1.0) and len(self.messages) != before:
            before = len(self.messages)

    def wait(self, enough: Callable[[], Any], timeout: float = PATIENCE_S, what: str = "") -> None:
        """Wait until `enough()` is true; fail with what has arrived."""
        with self._news:
            if not self._news.wait_for(enough, timeout):
                raise AssertionError(
                    f"not in {timeout} s: {what or enough}; have {[t for t, _, _ in self.messages][-20:]}"
                )

    def on(self, topic: str) -> list[bytes]:
        """Return the payloads of one topic, in order."""
        return [payload for t, payload, _ in self.messages if t == topic]

    def packs(self) -> dict[str, list[dict[str, Any]]]:
        """Return SenML packs by their id; a repeat must be identical."""
        found: dict[str, list[dict[str, Any]]] = {}
        for t, payload, _ in list(self.messages):
            if t.endswith("/senml"):
                pack = json.loads(payload)
                assert found.setdefault(pack[0]["id"], pack) == pack
        return found

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


def toml_of(folder: Path, broker: tuple[str, int], nodes: Sequence[Mote], clock: str = "host", **extra: str) -> Path:
    """Write gateway.toml and nodes.toml; extra: text appended to a section by name (link_lora, output_city, gateway)."""
    address = f"{broker[0]}:{broker[1]}"
    (folder / "nodes.toml").write_text(registry(nodes))
    file = folder / "gateway.toml"
    file.write_text(
        f'[gateway]\nid = "gw-1"\nclock = "{clock}"\n{extra.get("gateway", "")}\n'
        f'[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n{extra.get("link_lora", "")}\n'
        f'[link.wifi]\nkind = "mqtt"\nbroker = "{address}"\n'
        f'[output.city]\nkind = "mqtt"\nbroker = "{address}"\n{extra.get("output_city", "")}\n'
    )
    return file


class Process:
    """The real gateway process."""

    def __init__(self, config: Path, ready_s: float = PATIENCE_S, accept: bool = False) -> None:
        self.log = config.parent / f"gateway-{secrets.token_hex(3)}.log"
        notify = config.parent / f"n{secrets.token_hex(3)}.sock"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(notify))
        self._notify.settimeout(ready_s)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "--config", str(config), *(["--accept"] if accept else [])],
                cwd=REPO, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": str(notify)},
            )  # fmt: skip
        self.told = self._await_ready(ready_s)
        assert b"READY=1" in self.told, self.log.read_text()
        # a thread of its own writes the log, so a line may come after its effect; lines keep their order
        assert until(lambda: any(line["event"] == "ready" for line in self.lines()), ready_s), self.log.read_text()

    def _await_ready(self, seconds: float) -> bytes:
        self._notify.settimeout(0.25)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                told = self._notify.recv(4096)
            except TimeoutError:
                assert self.process.poll() is None, self.log.read_text()
                continue
            self._notify.settimeout(seconds)
            return told
        raise AssertionError(f"not ready after {seconds} s:\n{self.log.read_text()}")

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    @property
    def port(self) -> int:
        """The UDP port it listens on."""
        place = next(line for line in self.lines() if line["event"] == "ready")["links"]["lora"]
        return int(place.rsplit(":", 1)[1])

    def rss_mib(self) -> float:
        """Peak resident memory so far, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 120) -> int:
        """End it in order and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()
            self._notify.close()


def packet(stream: BinaryIO) -> tuple[bytes, bytes, bytes] | None:
    """Wait for an MQTT packet and return its first byte, the bytes of its length, and the rest; None at the end of the stream."""
    head, lengths, length = stream.read(1), b"", 0
    while head and (not lengths or lengths[-1] & 128):
        byte = stream.read(1)
        if not byte:
            return None
        length |= (byte[0] & 127) << 7 * len(lengths)
        lengths += byte
    body = stream.read(length)
    return (head, lengths, body) if head and len(body) == length else None


class ScriptedBroker(threading.Thread):
    """Takes every connection and PUBLISH, and acknowledges the QoS 1 ones or not; `senml` lists their packs' ids."""

    def __init__(self, port: int = 0, *, acknowledges: bool) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", port))
        self.address: tuple[str, int] = self._server.getsockname()
        self._acknowledges = acknowledges
        self._clients: list[socket.socket] = []
        self.senml: list[str] = []

    def run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        while found := packet(stream):
            head, _, body = found
            kind = head[0] >> 4
            if kind == 1:
                client.sendall(bytes((0x20, 2, 0, 0)))
            elif kind == 8:
                client.sendall(bytes((0x90, 3, *body[:2], 0)))
            elif kind == 3 and head[0] & 6:
                end = 2 + int.from_bytes(body[:2], "big")
                if body[2:end].endswith(b"/senml"):
                    self.senml.append(json.loads(body[end + 2 :])[0]["id"])
                if self._acknowledges:
                    client.sendall(bytes((0x40, 2, *body[end : end + 2])))

    def end(self) -> None:
        """Close the door and drop who is inside."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in self._clients:
            with contextlib.suppress(OSError):  # it may have gone by itself
                client.shutdown(socket.SHUT_RDWR)
            client.close()


def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Wait for something; True when it came."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()

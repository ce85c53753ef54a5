"""Semtech UDP packet forwarder, protocol 2 (Lora-net/packet_forwarder PROTOCOL.TXT): any commodity concentrator.

The protocol has no authentication: bind to loopback or a VPN, name the EUIs, and pin each to its address (`allow` as a table), since
who sends PULL_DATA under an EUI gets its downlinks. What protects the data is the frame's seal.
PULL_DATA is answered only when everything pushed before by the same EUI is decided, committed and its downlink handed over (at
most BARRIER_S): harmless for a concentrator, and it lets a simulator run in lock-step.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from gateway.clock import Clock
from gateway.config import UdpForwarderConfig
from gateway.core.dedupe import RSSI_DBM
from gateway.core.model import Radio, Reception
from gateway.links.link import Deliver, LinkError
from gateway.metrics import Metrics
from gateway.outputs.message import json

PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)
VERSION = 2
MAX_DATAGRAM = 32768
MAX_FORWARDERS = 64
MAX_WAITING = 4096  # frames of one forwarder that are not committed yet; beyond, the oldest are not waited for
BARRIER_S = 5.0
RX_DELAY_US = 1_000_000
RECEIVE_BUFFER = 4 << 20
_DATR = re.compile(r"SF(7|8|9|10|11|12)BW(125|250|500)")
_CODR = re.compile(r"4/[5-8]")
_TX_ERRORS = ("TOO_LATE", "TOO_EARLY", "COLLISION_PACKET", "COLLISION_BEACON", "TX_FREQ", "TX_POWER", "GPS_UNLOCKED")

log = structlog.get_logger(__name__)


class _Rxpk(msgspec.Struct):
    """A received packet, the fields in use."""

    data: str
    size: int
    tmst: int
    freq: float
    datr: str | int
    modu: str = "LORA"
    stat: int = 1
    codr: str = "4/5"
    rssi: float | None = None
    lsnr: float | None = None
    time: str | None = None


class _Stat(msgspec.Struct):
    time: str | None = None


class _Push(msgspec.Struct):
    rxpk: list[msgspec.Raw] = []
    stat: _Stat | None = None


class _TxAckBody(msgspec.Struct):
    error: str = ""


class _TxAck(msgspec.Struct):
    txpk_ack: _TxAckBody | None = None


class _Forwarder:
    """What is known of one EUI: where its last PULL_DATA came from, and the frames it still waits for."""

    __slots__ = ("address", "waiting")

    def __init__(self) -> None:
        self.address: tuple[Any, ...] | None = None
        self.waiting: dict[asyncio.Future[None], None] = {}


class UdpForwarderLink(asyncio.DatagramProtocol):
    """flush(): asks the service to stop waiting for further copies. Raises LinkError on start when the port is taken."""

    def __init__(
        self, config: UdpForwarderConfig, deliver: Deliver, flush: Callable[[], None], clock: Clock, metrics: Metrics
    ) -> None:
        self.name = config.name
        self._config, self._deliver, self._flush, self._clock, self._metrics = config, deliver, flush, clock, metrics
        self._transport: asyncio.DatagramTransport | None = None
        self._forwarders: dict[bytes, _Forwarder] = {}
        self._taking = False
        self._barriers: set[asyncio.Task[None]] = set()
        self._push = msgspec.json.Decoder(_Push).decode
        self._rxpk = msgspec.json.Decoder(_Rxpk).decode

    async def start(self) -> str:
        host, port = self._config.host, self._config.port
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: self, (host, port))
        except OSError as e:
            raise LinkError(
                f"link {self.name}: cannot listen on udp {host}:{port}: {e.strerror or e}",
                f"stop what uses the port (ss -lunp 'sport = :{port}'), or change link.{self.name}.bind",
            ) from e
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # a burst waits here while we commit
        self._taking = True
        bound = sock.getsockname()
        return f"{bound[0]}:{bound[1]}"

    def use(self, config: UdpForwarderConfig) -> None:
        """Go on with another configuration of the same socket; forwarders that are not allowed any more are forgotten, and so are
        downlink paths to where they may not be."""
        self._config = config
        if config.allow:
            self._forwarders = {eui: f for eui, f in self._forwarders.items() if eui.hex() in config.allow}
        for eui, forwarder in self._forwarders.items():
            if forwarder.address is not None and not config.may_come_from(eui.hex(), forwarder.address[0]):
                forwarder.address = None

    async def stop(self) -> None:
        self._taking = False

    async def close(self) -> None:
        for task in self._barriers:
            task.cancel()
        if self._transport is not None:
            self._transport.close()

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        known = self._forwarders.get(bytes.fromhex(to.receiver))
        radio = to.radio
        if known is None or known.address is None or radio is None or self._transport is None:
            self._metrics.refused["no_downlink_path"] += 1
            return False
        txpk = {
            "imme": False,
            "tmst": (radio.tmst + RX_DELAY_US) & 0xFFFFFFFF,
            "freq": radio.freq_hz / 1e6,
            "rfch": 0,
            "powe": self._config.power_dbm,
            "modu": "LORA",
            "datr": f"SF{radio.sf}BW{radio.bw_hz // 1000}",
            "codr": radio.codr,
            "ipol": False,
            "prea": 8,
            "size": len(frame),
            "data": base64.b64encode(frame).decode(),
        }
        self._transport.sendto(
            bytes((VERSION, *secrets.token_bytes(2), PULL_RESP)) + json({"txpk": txpk}), known.address
        )
        return True

    def error_received(self, exc: Exception) -> None:
        """An ICMP error of some forwarder that went away: counted, the next PULL_DATA brings a new address."""
        self._metrics.totals["udp_errors"] += 1

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Handle one datagram; whatever is wrong with it is counted and costs nothing more."""
        if not self._taking or self._transport is None:
            return
        if not 12 <= len(data) <= MAX_DATAGRAM:
            self._refuse("bad_datagram")
            return
        kind, eui = data[3], data[4:12]
        if data[0] != VERSION or kind not in (PUSH_DATA, PULL_DATA, TX_ACK):
            self._refuse("bad_datagram")
            return
        forwarder = self._forwarder(eui, addr)
        if forwarder is None:
            self._refuse("unknown_forwarder")
            return
        if not self._config.may_come_from(eui.hex(), addr[0]):
            self._refuse("wrong_address")
            return
        if kind == PUSH_DATA:
            self._transport.sendto(
                bytes((VERSION, data[1], data[2], PUSH_ACK)), addr
            )  # before processing, says the protocol
            self._pushed(data[12:], eui.hex(), forwarder)
        elif kind == PULL_DATA:
            forwarder.address = addr
            self._pulled(bytes((VERSION, data[1], data[2], PULL_ACK)), addr, forwarder)
        else:
            self._sent(data[12:])

    def _forwarder(self, eui: bytes, addr: tuple[Any, ...]) -> _Forwarder | None:
        known = self._forwarders.get(eui)
        if known is not None:
            return known
        if self._config.allow:
            if eui.hex() not in self._config.allow:
                return None
        elif not (addr[0].startswith("127.") or addr[0] == "::1"):
            return None
        if len(self._forwarders) >= MAX_FORWARDERS:
            return None
        known = self._forwarders[eui] = _Forwarder()
        log.info("forwarder_seen", link=self.name, receiver=eui.hex())
        return known

    def _refuse(self, reason: str) -> None:
        self._metrics.refused[reason] += 1

    def _pushed(self, body: bytes, eui: str, forwarder: _Forwarder) -> None:
        try:
            push = self._push(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._refuse("bad_json")
            return
        for raw in push.rxpk:
            try:
                rx = self._reception(self._rxpk(raw), eui)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._refuse("bad_json")
                continue
            if isinstance(rx, str):
                self._refuse(rx)
                continue
            future = self._deliver(rx)
            if future is not None and not future.done():
                if len(forwarder.waiting) >= MAX_WAITING:
                    del forwarder.waiting[next(iter(forwarder.waiting))]
                forwarder.waiting[future] = None
                future.add_done_callback(lambda f: forwarder.waiting.pop(f, None))
        if push.stat is not None and push.stat.time is not None:
            t = parse_time(push.stat.time)
            if t is not None:
                self._clock.heard(t, eui)

    def _reception(self, p: _Rxpk, eui: str) -> Reception | str:
        """Return the frame, or the reason why it is none of ours."""
        if p.stat != 1:
            return "bad_crc"
        datr = _DATR.fullmatch(p.datr) if isinstance(p.datr, str) else None
        if p.modu != "LORA" or datr is None or not _CODR.fullmatch(p.codr) or not 100 < p.freq < 3000:
            return "not_lora"
        data = decode_base64(p.data)
        if data is None or len(data) != p.size:
            return "bad_base64"
        received = None
        if self._clock.follows_receivers and p.time is not None:
            written = parse_time(p.time)
            if written is not None:
                received = self._clock.received(written, eui)
        radio = Radio(round(p.freq * 1e6), int(datr[1]), int(datr[2]) * 1000, p.codr, p.tmst & 0xFFFFFFFF)
        return Reception(
            data,
            self._clock.now() if received is None else received,
            self.name,
            eui,
            self._rssi(p.rssi),
            p.lsnr,
            radio,
        )

    def _rssi(self, claimed: float | None) -> int | None:
        """Return dBm, None where the receiver said nothing or what no receiver can measure: that is not published and wins nothing."""
        if claimed is None:
            return None
        if not RSSI_DBM[0] <= claimed <= RSSI_DBM[1]:
            self._metrics.totals["rssi_implausible"] += 1
            return None
        return round(claimed)

    def _pulled(self, answer: bytes, addr: tuple[Any, ...], forwarder: _Forwarder) -> None:
        self._flush()
        if not forwarder.waiting:
            if self._transport is not None:
                self._transport.sendto(answer, addr)
            return
        task = asyncio.create_task(self._barrier(answer, addr, tuple(forwarder.waiting)), name=f"barrier-{self.name}")
        self._barriers.add(task)
        task.add_done_callback(self._barriers.discard)

    async def _barrier(self, answer: bytes, addr: tuple[Any, ...], waiting: tuple[asyncio.Future[None], ...]) -> None:
        await asyncio.wait(waiting, timeout=BARRIER_S)
        if self._transport is not None:
            self._transport.sendto(answer, addr)

    def _sent(self, body: bytes) -> None:
        """TX_ACK: an empty body or error NONE means that the downlink goes out."""
        error = ""
        if body.strip(b"\0 \r\n"):
            try:
                ack = msgspec.json.decode(body, type=_TxAck)
                error = ack.txpk_ack.error if ack.txpk_ack else ""
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._refuse("bad_json")
                return
        if error in ("", "NONE"):
            self._metrics.totals["downlinks_confirmed"] += 1
        else:
            self._refuse(f"tx_{error.lower()}" if error in _TX_ERRORS else "tx_other")


def decode_base64(text: str) -> bytes | None:
    """Decode base64 as forwarders write it: with or without padding, standard or URL alphabet. None when it is neither."""
    text = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def parse_time(text: str) -> float | None:
    """Return Unix seconds of rxpk's ISO 8601 time or stat's "2026-01-01 00:00:00 GMT"; None for anything else."""
    if len(text) > 40:
        return None
    if text.endswith(" GMT"):
        text = text[:-4] + "Z"
    try:
        d = datetime.fromisoformat(text)
    except ValueError:
        return None
    t = (d if d.tzinfo else d.replace(tzinfo=UTC)).timestamp()
    return t if 0 <= t < 1 << 32 else None

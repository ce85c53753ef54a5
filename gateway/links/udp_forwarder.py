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
import math
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog

from gateway.clock import Clock
from gateway.config import UdpForwarderConfig
from gateway.core.dedupe import RSSI_DBM
from gateway.core.model import Radio, Reception
from gateway.health import Problem
from gateway.links.forwarders import Forwarder, Forwarders
from gateway.links.link import Deliver, LinkError
from gateway.logs import Seldom
from gateway.metrics import Metrics
from gateway.outputs.message import json
from gateway.supervise import Kept, Watch, caught

PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)
VERSION = 2
MAX_DATAGRAM = 32768
MAX_WAITING = 4096  # frames of one forwarder that are not committed yet; beyond, the oldest are not waited for
BARRIER_S = 5.0
RX_DELAY_US = 1_000_000
RECEIVE_BUFFER = 4 << 20
_DATR = re.compile(r"SF(7|8|9|10|11|12)BW(125|250|500)")
_CODR = {
    "4/5": "4/5",
    "4/6": "4/6",
    "4/7": "4/7",
    "4/8": "4/8",
    "2/3": "4/6",
    "1/2": "4/8",
}  # the last two: old forwarders
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
MAX_SNR = 50.0  # dB either way; no radio tells more
_TX_ERRORS = ("TOO_LATE", "TOO_EARLY", "COLLISION_PACKET", "COLLISION_BEACON", "TX_FREQ", "TX_POWER", "GPS_UNLOCKED")

log = structlog.get_logger(__name__)


class _Signal(msgspec.Struct):
    """One antenna of several (Kerlink iBTS)."""

    rssic: float | None = None
    lsnr: float | None = None


class _Rxpk(msgspec.Struct):
    """A received packet, the fields in use. Numbers may come as text."""

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
    rsig: msgspec.Raw = msgspec.Raw()


class _Push(msgspec.Struct):
    """Parts of a PUSH_DATA, each judged for itself."""

    rxpk: list[msgspec.Raw] | None = None
    stat: msgspec.Raw = msgspec.Raw()


class _Stat(msgspec.Struct):
    time: str | None = None


class _TxAckBody(msgspec.Struct):
    error: str | None = ""


class _TxAck(msgspec.Struct):
    txpk_ack: _TxAckBody | None = None


class UdpForwarderLink(asyncio.DatagramProtocol):
    """flush(): asks the service to stop waiting for further copies. Raises LinkError on start when the port is taken."""

    def __init__(
        self,
        config: UdpForwarderConfig,
        deliver: Deliver,
        flush: Callable[[], None],
        clock: Clock,
        metrics: Metrics,
        watch: Watch | None = None,
    ) -> None:
        self.name = config.name
        self._config, self._deliver, self._flush, self._clock, self._metrics = config, deliver, flush, clock, metrics
        self._watch = Watch(metrics) if watch is None else watch
        self._kept: Kept | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._lost: asyncio.Future[None] | None = None
        self._forwarders = Forwarders()
        self._taking = False
        self._lines = Seldom()
        self._barriers: set[asyncio.Task[None]] = set()
        self._push = msgspec.json.Decoder(_Push).decode
        self._rxpk = msgspec.json.Decoder(_Rxpk, strict=False).decode
        self._stat = msgspec.json.Decoder(_Stat | None).decode
        self._signals = msgspec.json.Decoder(list[_Signal], strict=False).decode

    @property
    def connected(self) -> bool:
        """True while the socket is open."""
        return self._transport is not None

    def problems(self) -> Iterator[Problem]:
        """Say which EUIs stand on two boxes."""
        yield from self._forwarders.problems(self.name, time.monotonic())

    async def start(self) -> str:
        place = await self._open()
        self._taking = True
        self._kept = self._watch.keep(f"link {self.name}", self._run)
        return place

    async def _open(self) -> str:
        host, port = self._config.host, self._config.port
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: self, (host, port))
        except OSError as e:
            raise LinkError(
                f"link {self.name}: cannot listen on udp {host}:{port}: {e.strerror or e}",
                f"stop what uses the port (ss -lunp 'sport = :{port}'), or change link.{self.name}.bind",
            ) from e
        self._transport, self._lost = transport, loop.create_future()
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # a burst waits here while we commit
        bound = sock.getsockname()
        return f"{bound[0]}:{bound[1]}"

    async def _run(self) -> None:
        """Stand for the socket: ends with the error that closed it, and opens it again when it is called again."""
        if self._transport is None:
            await self._open()
        assert self._lost is not None
        await asyncio.shield(self._lost)

    def connection_lost(self, exc: Exception | None) -> None:
        """The loop has closed the socket: an error that is no datagram's, or close()."""
        self._transport = None
        if self._lost is not None and not self._lost.done():
            if exc is None:
                self._lost.set_result(None)
            else:
                self._lost.set_exception(exc)
                self._lost.exception()  # seen, also when no one waits any more

    def use(self, config: UdpForwarderConfig) -> None:
        """Go on with another configuration of the same socket; forwarders that are not allowed any more are forgotten, and so are
        downlink paths to where they may not be."""
        self._config = config
        if config.allow:
            self._forwarders.only(config.allow)
        for eui, forwarder in self._forwarders:
            forwarder.only_from(partial(config.may_come_from, eui.hex()))

    async def stop(self) -> None:
        self._taking = False

    async def close(self) -> None:
        if self._kept is not None:
            await self._kept.stop()
        for task in self._barriers:
            task.cancel()
        if self._transport is not None:
            self._transport.close()

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        known = self._forwarders.get(bytes.fromhex(to.receiver))
        radio = to.radio
        address = known.path(radio.tmst, time.monotonic()) if known is not None and radio is not None else None
        if address is None or radio is None or self._transport is None:
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
        self._transport.sendto(bytes((VERSION, *secrets.token_bytes(2), PULL_RESP)) + json({"txpk": txpk}), address)
        return True

    def error_received(self, exc: Exception) -> None:
        """An ICMP error of some forwarder that went away: counted, the next PULL_DATA brings a new address."""
        self._metrics.totals["udp_errors"] += 1

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Handle one datagram; whatever is wrong with it, or with us, is counted and costs nothing more."""
        try:
            self._datagram(data, addr)
        except Exception as e:
            caught(self._metrics, f"link {self.name}", e)

    def _datagram(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if not self._taking or self._transport is None:
            return
        if not 12 <= len(data) <= MAX_DATAGRAM:
            self._refuse("bad_datagram", addr[0], f"{len(data)} bytes")
            return
        kind, eui = data[3], data[4:12]
        if data[0] != VERSION or kind not in (PUSH_DATA, PULL_DATA, TX_ACK):
            self._refuse("bad_datagram", addr[0], "not of the packet forwarder's protocol, version 2")
            return
        forwarder = self._forwarder(eui, addr)
        if forwarder is None:
            self._refuse("unknown_forwarder", addr[0], f"add {eui.hex()} to link.{self.name}.allow")
            return
        if not self._config.may_come_from(eui.hex(), addr[0]):
            self._refuse("wrong_address", eui.hex(), f"from {addr[0]}, which link.{self.name}.allow does not give it")
            return
        if kind == PUSH_DATA:
            self._transport.sendto(
                bytes((VERSION, data[1], data[2], PUSH_ACK)), addr
            )  # before processing, says the protocol
            self._pushed(data[12:], forwarder.eui, forwarder, addr)
        elif kind == PULL_DATA:
            forwarder.pulled(addr, time.monotonic())
            self._pulled(bytes((VERSION, data[1], data[2], PULL_ACK)), addr, forwarder)
        else:
            self._sent(data[12:], eui.hex())

    def _forwarder(self, eui: bytes, addr: tuple[Any, ...]) -> Forwarder | None:
        now = time.monotonic()
        known = self._forwarders.get(eui)
        if known is None:
            if self._config.allow:
                if eui.hex() not in self._config.allow:
                    return None
            elif not (addr[0].startswith("127.") or addr[0] == "::1"):
                return None
            known = self._forwarders.enter(eui, now)
            if known is None:
                return None
            if self._lines.due("seen", eui.hex()) is not None:
                log.info("forwarder_seen", link=self.name, receiver=eui.hex())
        known.heard_at = now
        return known

    def _refuse(self, reason: str, sender: str, detail: str = "") -> None:
        """Count it, and leave one line in the log for each sender (EUI, or address where there is none) and kind."""
        self._metrics.refused[reason] += 1
        left = self._lines.due(reason, sender)
        if left is not None:
            more: dict[str, Any] = {"left_out": left} if left else {}
            log.info("datagram_refused", reason=reason, link=self.name, receiver=sender, detail=detail or None, **more)

    def _pushed(self, body: bytes, eui: str, forwarder: Forwarder, addr: tuple[Any, ...]) -> None:
        body = body.partition(b"\0")[0]  # some forwarders send their C string whole
        try:
            push = _tolerant(self._push, body)
        except _UNREADABLE as e:
            self._refuse("bad_json", eui, _why(e))
            return
        for raw in push.rxpk or ():
            try:
                self._packet(raw, eui, forwarder, addr)
            except Exception as e:  # this packet's fault alone: those beside it are taken
                caught(self._metrics, f"link {self.name}", e)
        if push.stat:
            try:
                stat = self._stat(push.stat)
            except _UNREADABLE as e:
                self._refuse("bad_stat", eui, _why(e))
                return
            t = parse_time(stat.time) if stat is not None and stat.time is not None else None
            if t is not None:
                self._clock.heard(t, eui)

    def _packet(self, raw: msgspec.Raw, eui: str, forwarder: Forwarder, addr: tuple[Any, ...]) -> None:
        try:
            p = _tolerant(self._rxpk, bytes(raw))
        except _UNREADABLE as e:
            self._refuse("bad_json", eui, _why(e))
            return
        rx = self._reception(p, eui)
        if isinstance(rx, str):
            self._refuse(rx, eui)
            return
        assert rx.radio is not None
        if forwarder.pushed(addr, rx.radio.tmst, time.monotonic()) and forwarder.twins is not None:
            log.warning("receiver_twin", link=self.name, receiver=eui, addresses=list(forwarder.twins),
                        next="two receivers use this EUI: give each one of its own")  # fmt: skip
        future = self._deliver(rx)
        if future is not None and not future.done():
            if len(forwarder.waiting) >= MAX_WAITING:
                del forwarder.waiting[next(iter(forwarder.waiting))]
            forwarder.waiting[future] = None
            future.add_done_callback(lambda f: forwarder.waiting.pop(f, None))

    def _reception(self, p: _Rxpk, eui: str) -> Reception | str:
        """Return the frame, or the reason why it is none of ours."""
        if p.stat != 1:
            return "bad_crc"
        datr = _DATR.fullmatch(p.datr) if isinstance(p.datr, str) else None
        codr = _CODR.get(p.codr)
        if p.modu != "LORA" or datr is None or codr is None or not 100 < p.freq < 3000:
            return "not_lora"
        data = decode_base64(p.data)
        if data is None or len(data) != p.size:
            return "bad_base64"
        received = None
        rssi, snr = self._strength(p)
        if self._clock.follows_receivers and p.time is not None:
            written = parse_time(p.time)
            if written is not None:
                received = self._clock.received(written, eui)
        radio = Radio(round(p.freq * 1e6), int(datr[1]), int(datr[2]) * 1000, codr, p.tmst & 0xFFFFFFFF)
        return Reception(
            data,
            self._clock.now() if received is None else received,
            self.name,
            eui,
            self._rssi(rssi),
            snr,
            radio,
        )

    def _strength(self, p: _Rxpk) -> tuple[float | None, float | None]:
        """Return RSSI in dBm and SNR in dB, None where a receiver does not say; of several antennas the strongest."""
        rssi, snr = p.rssi, p.lsnr
        if rssi is None and p.rsig:
            try:
                best = max(self._signals(p.rsig), key=lambda s: -math.inf if s.rssic is None else s.rssic, default=None)
            except _UNREADABLE:
                best = None  # the packet itself is good
            if best is not None:
                rssi, snr = best.rssic, best.lsnr if snr is None else snr
        if snr is not None and not abs(snr) <= MAX_SNR:  # who claims what cannot be measured is not believed the rest
            if rssi is not None:
                self._metrics.totals["rssi_implausible"] += 1
            return None, None
        return rssi, snr

    def _rssi(self, claimed: float | None) -> int | None:
        """Return dBm, None where the receiver reported none or one that cannot be measured: that is not published and wins nothing."""
        if claimed is None:
            return None
        if not RSSI_DBM[0] <= claimed <= RSSI_DBM[1]:
            self._metrics.totals["rssi_implausible"] += 1
            return None
        return round(claimed)

    def _pulled(self, answer: bytes, addr: tuple[Any, ...], forwarder: Forwarder) -> None:
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

    def _sent(self, body: bytes, eui: str) -> None:
        """TX_ACK: an empty body or error NONE means that the downlink goes out."""
        error = ""
        body = body.partition(b"\0")[0].strip()
        if body:
            try:
                ack = msgspec.json.decode(body, type=_TxAck)
                error = ack.txpk_ack.error or "" if ack.txpk_ack else ""
            except _UNREADABLE as e:
                self._refuse("bad_json", eui, _why(e))
                return
        if error in ("", "NONE"):
            self._metrics.totals["downlinks_confirmed"] += 1
        else:
            self._refuse(f"tx_{error.lower()}" if error in _TX_ERRORS else "tx_other", eui, error[:40])


def _tolerant(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """Decode JSON; what is no UTF-8 in some text of it (a description, say) does not make the rest unreadable."""
    try:
        return decode(body)
    except UnicodeDecodeError:
        return decode(body.decode("utf-8", "replace").encode())
    except msgspec.DecodeError:
        if body.isascii():
            raise
        return decode(body.decode("utf-8-sig", "replace").encode())


def _why(error: Exception) -> str:
    """Return what is wrong in words of the parser's, which quote no content."""
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:100]


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

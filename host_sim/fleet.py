"""Lock-step over many VMs: conservative discrete-event simulation (DECISIONS.md "lock-step").

A node that sleeps runs free. A node that listens asks how far it may run and gets an answer that is a function of virtual
time only. Everything nodes do to each other is an event, handled in order of (time, node) once no node can precede it.
"""

from __future__ import annotations

import heapq
import json
import selectors
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from host_sim import interrupt
from host_sim.air import Air, Modulation, Transmission, logged
from host_sim.lora import LOCK_SYMBOLS, SNR_LIMIT, noise_floor_dbm, time_on_air_us
from host_sim.mqtt_endpoint import Endpoint
from host_sim.mqtt_wire import publish
from host_sim.node import BOOT_US, Listening, Node
from host_sim.protocol import CLOSED, CONNECTED, DATA, DEEPSLEEP, FINAL, HARD, NEVER, PWRON, SOFT, WDT, Delivery
from host_sim.receiver import Receiver
from host_sim.wifi import Bridge
from host_sim.zygote import Zygote

WIFI_US = 8_000  # one way between node and broker
MODEM_US = 500  # from the end of a frame to the modem's interrupt
STAT_US = 300_000_000
PROGRESS_S = 0.2
CAUSES = {"hard": HARD, "wdt": WDT, "soft": SOFT}


class FleetError(Exception):
    """A VM died, hung, or said something outside the protocol; the text holds the end of its console."""


class RowProbe(Protocol):
    """Learns of nodes' rows as they are taken and persisted, and of power cuts (probe.py)."""

    def taken(self, node: Node, t2000: int, row: list[tuple[int, int]], held: bool) -> None: ...
    def persisted(self, node: Node) -> None: ...
    def power_cut(self, node: Node) -> None: ...


class Fleet:
    """The world process. Call run_to(limit) with growing limits (us); close() kills what still runs.

    end: frames that start at or after it are drain, not part of the counted air log. hang_s: real seconds without a
    word from a running VM before FleetError.
    """

    def __init__(
        self,
        nodes: list[Node],
        air: Air,
        receivers: list[Receiver],
        bridge: Bridge | None,
        zygote: Zygote,
        *,
        end: int,
        probe: RowProbe,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_progress: Callable[[Fleet], None] | None = None,
        hang_s: float = 60.0,
    ) -> None:
        self.nodes, self.air, self.receivers, self.bridge = nodes, air, receivers, bridge
        self._zygote, self._end, self._probe, self._hang_s = zygote, end, probe, hang_s
        self._on_progress = on_progress or (lambda _fleet: None)
        self._on_event = on_event or (lambda _event: None)
        self._events: list[tuple[tuple[int, int, int, int], Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0
        self._selector = selectors.DefaultSelector()
        self.gateway_up = True
        self.heard = 0  # uplinks that reached the gateway, and its starts: without one nothing new can come out of it
        self.limit = 0
        self.now = 0
        self._closed = False
        for node in nodes:
            air.stations[node.spec.name] = node.spec.station
            self._schedule_boot(node, node.spec.power_on, node.spec.power_on, PWRON)
        for receiver in receivers:
            air.stations[receiver.station.name] = receiver.station
        if receivers:
            self._later(0, self._stat)

    # ---- the gateway comes and goes ------------------------------------------------------------------------------

    def at(self, t: int, action: Callable[[int], None]) -> None:
        """Call action(t) at virtual time t (us), in order with everything else."""
        self._later(t, action)

    def gateway_gone(self) -> None:
        """From now on nobody takes what receivers and access points hear. Downlinks already ordered still go out."""
        self.gateway_up = False

    def gateway_back(self, t: int) -> None:
        """A gateway is ready again: tell it the time and where the receivers are."""
        self.gateway_up = True
        self.heard += 1
        for receiver in self.receivers:
            receiver.stat(t)
        self._barrier(t, self.receivers)

    # ---- events -------------------------------------------------------------------------------------------------

    def _later(self, t: int, action: Callable[..., None], *args: Any) -> None:
        self._made += 1
        heapq.heappush(self._events, ((t, 1, 0, self._made), action, (t, *args)))

    def _of_node(self, node: Node, t: int, action: Callable[..., None], *args: Any) -> None:
        node.sequence += 1
        heapq.heappush(self._events, ((t, 0, node.spec.index, node.sequence), action, (t, node, *args)))

    def run_to(self, limit: int) -> None:
        """Play until nothing can happen any more before virtual time `limit` (us)."""
        self.limit = limit
        heard = shown = time.monotonic()
        while True:
            interrupt.check()
            if time.monotonic() - shown > PROGRESS_S:
                shown = time.monotonic()
                self._on_progress(self)
            moved = self._handle_due()
            moved |= self._grant()
            running = any(n.running for n in self.nodes)
            if not running and not moved:
                return
            if running:
                if self._collect(0 if moved else 1.0):
                    heard = time.monotonic()
                elif time.monotonic() - heard > self._hang_s:
                    stuck = [n for n in self.nodes if n.running]
                    raise FleetError(
                        f"{', '.join(n.spec.name for n in stuck)}: no sign of life for {self._hang_s:.0f} s of real time "
                        f"at virtual {stuck[0].now / 1e6:.3f} s\n{stuck[0].console_tail()}"
                    )

    def _safe(self) -> int:
        return min((n.low for n in self.nodes), default=NEVER)

    def _handle_due(self) -> bool:
        moved = False
        while self._events and self._events[0][0][0] < min(self._safe(), self.limit):
            key, action, args = heapq.heappop(self._events)
            self.now = key[0]
            action(*args)
            moved = True
        return moved

    def _grant(self) -> bool:
        granted = False
        asking = [n for n in self.nodes if n.asking is not None]
        if not asking:
            return False
        top = self._events[0][0][0] if self._events else NEVER
        lows = sorted((n.low, n.spec.index) for n in self.nodes)
        for node in asking:
            assert node.asking is not None
            listening = node.asking[1]
            if not listening:
                if self.limit > node.now:
                    node.grant(self.limit)
                    granted = True
                continue
            others = lows[0][0] if lows[0][1] != node.spec.index else lows[1][0] if len(lows) > 1 else NEVER
            bound = min(top, others, self.limit)
            if node.low <= bound:
                node.grant(bound)
                granted = True
        return granted

    # ---- messages of the VMs -------------------------------------------------------------------------------------

    def _collect(self, timeout: float) -> bool:
        got = False
        for key, _ in self._selector.select(timeout):
            node: Node = key.data
            got = True
            assert node.line is not None
            data = node.line.recv(1 << 16)
            if not data:
                raise FleetError(
                    f"{node.spec.name}: the VM died at virtual {node.now / 1e6:.3f} s\n{node.console_tail()}"
                )
            *lines, node.buffer = (node.buffer + data).split(b"\n")
            for line in lines:
                self._message(node, line.decode())
        return got

    def _message(self, node: Node, line: str) -> None:
        op, stamp, *rest = line.split(" ", 2)
        t = int(stamp)
        node.now = max(node.now, t)
        text = rest[0] if rest else ""
        if op == "A":
            target, listening = text.split()
            node.asking, node.running = (int(target), listening != "0"), False
        elif op in "PG":
            t2000, cells = text.split(" ")
            row = [(int(i), int(v)) for i, v in (c.split(":") for c in cells.split(",") if c)]
            self._probe.taken(node, int(t2000), row, op == "G")
        elif op == "Y":
            self._probe.persisted(node)
        elif op == "T":
            *air, dbm, payload = text.split()
            freq, sf, bw, cr, preamble, sync = map(int, air)
            self._of_node(
                node,
                t,
                self._transmit,
                Modulation(freq, sf, bw, cr, preamble, sync),
                float(dbm),
                bytes.fromhex(payload),
            )
        elif op == "L":
            freq, sf, bw, cr, preamble, sync = map(int, text.split())
            self._of_node(node, t, self._listen, Modulation(freq, sf, bw, cr, preamble, sync))
        elif op == "U":
            self._of_node(node, t, self._deaf)
        elif op == "N":
            node.nvs = json.loads(text)
        elif op == "F":
            node.erased(int(text), counted=t < self._end)
        elif op == "I":
            node.stats.injected[text] = node.stats.injected.get(text, 0) + 1
        elif op == "D":
            node.stats.peak_outbox = max(node.stats.peak_outbox, int(text))
        elif op == "M":
            node.rtc = "" if text == "-" else text
        elif op == "Q":
            node.kept = text
        elif op == "K":
            node.rtc_off = int(text)
        elif op == "H":
            node.stats.standins_bytes = max(node.stats.standins_bytes, int(text.split()[0]))
        elif op in "OWC":
            self._of_node(node, t, {"O": self._socket_open, "W": self._socket_write, "C": self._socket_close}[op], text)
        elif op in FINAL:
            self._last_word(node, op, t, text)
        elif op != "B":
            raise FleetError(f"{node.spec.name}: unknown message {line[:80]!r}")

    def _last_word(self, node: Node, op: str, t: int, text: str) -> None:
        assert node.line is not None
        self._selector.unregister(node.line)
        node.stop(self._zygote)
        self._of_node(node, t, self._gone)
        if op == "X":
            cut = next(c for c in node.spec.cuts if c.at <= t < c.back)
            node.stats.cuts += 1
            self._probe.power_cut(node)
            self._on_event({"event": "power_cut", "node": node.spec.name, "t": t})
            self._schedule_boot(node, cut.back, cut.back, PWRON)
        elif op == "R":
            node.stats.resets[text] = node.stats.resets.get(text, 0) + 1
            self._on_event({"event": "reset", "node": node.spec.name, "t": t, "kind": text})
            self._schedule_boot(node, t, t + BOOT_US, CAUSES[text])
        elif op == "Z":
            self._schedule_boot(node, t, t + node.asleep(text) + BOOT_US, DEEPSLEEP)
        else:
            node.ended = text
            self._on_event({"event": "repl", "node": node.spec.name, "t": t, "text": text})

    def _schedule_boot(self, node: Node, now: int, t: int, cause: int) -> None:
        """Start the node at t, or when the power is back, should it go between `now` and t."""
        for cut in node.spec.cuts:
            if cut.at <= t and cut.back > now:
                if cause != PWRON:
                    node.stats.cuts += 1
                    self._probe.power_cut(node)  # it sleeps until then
                now = t = cut.back
                cause = PWRON
        self._of_node(node, t, self._boot, cause)

    def _boot(self, t: int, node: Node, cause: int) -> None:
        node.boot(t, cause, self._zygote)
        assert node.line is not None
        self._selector.register(node.line, selectors.EVENT_READ, node)
        self._on_event({"event": "boot", "node": node.spec.name, "t": t, "cause": cause})

    def _gone(self, t: int, node: Node) -> None:
        node.radio = None
        self.air.silence(node.spec.name, t)

    # ---- LoRa ----------------------------------------------------------------------------------------------------

    def _transmit(self, t: int, node: Node, mod: Modulation, dbm: float, payload: bytes) -> None:
        node.serial += 1
        end = t + time_on_air_us(mod.sf, len(payload), bw=mod.bw, cr=mod.cr, preamble=mod.preamble)
        if t < self._end:
            node.stats.frames += 1
            node.stats.bytes += len(payload)
            node.stats.airtime_us += end - t
        self._on_air(t, Transmission(node.spec.name, node.serial, t, end, mod, dbm, payload))

    def _on_air(self, t: int, tx: Transmission) -> None:
        self.air.transmit(tx, counted=t < self._end)
        self._later(tx.locked_at, self._locked, tx)
        self._later(tx.end, self._ended, tx)

    def _locked(self, t: int, tx: Transmission) -> None:
        heard_from = t - round(LOCK_SYMBOLS * tx.mod.symbol_us)
        for node in self.nodes:
            radio = node.radio
            if radio is None or radio.locked is not None or radio.since > heard_from or not radio.mod.hears(tx.mod):
                continue
            if self.air.rssi(tx, node.spec.station) - noise_floor_dbm(tx.mod.bw) >= SNR_LIMIT[tx.mod.sf]:
                radio.locked = tx
                node.inbox.append(Delivery.lock(t, tx.end + MODEM_US))

    def _ended(self, t: int, tx: Transmission) -> None:
        for node in self.nodes:
            radio = node.radio
            if radio is not None and radio.locked is tx:
                radio.locked = None
                got = self.air.receive(tx, node.spec.station)
                if got is None:
                    node.inbox.append(Delivery(t + MODEM_US, 3))
                else:
                    node.inbox.append(Delivery.packet(t + MODEM_US, round(got[0]), round(got[1] * 4), tx.payload))
        if tx.down:
            return
        heard = [(r, h) for r in self.receivers if (h := r.hear(tx)) is not None]
        if heard and self.gateway_up:
            self.heard += 1
            for receiver, h in heard:
                receiver.forward(h)
            self._barrier(t, [r for r, _ in heard])

    def _barrier(self, t: int, receivers: Iterable[Receiver]) -> None:
        receivers = list(receivers)
        for receiver in receivers:
            receiver.pull_begin()
        for receiver in receivers:
            for tx in receiver.pull_end(t):
                self._later(tx.start, self._on_air, tx)

    def _listen(self, t: int, node: Node, mod: Modulation) -> None:
        node.radio = Listening(mod, t)

    def _deaf(self, t: int, node: Node) -> None:
        node.radio = None

    def tell_time(self, t: int) -> None:
        """Let the gateway know that it is t: its clock stands still between two words of a receiver."""
        if self.gateway_up:
            for receiver in self.receivers:
                receiver.stat(t)
            self._barrier(t, self.receivers)

    def _stat(self, t: int) -> None:
        self.tell_time(t)
        self._later(t + STAT_US, self._stat)

    # ---- WiFi ----------------------------------------------------------------------------------------------------

    def _socket_open(self, t: int, node: Node, text: str) -> None:
        sid = int(text.split()[0])
        ok = self.bridge is not None
        if ok:
            node.sockets[sid] = Endpoint()
        node.inbox.append(Delivery(t + 2 * WIFI_US, CONNECTED, bytes((sid, ok))))

    def _socket_write(self, t: int, node: Node, text: str) -> None:
        sid, data = text.split()
        self._later(t + WIFI_US, self._arrive, node, int(sid), bytes.fromhex(data))

    def _socket_close(self, t: int, node: Node, text: str) -> None:
        node.sockets.pop(int(text), None)

    def _arrive(self, t: int, node: Node, sid: int, data: bytes) -> None:
        endpoint = node.sockets.get(sid)
        if endpoint is None:  # the node is gone, or closed meanwhile
            return
        assert self.bridge is not None
        reaction = endpoint.feed(data)
        reply = reaction.reply
        for uplink in reaction.uplinks:
            node.stats.wifi_frames += t < self._end
            self.air_log_wifi(t, node, uplink.payload)
            if not self.gateway_up:  # the broker has nobody to give it to
                continue
            self.heard += 1
            if self.receivers:  # the gateway's clock comes from its receivers
                self.receivers[0].stat(t)
                self._barrier(t, self.receivers[:1])
            for topic, payload in self.bridge.exchange(uplink.topic, uplink.payload):
                if endpoint.wants(topic):
                    reply += publish(topic, payload)
        if reply:
            node.inbox.append(Delivery(t + WIFI_US, DATA, bytes((sid,)) + reply))
        if reaction.close:
            node.sockets.pop(sid, None)
            node.inbox.append(Delivery(t + WIFI_US, CLOSED, bytes((sid,))))

    def unasked(self, t: int, wait_s: float) -> None:
        """What the gateway sent to WiFi nodes by itself reaches those that are connected now; a broker keeps none of it (QoS 0) for the others."""
        if self.bridge is None:
            return
        for topic, payload in self.bridge.unasked(wait_s):
            for node in self.nodes:
                for sid, endpoint in node.sockets.items():
                    if endpoint.wants(topic):
                        node.inbox.append(Delivery(t + WIFI_US, DATA, bytes((sid,)) + publish(topic, payload)))

    def air_log_wifi(self, t: int, node: Node, payload: bytes) -> None:
        """WiFi frames belong to the log that the result hash covers, too."""
        if t < self._end:
            self.air.log.update(f"{t} {node.spec.name} wifi ".encode() + logged(payload) + b"\n")

    def close(self) -> None:
        """End every VM and socket; may be called twice."""
        if self._closed:
            return
        self._closed = True
        for node in self.nodes:
            node.stop(self._zygote)
        self._selector.close()
        for receiver in self.receivers:
            receiver.close()
        if self.bridge is not None:
            self.bridge.close()

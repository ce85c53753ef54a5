"""What goes down to nodes: acks, time, keys and orders, sealed and sent within the gateway's own duty cycle. After the
commit, never before."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog
from motewire.frame import MAX_FRAME, max_frame

from gateway import crypto
from gateway.clock import Clock
from gateway.core import downlink
from gateway.core.airtime import DutyLedger, time_on_air_us
from gateway.core.command import Offer
from gateway.core.model import Answer, Node, Radio, Reception
from gateway.links.link import Link
from gateway.metrics import Metrics
from gateway.store.engine import Engine

RX_DELAY_S = 1.0
# Of a sub-band's limit that may be used up when such an answer leaves; alarms and urgent commands may use all of it.
NEWS_SHARE = 0.9
COMMAND_SHARE = 0.8
REPEAT_SHARE = (
    0.2  # and this much of it is all that answers to repeats get: anyone who recorded a frame can ask for one
)

log = structlog.get_logger(__name__)


class Due(msgspec.Struct, frozen=True):
    """An answer that may leave now: to a node under the key of its committed epoch, through the best receiver of uplink
    `counter`.

    kind: of the uplink, as gateway.core.rate has it ("alarm", "repeat", "" for other news): how much of the duty cycle
    it may use.
    """

    node: Node
    counter: int
    answer: Answer
    rx: Reception
    offer: Offer | None = None
    kind: str = ""


class Downlinks:
    """links: by name, filled by the owner. unsent(offer, why): an order stayed here after all.

    ledgers: what each transmitter has sent. repeats: what of that answered repeats; it begins empty at a start, and
    stays within the whole.
    """

    def __init__(self, engine: Engine, clock: Clock, metrics: Metrics, unsent: Callable[[Offer, str], None]) -> None:
        self._engine, self._clock, self._metrics, self._unsent = engine, clock, metrics, unsent
        self.links: dict[str, Link] = {}
        self.knows_time: Callable[[], bool] = lambda: True
        self.ledgers: dict[str, DutyLedger] = {}
        self.repeats: dict[str, DutyLedger] = {}
        booked: dict[str, list[tuple[int, int, int]]] = {}
        for transmitter, band, start, airtime in engine.airtime(
            0
        ):  # the ledger forgets what is older than an hour itself
            booked.setdefault(transmitter, []).append((band, start, airtime))
        for transmitter, sent in booked.items():
            self.ledgers[transmitter] = DutyLedger(sent)

    def stepped(self, seconds: float) -> None:
        """The clock was set: what was sent stays as long ago as it was."""
        for ledger in (*self.ledgers.values(), *self.repeats.values()):
            ledger.shift(int(seconds * 1e6))

    def answer(self, due: Due) -> None:
        """Answer an uplink in its receive window, with an order when there is one and room for it."""
        node, answer, rx = due.node, due.answer, due.rx
        link = self.links.get(rx.link)
        if link is None or due.offer is not None and self._with_order(due, due.offer, link):
            return
        time = self._time_at_node(node, answer, rx) if answer.with_time and self.knows_time() else None
        body = downlink.payload(answer.ack, time)
        after = node.next() if answer.rekey else None
        if after is not None:
            longer = downlink.payload(answer.ack, time, rekey=after)
            if len(longer) <= _room(node, rx):
                body = longer
                self._metrics.totals["rekey_offers"] += 1
        share = 1.0 if due.kind == "alarm" else NEWS_SHARE
        size = len(body) + downlink.overhead(node)
        if rx.radio is not None and not self.may_send(rx, rx.radio, size, share, due.kind == "repeat"):
            self._metrics.refused["duty_cycle"] += 1
            log.info("downlink_refused", reason="duty_cycle", node=node.name, receiver=rx.receiver)
            return
        if link.send(rx, node.id, downlink.seal(node, answer.counter, body, crypto.sealer)):
            self._metrics.totals["downlinks"] += 1

    def _with_order(self, due: Due, offer: Offer, link: Link) -> bool:
        """Answer with a command in the frame; False when the duty cycle has no room for it: the shorter answer may
        have. Sealed only when it is sure to leave: a counter seals one plaintext."""
        node, answer, rx = due.node, due.answer, due.rx
        room = _room(node, rx)
        time = self._time_at_node(node, answer, rx, room) if self.knows_time() else None
        body = downlink.with_order(room, due.counter, answer.ack, time, offer.items)
        share = 1.0 if offer.priority > 1 else COMMAND_SHARE
        if (
            body is None
            or rx.radio is not None
            and not self.may_send(rx, rx.radio, len(body) + downlink.overhead(node), share, due.kind == "repeat")
        ):
            self._unsent(offer, "duty_cycle")
            return False
        self._order_left(link.send(rx, node.id, downlink.seal(node, answer.counter, body, crypto.sealer)), offer)
        return True

    def push(self, node: Node, counter: int, rx: Reception, offer: Offer) -> None:
        """Send an order to a node that listens all the time, heard last as `rx`."""
        time = round(self._clock.now()) if self.knows_time() else None
        body = downlink.with_order(MAX_FRAME - downlink.overhead(node), 0, {}, time, offer.items)
        link = self.links.get(rx.link)
        sent = (
            body is not None
            and link is not None
            and link.send(rx, node.id, downlink.seal(node, counter, body, crypto.sealer))
        )
        self._order_left(sent, offer)

    def _order_left(self, sent: bool, offer: Offer) -> None:
        if not sent:
            self._unsent(offer, "no_downlink_path")
            return
        self._metrics.totals["downlinks"] += 1
        self._metrics.totals["commands_sent"] += 1

    def _time_at_node(self, node: Node, answer: Answer, rx: Reception, size: int = 0) -> int:
        """Return what time it will be when the node has received the answer (of `size` bytes, if known); on air it
        takes up to 2.5 s."""
        if rx.radio is None:
            return round(self._clock.now())
        size = (size or len(downlink.payload(answer.ack, 1 << 31))) + downlink.overhead(node)
        return round(rx.received + RX_DELAY_S + _airtime_us(rx.radio, size) / 1e6)

    def may_send(self, rx: Reception, radio: Radio, size: int, share: float = 1.0, repeat: bool = False) -> bool:
        """Book the airtime of a downlink of `size` bytes with its transmitter, or say no. share: of the duty cycle that
        may be used up; repeat: it answers a repeat, so it must fit into the share of those too."""
        ledger = self.ledgers.setdefault(rx.receiver, DutyLedger())
        repeats = self.repeats.setdefault(rx.receiver, DutyLedger())
        airtime = _airtime_us(radio, size)
        # by our own clock: the time of reception may be a receiver's claim, and one from the future would empty the
        # ledger
        start = int((self._clock.now() + RX_DELAY_S) * 1e6)
        if repeat and repeats.room(radio.freq_hz, start, airtime, REPEAT_SHARE) is None:
            return False
        band = ledger.book(radio.freq_hz, start, airtime, share)
        if band is None:
            return False
        if repeat:
            repeats.book(radio.freq_hz, start, airtime)
        self._engine.book(rx.receiver, band, start, airtime)
        return True


def _room(node: Node, rx: Reception) -> int:
    """Bytes of payload that a downlink frame to a node may hold."""
    return (max_frame(rx.radio.sf) if rx.radio else MAX_FRAME) - downlink.overhead(node)


def _airtime_us(radio: Radio, size: int) -> int:
    return time_on_air_us(size, radio.sf, radio.bw_hz, int(radio.codr[2]) - 4)

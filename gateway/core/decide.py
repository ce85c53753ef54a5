"""One frame, one decision: (state, frame) -> (state', event | refusal), in four steps: authenticate, replay, decode, normalise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from motewire import frame
from motewire.codes import DOWN_NEXT, DOWN_SCHEMA, DOWN_SINCE

from gateway.core import alarms
from gateway.core.messages import STATUS_NUMBERS, AlarmMessage, StatusMessage, decode_alarm, decode_status
from gateway.core.model import (
    Answer,
    Decision,
    Described,
    Event,
    Node,
    NodeState,
    Reception,
    Refusal,
    fingerprint,
    frame_id,
)
from gateway.core.normalise import columns_of, quantity_of
from gateway.core.receive import Header, Opener
from gateway.core.receive import authenticate as open_frame
from gateway.core.refusals import Full, UnknownSchema, Unreadable
from gateway.core.replay import Replay
from gateway.core.report import ABSOLUTE, FUTURE_S, Report, believable, is_int
from gateway.core.report import decode as decode_report
from gateway.core.rhythm import DEFAULT_S, health_s, next_rhythm
from gateway.core.value import replace

MAX_SCHEMAS = 8
MAX_QUANTITIES = 64  # of one node; its sixteen channels and their instances are fewer
UNHEARD_S = 30 * 86_400  # a quantity of which nothing newer was heard makes room for another
CROSSING_S = 5  # receivers' times of frames that cross
OFFLINE_INTERVALS = 3
OFFLINE_LEAST_S = 300
CLOCK_SET_S = 3600
UNAMBIGUOUS_S = ABSOLUTE - 2 * FUTURE_S  # 16 bits of a node's time and of ours are not mistaken for each other
REKEY_EVERY = 8  # downlinks, and every status frame's: how often the next key is offered


class Proven(NamedTuple):
    """An authentic frame. node, state: under the key that it fits."""

    node: Node
    state: NodeState
    header: Header
    rx: Reception
    counter: int
    payload: bytes


class Placed(NamedTuple):
    """A frame and its place among those of its node. replay: with this one, None when it is no news; known: it was taken before for
    sure; else, without `replay`, it is from below the floor, and only the store can tell."""

    frame: Proven
    replay: Replay | None
    known: bool


Content = Report | AlarmMessage | StatusMessage | Unreadable


def decide(node: Node, state: NodeState, header: Header, rx: Reception, opener: Opener) -> Decision:
    """Decide on a frame whose header was read and whose node is known. `state` is that node's. The four steps are the intake's, too.

    Refusals without an event leave the state alone, but for a repeat that is answered (its downlink counter). Authentic frames
    that cannot be read take their counter, are told as `opaque`, and carry the refusal beside the event.
    """
    proven = authenticate(node, state, header, rx, opener)
    if isinstance(proven, Refusal):
        return Decision(state, refusal=proven)
    placed = replay(proven)
    return normalise(placed, decode(placed))


def authenticate(node: Node, state: NodeState, header: Header, rx: Reception, opener: Opener) -> Proven | Refusal:
    """Find the key that a frame fits, the node's own or the one it is to change to. Nothing is believed before.

    A key that is another than the one proven under its epoch, or whose epoch is lower than one that was left, is refused: key_changed.
    """
    in_force, node = state.epoch, node.under(state.epoch)
    if state.epoch != node.epoch:  # another key of the registry
        state = _board(node.epoch, state)
    after = node.next()
    if (
        after is not None and header.slot == after.epoch & 3
    ):  # until such a frame proves itself, both keys are the node's
        node, state = after, _fresh(after.epoch, state)
    if header.slot == node.epoch & 3 and (
        state.keys.get(node.epoch, own := fingerprint(node.key)) != own
        or node.too_low(in_force, state.keys) is not None
    ):
        # its counters would be taken for those of the key before: acknowledged as repeats, and deleted by the node
        return Refusal("key_changed", node.id)
    opened = open_frame(node, state, header, rx.data, opener)
    if isinstance(opened, Refusal):
        return opened
    return Proven(node, state.proven(node.epoch, node.key), header, rx, *opened)


def replay(proven: Proven) -> Placed:
    """Say whether an authentic frame is news, a repeat, or older than what is remembered."""
    window = proven.state.replay
    accepted = window.accept(proven.counter)
    return Placed(proven, accepted, accepted is None and not window.too_old(proven.counter))


def decode(placed: Placed) -> Content | None:
    """Read the payload. Returns why it cannot be read, where it cannot; None for a repeat, of which nothing is read."""
    if placed.known:
        return None
    f = placed.frame
    rx = f.rx
    nodes = rx.received + rx.shift_s
    received = rx.received if rx.former else nodes
    if rx.former and rx.shift_s > UNAMBIGUOUS_S:  # the bits cannot say whether the node still goes by the time before
        nodes = rx.received
    try:
        if f.header.kind == frame.REPORT:
            return decode_report(f.payload, received, f.state.schemas, nodes)
        return decode_alarm(f.payload, received, nodes) if f.header.kind == frame.ALARM else decode_status(f.payload)
    except Unreadable as e:
        return e


def normalise(placed: Placed, content: Content | None) -> Decision:
    """Bring what was read into units, ranges and the order of the node's other frames; say what it changes, tells and is answered."""
    (node, state, header, rx, counter, _), accepted, _ = placed
    if content is None:
        down, answer = _answered(node, state, state.replay, counter, header)
        return Decision(replace(state, down=down), counter, refusal=Refusal("replayed", node.id), answer=answer)
    # what changes is collected and applied once: making a frozen value costs more than anything else here
    changes, told, refusal = _told(node, state, rx, counter, content)
    if accepted is None:
        return _below_floor(node, state, rx, counter, told, refusal)
    in_order = counter == state.replay.next
    newest, schema = told.pop("newest", None), told.pop("schema", None)
    offset_s = None if newest is None else newest - rx.received
    # frames of two receivers may cross by moments; heard an hour ahead of now means that the host's clock was set back since
    heard = max(state.heard, rx.received) if state.heard - rx.received < CLOCK_SET_S else rx.received
    changes |= {"replay": accepted, "heard": heard, "online": True}
    if not state.online:
        told["online"] = True
    answer = None
    # WiFi has no duty cycle: every authentic frame is answered; on LoRa those of frame.wants_ack and what closes a gap
    if rx.radio is None or not in_order or frame.wants_ack(header.kind, counter):
        changes["down"], answer = _answered(node, state, accepted, counter, header)
        if schema is not None:  # asked for with every such answer, until the node announces it
            answer = replace(answer, ack={**answer.ack, DOWN_SCHEMA: (schema,)})
    state = replace(state, **changes)
    # a changed registry is told by introduce(); an interval that a command changed shows in the text alone
    if (
        not state.meta
        or "ids" in changes
        or "firmware" in changes
        or "rhythm" in changes
        or f"('interval', {node.interval_s})" not in state.meta
    ):
        meta = metadata(node, state)
        text = repr(sorted(meta.items()))
        if text != state.meta:
            state = replace(state, meta=text)
            told["meta"] = meta
    return Decision(state, counter, _event(node, rx, counter, told), refusal, answer, offset_s)


def reread(
    node: Node, state: NodeState, header: Header, rx: Reception, epoch: int, counter: int, opener: Opener
) -> Decision | None:
    """Decide once more on a frame that was kept because nobody could read it: it is told now, late, and only what was measured changes.

    None: it is still unreadable, or its key is gone.
    """
    if epoch != state.epoch or epoch != node.under(state.epoch).epoch:
        return None
    unheard = replace(state, replay=Replay(counter, max(counter - 1, 1)))
    found = decide(node, unheard, header, rx, opener)
    if found.event is None or found.refusal is not None or found.counter != counter:
        return None
    kept = replace(found.state, replay=state.replay, down=state.down, heard=state.heard, online=state.online)
    return Decision(kept, counter, replace(found.event, online=None))


def opaque(event: Event) -> Event:
    """Return an event that says only that an authentic frame came: nothing of what was read of it."""
    return replace(event, kind="opaque", times=(), columns=(), latest=(), occurrences=False, alarm=None, status=None, rebooted=False,
                   meta=None, aggregates=(), area=None, command=None)  # fmt: skip


def unstorable(before: NodeState, decision: Decision, why: str) -> Decision:
    """Decide once more on an authentic frame whose state cannot be stored: it takes its counter and changes nothing else."""
    after, base = (
        decision.state,
        before if decision.state.epoch == before.epoch else _fresh(decision.state.epoch, before),
    )
    state = replace(base, replay=after.replay, down=after.down, heard=after.heard, online=after.online)
    event = None if decision.event is None else opaque(decision.event)
    refusal = Refusal("unstorable", None if event is None else event.node, why, keep=True)
    return replace(decision, state=state, event=event, refusal=refusal)


def _board(epoch: int, state: NodeState) -> NodeState:
    """Return the state of a board that takes another's place: nothing of what that one sent takes up room, for it may have been stolen.

    Its alarms were ended when the registry changed (store/ledger_registry.py).
    """
    return NodeState(epoch, Replay(), state.down, state.heard, state.online, meta=state.meta, keys=state.keys, former=state.former)  # fmt: skip


def _fresh(epoch: int, state: NodeState) -> NodeState:
    """Return the state under the next key, which the node was given: uplink counters start again, what was measured stays known.

    Downlink counters continue: a former key that is given out again has been used up to here, and 32 bits have room.
    """
    alarms = {rule: replace(alarm, counter=0) for rule, alarm in state.alarms.items()}  # older than whatever comes
    sealed = dict.fromkeys(state.latest, 0)
    return replace(state, epoch=epoch, replay=Replay(), marks={}, alarms=alarms, said={}, announced={}, sealed=sealed)


def _told(
    node: Node, state: NodeState, rx: Reception, counter: int, content: Content
) -> tuple[dict[str, Any], dict[str, Any], Refusal | None]:
    """Return what a payload changes in the state and tells in the event, as fields; unreadable: opaque, with the refusal."""
    try:
        if isinstance(content, Report):
            return *_report(node, state, content, counter, _now(node, rx, max(content.times))), None
        if isinstance(content, AlarmMessage):
            after, alarm = alarms.apply(state, content, counter, _now(node, rx, content.t), node.interval_s)
            return {"marks": after.marks, "alarms": after.alarms}, {"kind": "alarm", "alarm": alarm}, None
        if isinstance(content, StatusMessage):
            return *_status(state, content, counter, rx.received), None
    except Unreadable as e:  # well formed, and more than is kept of one node
        content = e
    asked = {"schema": content.number} if isinstance(content, UnknownSchema) else {}
    refusal = Refusal(content.reason, node.id, str(content), keep=True, full=isinstance(content, Full))
    return {}, {"kind": "opaque", **asked}, refusal


def _now(node: Node, rx: Reception, t: int) -> float:
    """Return what time it was at receipt for a node whose newest row is at t: by our clock as it is, or by that of most nodes."""
    return rx.received if t in believable(rx.received, node.interval_s) else rx.received + rx.shift_s


def _event(node: Node, rx: Reception, counter: int, told: Mapping[str, Any]) -> Event:
    return Event(
        id=frame_id(node.id, node.epoch, counter), node=node.id, name=node.name, visibility=node.visibility, received=rx.received,
        interval_s=node.interval_s, counter=counter, epoch=node.epoch, link=rx.link, receiver=rx.receiver, rssi=rx.rssi, snr=rx.snr,
        **told,
    )  # fmt: skip


def _below_floor(
    node: Node, state: NodeState, rx: Reception, counter: int, told: dict[str, Any], refusal: Refusal | None
) -> Decision:
    """Decide on an authentic frame of which the replay state knows nothing any more: history, nothing else.

    Whether it was taken before is then the store's knowledge: it adds a (node, epoch, counter) once and leaves a repeat without a
    trace. So that a repeat, which anyone may play back, changes nothing, the state stays as it was, presence and newest values too.
    The answer speaks of this one counter, for the node to let go of it.
    """
    for key in ("newest", "schema"):
        told.pop(key, None)
    told |= {"latest": (), "rebooted": False}
    if told["kind"] == "status":  # says how the node is now, which an old one cannot
        told |= {"kind": "opaque", "status": None}
    if "alarm" in told:
        told["alarm"] = replace(told["alarm"], state="late", rules=())
    down = state.down + 1
    ack = {DOWN_NEXT: counter + 1, DOWN_SINCE: counter}
    # what was heard may be a recording, so its strength is not the node's
    event = replace(_event(node, rx, counter, told), rssi=None, snr=None)
    return Decision(replace(state, down=down), counter, event, refusal, Answer(down, ack, False))


def _answered(node: Node, state: NodeState, replay: Replay, counter: int, header: Header) -> tuple[int, Answer]:
    """Return the downlink counter that is used up, and the answer."""
    down = state.down + 1
    with_time = header.kind == frame.STATUS or header.is_long
    rekey = node.next_key is not None and (header.kind == frame.STATUS or down % REKEY_EVERY == 0)
    return down, Answer(down, replay.ack(counter), with_time, rekey)


def _report(
    node: Node, state: NodeState, report: Report, counter: int, received: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest value of a quantity is that of the frame that was sealed last, of its rows the latest. Times do not decide between
    frames: the node's clock or ours may have been set between them."""
    changes: dict[str, Any] = {}
    more = tuple(q for q in report.ids if q not in state.ids)
    latest, sealed, newest = dict(state.latest), dict(state.sealed), []
    if more:
        ids = state.ids
        if len(ids) + len(more) > MAX_QUANTITIES:
            key_of = {q: quantity_of(q).key for q in ids}
            ids = tuple(q for q in ids if q in report.ids or latest.get(key_of[q], 0.0) > received - UNHEARD_S)
            if len(ids) + len(more) > MAX_QUANTITIES:
                raise Full(f"more than {MAX_QUANTITIES} quantities of one node")
            for q in key_of.keys() - set(ids):
                latest.pop(key_of[q], None)
                sealed.pop(key_of[q], None)
        changes["ids"] = ids + more
    believed = believable(received, node.interval_s)
    columns = columns_of(report, believed)
    times, now = report.times, int(received)
    for c, column in enumerate(columns):
        best: int | None = None
        values = column.values
        for row, t in enumerate(times):
            if t in believed and values[row] is not None and (best is None or t >= times[best]):
                best = row
        if best is None:
            continue
        t = times[best]
        if column.key in sealed:
            if counter < sealed[column.key]:
                continue
        elif now + CROSSING_S >= latest.get(column.key, -1) >= t:  # noted before counters were
            continue
        latest[column.key], sealed[column.key] = min(t, now), counter
        newest.append((c, best))
    changes["latest"], changes["sealed"] = latest, sealed
    return changes, {
        "kind": "report",
        "times": times,
        "columns": columns,
        "latest": tuple(newest),
        "occurrences": report.events,
        "newest": max(times) if report.absolute and not report.estimated else None,
    }


def _status(
    state: NodeState, status: StatusMessage, counter: int, received: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A status frame holds a part of the keys (mote/status.py), and a lost one comes again behind newer ones: each key is as new as the
    counter of the frame that told it."""
    said, stale = dict(state.said), []
    for name in status.values:
        key = STATUS_NUMBERS.get(name)
        if key is None:
            continue  # unknown to us: shown as it came, nothing is kept of it
        if counter < said.get(key, 0):
            stale.append(name)
        else:
            said[key] = counter
    schemas, announced = dict(state.schemas), dict(state.announced)
    for number, ids in status.schemas.items():
        if counter >= announced.get(number, 0) and (number in schemas or len(schemas) < MAX_SCHEMAS):
            schemas[number], announced[number] = ids, counter
    changes: dict[str, Any] = {"said": said, "schemas": schemas, "announced": announced}
    boots = None if "boots" in stale else status.values.get("boots")
    firmware = None if "firmware" in stale else status.values.get("firmware")
    if is_int(boots):
        changes["boots"] = boots
    if isinstance(firmware, str):
        changes["firmware"] = firmware[:64]
    rebooted = is_int(boots) and boots != state.boots
    if not stale:  # what comes again behind newer ones says nothing of the rhythm
        changes["status"], changes["rhythm"] = next_rhythm(state.status, state.rhythm, received, not state.online)
    told = {"kind": "status", "status": status.values, "stale": tuple(stale), "rebooted": rebooted}
    return changes, told | {"health_s": health_s(changes.get("rhythm", state.rhythm))}


def metadata(node: Node, state: Described) -> dict[str, Any]:
    """Return what is published as a node's metadata; quantities are those it has reported so far."""
    told: dict[str, Any] = {"quantities": {q.key: q.unit for q in map(quantity_of, state.ids)}}
    if state.firmware is not None:
        told["firmware"] = state.firmware
    if health_s(state.rhythm) != DEFAULT_S:
        told["health"] = health_s(state.rhythm)
    return as_entered(told, node)


def as_entered(meta: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """Return metadata with what the registry says of the node now, and of the node itself what they say."""
    found: dict[str, Any] = {
        "id": node.id,
        "name": node.name,
        "profile": node.profile,
        "interval": node.interval_s,
        "visibility": node.visibility,
        "quantities": meta["quantities"],
    }
    if node.lat is not None and node.lon is not None:
        found["location"] = {"type": "Point", "coordinates": [node.lon, node.lat]}
    if node.area:
        found["area"] = list(node.area)
    return found | {key: meta[key] for key in ("firmware", "health") if key in meta}


def offline_at(node: Node, heard: float) -> float:
    """Return when a node that was heard last at `heard` and stays silent counts as offline."""
    return heard + max(OFFLINE_INTERVALS * node.interval_s, OFFLINE_LEAST_S)


def goes_offline(node: Node, state: NodeState, now: float) -> Decision:
    """Return the decision that a node has been silent for too long."""
    event = Event("offline", f"{node.id}:{state.epoch}:offline:{int(now)}", node.id, node.name, node.visibility, now, node.interval_s,
                  online=False)  # fmt: skip
    return Decision(replace(state, online=False), event=event)


def news_of(node: Node, state: Described) -> tuple[Mapping[str, Any], str] | None:
    """Return a node's metadata and their text if they differ from what was published last, else None. A start asks this of every node."""
    told = metadata(node, state)
    text = repr(sorted(told.items()))
    return None if text == state.meta else (told, text)


def introduce(node: Node, state: NodeState, now: float) -> Decision | None:
    """Return the decision that publishes a node's metadata if they differ from what was published last, else None."""
    news = news_of(node, state)
    return None if news is None else introduced(node, state, now, *news)


def introduced(node: Node, state: NodeState, now: float, told: Mapping[str, Any], text: str) -> Decision:
    """Return the decision that publishes what news_of() has found."""
    event = Event(
        "meta",
        f"{node.id}:{state.epoch}:meta:{int(now)}",
        node.id,
        node.name,
        node.visibility,
        now,
        node.interval_s,
        meta=told,
    )
    return Decision(replace(state, meta=text), event=event)

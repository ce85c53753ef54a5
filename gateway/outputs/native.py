"""`native`: flat JSON per quantity, retained newest value; node state, metadata, alerts, events, aggregates and areas."""

from __future__ import annotations

from typing import Any

from gateway.core.current import HEALTH, SCALE, VALID_INTERVALS, Current, health_life_s
from gateway.core.model import Aggregate, Alarm, Area, Event, Node
from gateway.core.registry import VISIBILITIES
from gateway.core.report import is_int
from gateway.outputs.message import NOTHING, Known, Message, drop_none, iso, json, node_topic


def messages(e: Event, root: str, known: Known = NOTHING) -> list[Message]:
    """Return an event's messages: only what is newer than before is retained; every occurrence and alarm is an `event`."""
    if e.command is not None:
        return [_ack(e, root)]
    out: list[Message] = []
    if e.kind == "store":
        return [_store(e, root)]
    if e.online is not None:
        out.append(
            Message(
                node_topic(root, e.name, "state"), b"online" if e.online else b"offline", retain=True, newest=e.received
            )
        )
    if e.meta is not None:
        body = {**e.meta, "gw": known.gateway}
        out.append(Message(node_topic(root, e.name, "meta"), json(body), retain=True, newest=e.received))
    if e.kind in ("offline", "meta"):
        return out
    if e.kind == "aggregate":
        return [_aggregate(e.name, e.received, root, a) for a in e.aggregates]
    if e.area is not None:
        return _alarm(e, root, known) if e.alarm is not None else [_area(e.area, e.received, root, known)]
    until = e.received + VALID_INTERVALS * e.interval_s
    for c, row in e.latest:
        column, t = e.columns[c], e.times[row]
        quality = "suspect" if row in column.suspect else "ok"
        out.append(
            _value(
                e.name,
                e.received,
                root,
                column.key,
                column.values[row],
                column.unit,
                t,
                quality,
                t + VALID_INTERVALS * e.interval_s,
            )
        )
    if e.rssi is not None:
        out.append(_value(e.name, e.received, root, "rssi", e.rssi, "dBm", e.received, "ok", until))
    if e.snr is not None:
        out.append(_value(e.name, e.received, root, "snr", e.snr, "dB", e.received, "ok", until))
    if e.occurrences:
        out += _occurrences(e, root)
    if e.alarm is not None:
        out += _alarm(e, root, known)
    if e.status is not None:
        out += _status(e, root)
    return out


def _ack(e: Event, root: str) -> Message:
    """A step of a command, told once on the node's ack topic."""
    return Message(node_topic(root, e.name, "ack"), ack_body(e))


def ack_body(e: Event) -> bytes:
    """Return what is told of a step of a command."""
    body = {k: v for k, v in (e.command or {}).items() if v not in ("", None)}
    if "expires" in body:
        body["expires"] = iso(body["expires"])
    return json({"event": e.id, "node": e.name, **body, "t": iso(e.received)})


def retained(c: Current, name: str, root: str, node: Node | None, known: Known = NOTHING) -> list[Message]:
    """Return all retained messages of a subject (node None: an area), byte for byte what the newest events have said."""
    out: list[Message] = []
    if node is not None:
        if c.online is not None:
            out.append(Message(node_topic(root, name, "state"), b"online" if c.online else b"offline", retain=True))
        if c.meta is not None:
            out.append(Message(node_topic(root, name, "meta"), json({**c.meta, "gw": known.gateway}), retain=True))
        for key, v in c.values.items():
            until = v.t + v.life_s
            out.append(
                _value(name, v.received, root, key, v.value, v.unit, v.t, "suspect" if v.suspect else "ok", until)
            )
        out += [_aggregate(name, received, root, a) for a, received, _ in c.aggregates.values()]
    out += [_area(area, received, root, known) for area, received, _ in c.areas.values()]
    topic = node_topic(root, name) if node is not None else area_topic(root, name)
    for rule, (a, _, circle) in c.alerts.items():
        body = {**_alert(a, VISIBILITIES[circle]), "gw": known.gateway}
        out.append(Message(f"{topic}/alert/{rule}", json(body), retain=True, newest=a.t))
    return out


def _value(
    name: str, received: float, root: str, key: str, value: Any, unit: str, t: float, quality: str, until: float
) -> Message:
    body = {"v": value, "u": unit, "t": iso(t), "q": quality, "until": iso(until), "rx": iso(received)}
    return Message(node_topic(root, name, "q", key), json(body), retain=True, newest=t)


def _event(e: Event, root: str, nth: int, body: dict[str, Any]) -> Message:
    return Message(node_topic(root, e.name, "event"), json({"id": f"{e.id}:{nth}", **body, "rx": iso(e.received)}))


def _store(e: Event, root: str) -> Message:
    """What the gateway says of its store: data given up, a damaged file, a full disk."""
    told = dict(e.status or {})
    body = {"id": e.id, "event": told.pop("reason", "store"), "t": iso(e.received), **told}
    for key in ("since", "until"):
        if body.get(key):
            body[key] = iso(body[key])
    return Message(f"{root}/v1/gw/{e.name}/event", json(body))


def _occurrences(e: Event, root: str) -> list[Message]:
    out = []
    for row, t in enumerate(e.times):
        for column in e.columns:
            value = column.values[row]
            if value is None or column.key == "confidence":
                continue
            name = "change"
            if column.key.split("-")[0] in ("occupied", "toggle"):
                name = "arrival" if value else "departure"
            out.append(_event(e, root, len(out), {"event": name, "quantity": column.key, "v": value, "t": iso(t)}))
    return out


def _alert(a: Alarm, visibility: str) -> dict[str, Any]:
    return drop_none(
        code=a.code,
        severity=a.severity,
        quantity=a.quantity,
        value=a.value,
        limit=a.limit,
        unit=a.unit,
        since=iso(a.since),
        t=iso(a.t),
        reference=a.reference or None,
        text=a.text,
        visibility=None if a.text is None else visibility,
        q="suspect" if a.suspect else None,
    )


def _alarm(e: Event, root: str, known: Known) -> list[Message]:
    a = e.alarm
    assert a is not None
    body = _alert(a, e.visibility)
    topic = node_topic(root, e.name) if e.area is None else area_topic(root, e.area.area)
    told = {"id": f"{e.id}:0", "event": f"alarm_{a.state}", "rule": a.rules[0] if len(a.rules) == 1 else None, **body}
    out = [Message(f"{topic}/event", json({**drop_none(**told), "rx": iso(e.received)}))]
    for rule in a.rules:
        payload = b"" if a.state == "cleared" else json({**body, "gw": known.gateway})
        # not a.t: a node's clock may be set back between two messages, and what is told of a rule comes in their order
        out.append(Message(f"{topic}/alert/{rule}", payload, retain=True, newest=e.received))
    return out


def area_topic(root: str, area: str, *levels: str) -> str:
    """Return <root>/v1/area/<area>/..."""
    return "/".join((root, "v1", "area", area, *levels))


def _aggregate(name: str, received: float, root: str, a: Aggregate) -> Message:
    """The newest closed period is retained until none is made any more; what an older one has come to since is published beside it."""
    values = {v.quantity: drop_none(v=v.value, u=v.unit, capture=v.capture) for v in a.values}
    body = {
        "start": iso(a.start),
        "end": iso(a.end),
        "revision": a.revision,
        "values": values,
        **a.detail,
        "rx": iso(received),
    }
    topic = node_topic(root, name, "agg", a.name)
    if a.over:
        return Message(topic, b"", retain=True, newest=a.end)
    return (
        Message(topic, json(body), retain=True, newest=a.end) if a.latest else Message(f"{topic}/revised", json(body))
    )


def _area(area: Area, received: float, root: str, known: Known) -> Message:
    body = {"t": iso(area.t), **area.body, "rx": iso(received), "gw": known.gateway}
    if "start" in area.body:
        body["start"] = iso(area.body["start"])
    topic = area_topic(root, area.area, area.name)
    if area.latest:
        return Message(topic, json(body), retain=True, newest=area.t)
    return Message(f"{topic}/revised", json(body))


def _status(e: Event, root: str) -> list[Message]:
    status, now = e.status or {}, e.current_status
    out = []
    for key, unit in HEALTH.items():
        value = now.get(key)
        if is_int(value):
            scale = SCALE.get(key)
            until = e.received + health_life_s(key, e.health_s)
            scaled = value / scale if scale else value
            out.append(_value(e.name, e.received, root, key, scaled, unit, e.received, "ok", until))
    body = {"event": "reboot" if e.rebooted else "status", "t": iso(e.received)}
    stale = [key for key in e.stale if key in status]
    out.append(_event(e, root, 0, body | ({"stale": stale} if stale else {}) | dict(status)))
    return out

"""Commands and configurations on their way to a node: kept, sent until the node answers, told and audited. Pure; a Follower.

    accepted -> queued -> sent -> done | failed | expired | refused | superseded | withdrawn        refused at once: not authorised, ...

Every step is an event (published on the ack topic and entered in the audit log by the store) and a note, both committed before anything
is sent. A node executes a number once and remembers the last 8 (mote.commands), so a number is sent again only while fewer others followed
it. Numbers grow with Unix time, so that a gateway that lost its store never uses one again. Not to be sent twice: what a node has
taken, refused or finished. The node's word is the last: a result that comes after the end still counts. A newer order for the same thing
(settings.py) ends the older; rights, and whose the number is, are judged again at every reload and before every send (standing.py).

Arguments may hold secrets (a WiFi password). They are told and kept redacted (core/redact.py); what is sent stays in the command's note, and nowhere
else, until the command has ended.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import msgspec
from motewire import codes

from gateway.core import orders
from gateway.core.authorise import CANCEL, GATEWAY, LONGEST_S, Policy, Refused, Request, authorise, parse
from gateway.core.command import Book, Command, Key, Offer
from gateway.core.follow import Follow
from gateway.core.model import PERSONAL, Alarm, Event, Node
from gateway.core.places import Places, is_urgent
from gateway.core.redact import redact, scrub, secrets
from gateway.core.registry import strictest
from gateway.core.settings import outdated, share
from gateway.core.standing import LEAK_ID, book_of, prints, why_not
from gateway.core.value import replace
from gateway.core.witness import BUILT

REMEMBERED = 8  # commands whose ids a node remembers
RESETS = 2  # resets of a node behind sends of the same command, after which it is not sent again: it may be the cause
MAX_KEPT = 20_000
MOST = 2**32 - 1  # the highest number and the latest expiry of a frame
LEAK_S = 6 * 3600  # expiry of an automatic closing
LEAK_NEWS_S = 3 * 3600  # a leak measured longer ago may be over: its clear may still wait in the node's outbox
UNDONE = ("refused", "failed", "expired")  # an automatic closing that ended so is ordered again while the leak is up
NO_TIME = "the gateway does not know the time; try again when its clock is set"
LEAK_RULE = "water_volume-above"  # what a water meter raises when no hour of the day went without flow
BURST, PER_S, STRANGERS_PER_S = 50, 2.0, 0.1  # requests of one requester, of all that are none
MAX_TOLD = 1024  # bytes of a refused request whose arguments are repeated in the answer and kept in the audit log
_WORDS = {
    codes.COMMAND_DONE: "done",
    codes.COMMAND_FAILED: "failed",
    codes.COMMAND_EXPIRED: "expired",
    codes.COMMAND_REFUSED: "refused",
}
_GIVEN_UP = re.compile(r"(\d+): ")  # a node's text about a version it took back


@dataclass
class _Draft:
    events: list[Event] = field(default_factory=list)
    notes: dict[str, bytes | None] = field(default_factory=dict)
    made: list[Key] = field(default_factory=list)
    was: dict[Key, Command] = field(default_factory=dict)

    def follow(self) -> Follow:
        return Follow(tuple(self.events), self.notes)


_NOTHING = Follow()
_encode = msgspec.msgpack.Encoder().encode
_command_of = msgspec.msgpack.Decoder(Command).decode
_book_of = msgspec.msgpack.Decoder(Book).decode


def _told(c: Command) -> dict[str, Any]:
    """Return what is published of an order, its arguments without their secrets."""
    return {"number": c.number, "id": c.id, "requester": c.requester, "name": c.name, "args": redact(c.args, c.name), "reason": c.reason,
            "state": c.state, "detail": c.detail, "sends": c.sends, "expires": c.expires}  # fmt: skip


def _is_current_leak(alarm: Alarm, now: float) -> bool:
    """True for a word that a leak is up which can be believed: not only the first, which may have come before the meter had the time."""
    up = alarm.state in ("raised", "updated") and LEAK_RULE in alarm.rules
    return up and not alarm.suspect and alarm.t > now - LEAK_NEWS_S


class Desk:
    """All commands of one gateway. nodes and policy may be replaced while it works. caught: gets exceptions of ours, which a request met."""

    name = "commands"

    def __init__(
        self, nodes: Mapping[int, Node], policy: Policy, caught: Callable[[BaseException], None] = lambda _error: None
    ) -> None:
        self.nodes, self.policy, self._caught = nodes, policy, caught
        self._refusals = 0
        self._buckets: dict[str, tuple[float, float]] = {}
        self.load({})

    def configure(self, nodes: Mapping[int, Node], policy: Policy) -> None:
        """Go on with another registry and policy."""
        self.nodes, self.policy = nodes, policy
        self._numbers = {n.name: n.id for n in nodes.values()}
        self._judge()

    # what is committed

    def load(self, notes: Mapping[str, bytes]) -> None:
        """Forget everything and go on from the committed notes."""
        self._numbers = {n.name: n.id for n in self.nodes.values()}
        self._commands: dict[Key, Command] = {}
        self._books: dict[int, Book] = {}
        self._open: dict[int, dict[int, None]] = {}
        self._places = Places()
        self._ids: dict[tuple[str, str], Key] = {}
        self._due: list[tuple[float, Key]] = []
        self._ended: deque[Key] = deque()
        self._ending: dict[Key, tuple[str, str]] = {}  # what is not to be sent: state and why; ended by the next tick
        self._stale: set[int] = set()  # nodes whose books are to be noted by the next tick
        self._leaks: dict[int, Event] = {}  # leaks that were believed while the clock was unset
        self._unplaced: dict[int, str] = {}  # node -> the gateway's own order that was refused last: published once
        self.redacted: set[str] = set()  # keys of notes that held a secret until now; whoever commits one takes it out
        found = []
        for key, body in notes.items():
            _, node, what = key.split(":")
            if what == "book":
                self._books[int(node)] = _book_of(body)
            else:
                found.append(_command_of(body))
        for c in sorted(found, key=lambda c: (c.ended, c.number)):
            self._keep(c)
        self._judge()

    def _judge(self) -> None:
        """Look again at what waits, and at whose it is: registry or policy may be others than when it was ordered."""
        self._ending = {key: end for key, end in self._ending.items() if end[0] == "failed"}
        for number, numbers in self._open.items():
            node = self.nodes.get(number)
            for n in numbers if node is not None else ():
                assert node is not None
                self._may_be_sent(self._commands[number, n], node)
        for number, book in self._books.items():
            node = self.nodes.get(number)
            if node is not None and (now := book_of(book, node)) != book:
                self._books[number] = now
                self._stale.add(number)

    def _may_be_sent(self, c: Command, node: Node) -> bool:
        """Judge an order once more; one that is not to be sent any more is ended by the next tick."""
        if (c.node, c.number) in self._ending:
            return False
        why = why_not(c, node, self.policy)
        if why:
            self._ending[c.node, c.number] = ("withdrawn", f"{why}; sent {c.sends} times")
        return not why

    def _keep(self, c: Command) -> None:
        key = (c.node, c.number)
        before = self._commands.get(key)
        self._commands[key] = c
        self._ids[c.requester, c.id] = key
        was_open = before is not None and before.open
        if c.open and not was_open:
            self._open.setdefault(c.node, {})[c.number] = None
            self._places.move(c, 1)
        elif was_open and not c.open:
            del self._open[c.node][c.number]
            self._places.move(c, -1)
            if not self._open[c.node]:
                del self._open[c.node]
        if not c.open and (before is None or was_open):
            self._ended.append(key)
        heappush(self._due, (c.due, key))

    def _drop(self, key: Key, draft: _Draft) -> None:
        c = self._commands.pop(key)
        if self._ids.get((c.requester, c.id)) == key:
            del self._ids[c.requester, c.id]
        self.redacted.discard(f"{self.name}:{c.node}:{c.number}")
        draft.notes[f"{self.name}:{c.node}:{c.number}"] = None

    def _note(self, draft: _Draft, c: Command) -> None:
        body = _encode(c)  # first: what cannot be encoded must not be kept either
        if (c.node, c.number) not in self._commands:
            draft.made.append((c.node, c.number))
        else:
            draft.was.setdefault((c.node, c.number), self._commands[c.node, c.number])
        self._keep(c)
        draft.notes[f"{self.name}:{c.node}:{c.number}"] = body

    def _enter(self, draft: _Draft, node: int, book: Book) -> None:
        if not book.keys and node in self.nodes:
            book = replace(book, keys=prints(self.nodes[node]))
        if self._books.get(node) != book:
            body = _encode(book)
            self._books[node] = book
            draft.notes[f"{self.name}:{node}:book"] = body

    def _undo(self, draft: _Draft) -> None:
        """Take back what a request made or ended before it failed: what is in no note must not be sent, nor be over."""
        for key, c in draft.was.items():
            if key not in draft.made:
                self._keep(c)
        for key in draft.made:
            c = self._commands[key]
            if c.open:
                self._keep(replace(c, state="refused"))
            self._drop(key, _Draft())

    def _step(self, draft: _Draft, c: Command, now: float, **changes: Any) -> Command:
        """Change a command, tell it and note it."""
        if changes.get("detail"):
            changes["detail"] = scrub(changes["detail"], secrets(c.args, c.name))
        c = replace(c, step=c.step + 1, **changes)
        if not c.open and not c.ended:
            c = replace(c, ended=now)
        told = _told(c)
        if not c.open and c.args != told["args"]:
            c = replace(c, args=told["args"])  # it is not sent again
            self.redacted.add(f"{self.name}:{c.node}:{c.number}")
        self._note(draft, c)
        draft.events.append(self._event_of(c, now, f"{c.number}:{c.step}", told))
        return c

    def _event_of(self, c: Command, now: float, what: str, told: Mapping[str, Any]) -> Event:
        """Publish a step of an order on the topic that was asked, to no one who might not have seen its node then."""
        return self._event(c.node, c.target, now, what, told, c.visibility)

    def _event(
        self, number: int, name: str, now: float, what: str, command: Mapping[str, Any], circle: str = ""
    ) -> Event:
        """name, circle: as the node was when it was asked; "": as it is. Of one that is not known a household's circle is taken."""
        node = self.nodes.get(number)
        epoch, now_name, visibility, interval = (node.epoch, node.name, node.visibility, node.interval_s) if node else (0, f"node-{number}", circle or PERSONAL, 1)  # fmt: skip
        visibility = strictest(visibility, circle or visibility)
        return Event("command", f"{number}:{epoch}:{self.name}:{what}", number, name or now_name, visibility, now, interval, command=command)  # fmt: skip

    # what is known

    def get(self, requester: str, ident: str) -> Command | None:
        """Return the command a requester gave this id."""
        key = self._ids.get((requester, ident))
        return None if key is None else self._commands[key]

    def waiting(self) -> Iterable[int]:
        """Return the nodes with commands that have not ended."""
        return tuple(self._open)

    @property
    def open(self) -> int:
        """How many commands have not ended."""
        return self._places.open

    def as_configured(self, node: Node) -> Node:
        """Return the node with the report interval that it confirmed, as long as the registry says what it said then."""
        book = self._books.get(node.id)
        if book is None or not book.interval_s or book.registry_s != node.interval_s:
            return node
        return replace(node, interval_s=book.interval_s)

    # requests

    def request(
        self, requester: str, name: str, body: bytes, now: float, knows_time: bool = True
    ) -> tuple[Follow, str]:
        """Judge a request for the node `name` by someone the broker vouches for; return what follows and how it was judged.
        knows_time: False while `now` is known to be wrong.

        "accepted", "again" (a known id: its state is told, nothing is executed), "flood" (nothing follows), or the reason of a refusal.
        """
        if not self._may_ask(requester, now):
            return Follow(), "flood"
        draft, request, number = _Draft(), None, self._numbers.get(name, 0)
        try:
            if requester not in self.policy.requesters:
                with suppress(Refused):  # the log names what was asked for, and the answer which request it is
                    request = parse(body)
                raise Refused("unauthorised", f"{requester} has no role here")
            request = parse(body)
            if request.requester != requester:
                raise Refused("wrong_requester", f"the topic says {requester}")
            if request.name == CANCEL:
                return self._cancel(draft, request, requester, name, now)
            if not number:
                raise Refused("unknown_node", f"no node {name} here")
            known = self.get(requester, request.id)
            if known is not None:
                return self._again(draft, known, request, number, now)
            expires = self._expiry(request, requester, self.nodes[number], now, knows_time and now >= BUILT)
            self._accept(draft, number, request, requester, expires, now)
        except Refused as e:
            return self._refused(e, request, requester, number, name, now, len(body) <= MAX_TOLD), e.reason
        except Exception as e:  # of ours: this request's fault alone
            self._undo(draft)
            self._caught(e)
            unforeseen = Refused("malformed", f"this gateway cannot handle it ({type(e).__name__})")
            return self._refused(unforeseen, None, requester, number, name, now, False), unforeseen.reason
        return draft.follow(), "accepted"

    def _expiry(self, request: Request, requester: str, node: Node, now: float, knows_time: bool) -> float:
        """Return the expiry of a request that is allowed. Raises Refused; no_time for one that only the time of day could judge."""
        try:
            expires = authorise(self.policy, request, requester, node, now)
        except Refused as e:
            if knows_time or e.reason not in ("expired", "expires_too_far"):
                raise
            raise Refused("no_time", NO_TIME) from e
        if not knows_time and (request.expires is None or now < BUILT):
            raise Refused("no_time", NO_TIME)
        return expires

    def _cancel(self, draft: _Draft, request: Request, requester: str, name: str, now: float) -> tuple[Follow, str]:
        """Take back an order of the requester's own that the node has not taken; asked again, it is answered again."""
        ident = str(request.args[0]) if isinstance(request.args, list) and len(request.args) == 1 else ""
        c = self.get(requester, ident)
        if not ident:
            raise Refused("bad_arguments", "one argument: the id of the order")
        if c is None or c.node != self._numbers.get(name) and c.target != name:
            raise Refused("unknown_id", f"{requester} has no order {ident} for {name}")
        if c.open and not c.taken:
            c = self._step(draft, c, now, state="withdrawn", detail=f"cancelled by {requester}; sent {c.sends} times")
        if c.state != "withdrawn":
            raise Refused("too_late", "the node has taken it" if c.open else f"it has ended: {c.state}")
        told = {"id": request.id, "requester": requester, "name": CANCEL, "args": [ident], "reason": request.reason,
                "state": "done", "detail": c.detail}  # fmt: skip
        self._refusals += 1
        what = f"{requester}:{int(now * 1000)}:{self._refusals}"
        draft.events.append(self._event(c.node, name, now, what, told, c.visibility))
        return draft.follow(), "accepted"

    def _refused(
        self, e: Refused, request: Request | None, requester: str, number: int, name: str, now: float, whole: bool
    ) -> Follow:
        """Tell a refusal; the arguments only when they are short (`whole`), and never their secrets."""
        told: dict[str, Any] = {"state": "refused", "error": e.reason, "detail": str(e), "requester": requester}
        if request is not None:
            told |= {"id": request.id, "name": request.name[:64], "reason": request.reason}
            told["detail"] = scrub(str(e), secrets(request.args, request.name))
            if whole:
                told["args"] = redact(request.args, request.name)
        self._refusals += 1
        ident = f"{requester}:{int(now * 1000)}:{self._refusals}"
        return Follow((self._event(number, name, now, ident, told),))

    def _again(self, draft: _Draft, c: Command, request: Request, number: int, now: float) -> tuple[Follow, str]:
        asked, kept = request.args, c.args
        if (
            not c.open
        ):  # of what has ended no secret is kept; it may have been taken out by the rules of an older gateway
            asked, kept = redact(asked, request.name), redact(kept, c.name)
        if (c.node, c.name, kept) != (number, request.name, asked):
            raise Refused("id_conflict", f"{request.id} is the id of another command")
        told = {**_told(c), "again": True}
        draft.events.append(self._event_of(c, now, f"{c.number}:again:{int(now * 1000)}", told))
        return draft.follow(), "again"

    def _may_ask(self, requester: str, now: float) -> bool:
        """Take a token of the requester's; all that are not known share one bucket."""
        who = requester if requester in self.policy.requesters else ""
        tokens, at = self._buckets.get(who, (float(BURST), now))
        tokens = min(BURST, tokens + max(now - at, 0.0) * (PER_S if who else STRANGERS_PER_S))
        self._buckets[who] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def _accept(self, draft: _Draft, number: int, request: Request, requester: str, expires: float, now: float) -> None:
        mine = [self._commands[number, n] for n in self._open.get(number, ())]
        old = outdated(mine, request.name, request.args)
        if not (requester == GATEWAY and is_urgent(request.name)):  # closings at a leak: one of each leak
            self._places.judge(mine, old, request.name, requester, self.policy)
        book = self._books.get(number, Book())
        begun = (
            book.last if book.last < MOST else 0
        )  # counted by a clock beyond the wire's: no node has seen such a number
        last = max(begun + 1, int(now) if now < MOST else 0)
        self._enter(draft, number, replace(book, last=last))
        node = self.nodes[number]
        c = Command(last, request.id, requester, number, request.name, request.args, request.reason, now, expires,
                    target=node.name, visibility=node.visibility, keys=prints(node))  # fmt: skip
        c = self._step(draft, c, now)
        self._step(draft, c, now, state="queued")
        for o in old:
            detail = f"by order {last} of {requester}; sent {o.sends} times"
            self._step(draft, o, now, state="superseded", detail=detail)

    def _order(
        self, draft: _Draft, node: Node, ident: str, name: str, args: Any, reason: str, longest: float, now: float
    ) -> None:
        """Order something in the gateway's own name; what has no room is published as refused, once."""
        if self.get(GATEWAY, ident) is not None or node.id not in self.nodes:
            return
        request = Request(ident, name, GATEWAY, args, None, reason)
        try:
            self._accept(draft, node.id, request, GATEWAY, now + longest, now)
        except Refused as e:
            if self._unplaced.get(node.id) == ident:
                return
            self._unplaced[node.id] = ident
            told = {"state": "refused", "error": e.reason, "detail": str(e), "requester": GATEWAY, "id": ident, "name": name, "args": redact(args, name), "reason": reason}  # fmt: skip
            draft.events.append(self._event(node.id, node.name, now, f"{GATEWAY}:{ident}", told))

    # sending

    def offer(self, node: Node, room: int, now: float, newest: tuple[int, int], repeat: bool = False) -> Offer | None:
        """Return what goes into a downlink to the node now, counted as sent; None when nothing does. Never raises: the uplink is answered whatever waits.

        room: payload bytes of the frame. newest: epoch and highest counter of its uplinks. repeat: the uplink was a repeat, which
        anyone may have sent: the send counts no round, and the next answer to something new carries the same again.
        """
        try:
            return self._offer(node, room, now, newest, repeat)
        except Exception as e:  # of ours
            self._caught(e)
            return None

    def _offer(self, node: Node, room: int, now: float, newest: tuple[int, int], repeat: bool) -> Offer | None:
        numbers = self._open.get(node.id)
        if not numbers:
            return None
        book = self._books.get(node.id, Book())
        mine = [self._commands[node.id, n] for n in numbers]
        for c in sorted(mine, key=lambda c: (-orders.priority(c.name), c.number)):
            if not c.ready(now, repeat) or not self._in_turn(c, mine, book) or not self._may_be_sent(c, node):
                continue
            try:
                parts = orders.parts(c.name, c.args, c.number, c.room or room)
                if (
                    c.configures and c.sends and parts and max(map(orders.size, parts)) > room
                ):  # was begun with longer frames: cut anew
                    c = replace(c, room=0, sends=0, spare=0)
                    parts = orders.parts(c.name, c.args, c.number, room)
                if not parts:
                    continue
                items = dict(parts[c.rounds % len(parts)])
                if codes.DOWN_COMMAND in items:
                    items[codes.DOWN_EXPIRY] = min(int(c.expires), MOST)
                if orders.size(items) > room:
                    continue
            except orders.BadArguments as e:
                self._ending[c.node, c.number] = ("failed", f"it cannot be sent: {e}")
                continue
            return self._sent(node, c, book, items, len(parts), room, now, newest, repeat, self._forgotten(mine, book))
        return None

    def _in_turn(self, c: Command, mine: list[Command], book: Book) -> bool:
        """True when sending c now cannot make the node execute something twice, or confuse two configurations."""
        if c.configures:  # an answer names no command: one at a time, and of two that set the same the older first
            others = [o for o in mine if o.configures and o is not c]
            return all(not o.sends and (o.number > c.number or not share(o, c)) for o in others)
        if any(o.number < c.number and not o.taken and share(o, c) for o in mine):
            return False  # an exercise, behind the position that was ordered before it
        if c.order:  # those that followed it are counted below, before they are sent
            return True
        return is_urgent(c.name) or not self._forgotten(mine, book)

    def _forgotten(self, mine: list[Command], book: Book) -> list[Command]:
        """Return what the node would not remember behind one more order, so that it could not be sent again."""
        unanswered = [o for o in mine if o.order and not o.taken]
        return [o for o in unanswered if book.order - o.order >= REMEMBERED - 1]

    def _sent(
        self, node: Node, c: Command, book: Book, items: dict[int, Any], pieces: int, room: int, now: float, newest: tuple[int, int],
        repeat: bool, forgotten: list[Command],
    ) -> Offer:  # fmt: skip
        draft = _Draft()
        changes: dict[str, Any] = {"sends": c.sends + 1, "pieces": pieces, "room": c.room or room}
        changes |= {"spare": c.spare + 1, "spared": now} if repeat else {"sent": now}
        if not c.sends:
            changes |= {"mark": newest, "version": book.reported}
        if not c.order and not c.configures:
            for o in forgotten:  # only what cannot wait is sent then
                why = f"sent {o.sends} times, no answer; {c.name} could not wait for it"
                self._step(draft, o, now, state="failed", detail=why)
            book = replace(book, order=book.order + 1)
            self._enter(draft, node.id, book)
            changes["order"] = book.order
        if repeat and c.state == "sent" or c.rounds % pieces:  # told once per round
            self._note(draft, replace(c, **changes))
        else:
            self._step(draft, c, now, state="sent", **changes)
        return Offer((node.id, c.number), items, orders.priority(c.name), draft.follow(), repeat)

    def unsent(self, key: Key, why: str, repeat: bool = False) -> Follow:
        """Take a send back that could not leave (duty cycle, no path)."""
        c, draft = self._commands.get(key), _Draft()
        if c is not None and c.open and c.sends:
            back: dict[str, Any] = {"spare": max(c.spare - 1, 0), "spared": 0.0} if repeat else {"sent": 0.0}
            self._note(draft, replace(c, sends=c.sends - 1, detail=f"held: {why}", **back))
        return draft.follow()

    # what comes back

    def follow(self, node: Node, event: Event) -> Follow:
        """Take an event: answers to commands, versions of configurations, leaks."""
        if event.status is None and not self.policy.valves and node.id not in self._open:
            return _NOTHING
        draft, at = _Draft(), (event.epoch, event.counter)
        status = event.status or {}
        if event.rebooted:
            self._reset(draft, node, at, event.received)
        if "command" in status:
            self._answered(draft, node, status["command"], event.received)
        if "config_version" in status:
            alone, stale = set(status) == {"config_version"}, "config_version" in event.stale
            self._version(draft, node, status["config_version"], alone, stale, at, event.received)
        if "config_problem" in status:
            self._problem(
                draft, node, str(status["config_problem"]), set(status) == {"config_problem"}, at, event.received
            )
        if event.link and (self.policy.valves or event.alarm is not None):
            self._valve(draft, node, event)
        return draft.follow()

    def _answered(self, draft: _Draft, node: Node, word: Any, now: float) -> None:
        if not isinstance(word, list) or not 2 <= len(word) <= 3:
            return
        c = self._commands.get((node.id, word[0])) if isinstance(word[0], int) else None
        if c is None or c.said or c.configures:
            return
        detail = str(word[2]) if len(word) == 3 else ""
        state = _WORDS.get(word[1]) if isinstance(word[1], int) else None
        if state is not None:
            self._step(draft, c, now, state=state, detail=detail, said=True, ended=0.0)
        elif word[1] == codes.COMMAND_ACCEPTED and c.open and not c.taken:
            self._step(draft, c, now, state="sent", detail="taken by the node", taken=True)

    def _reset(self, draft: _Draft, node: Node, at: tuple[int, int], now: float) -> None:
        """The node was reset behind a send: what it cannot bear must not be sent for ever. (A reboot that was asked for is answered after it.)"""
        for number in tuple(self._open.get(node.id, ())):
            c = self._commands[node.id, number]
            if c.rounds <= c.resets or c.taken or at <= c.mark:
                continue
            c = replace(c, resets=c.resets + 1)
            if c.resets < RESETS:
                self._note(draft, c)
            else:
                self._step(
                    draft, c, now, state="failed", detail=f"the node was reset {c.resets} times behind it, no answer"
                )

    def _travelling(self, node: int) -> Command | None:
        """Return the configuration on its way to a node."""
        mine = (self._commands[node, n] for n in self._open.get(node, ()) if (node, n) not in self._ending)
        return next((c for c in mine if c.configures and c.sends), None)

    def _version(
        self, draft: _Draft, node: Node, version: Any, alone: bool, stale: bool, at: tuple[int, int], now: float
    ) -> None:
        """A node said which configuration is in force. A lone version newer than the first send is its answer; so is a higher one. A stale
        word may still be an answer, but does not say what is in force."""
        if not isinstance(version, int):
            return
        book, c = self._books.get(node.id, Book()), self._travelling(node.id)
        if c is not None and at > c.mark and (alone or c.version is not None and version > c.version):
            book = replace(book, reported=version, config=c.number, confirmed=version, since=at)
            args: Any = c.args
            if isinstance(args.get("report_s"), int):
                book = replace(book, interval_s=args["report_s"], registry_s=node.interval_s)
                original = self.nodes.get(node.id)
                if original is not None:
                    book = replace(book, registry_s=original.interval_s)
            if isinstance(args.get("valve"), Mapping) and isinstance(args["valve"].get("fail_safe"), str):
                book = replace(book, fail_safe=args["valve"]["fail_safe"])
            self._enter(draft, node.id, book)
            self._step(draft, c, now, state="done", detail=f"version {version}", said=True)
            return
        if book.confirmed is not None and version < book.confirmed and at > book.since:
            book = self._taken_back(draft, node, book, f"taken back: version {version} is in force", now)
        if not stale:
            self._enter(draft, node.id, replace(book, reported=version))

    def _problem(self, draft: _Draft, node: Node, text: str, alone: bool, at: tuple[int, int], now: float) -> None:
        """A node said why it refused a configuration ("..."), or that it gave one up ("<version>: ...")."""
        book, c, gone = self._books.get(node.id, Book()), self._travelling(node.id), _GIVEN_UP.match(text)
        if gone is not None:
            if book.confirmed == int(gone[1]) and at > book.since:
                self._enter(draft, node.id, self._taken_back(draft, node, book, text, now))
        elif c is not None and alone and at > c.mark:
            self._step(draft, c, now, state="failed", detail=text, said=True)

    def _taken_back(self, draft: _Draft, node: Node, book: Book, why: str, now: float) -> Book:
        c = self._commands.get((node.id, book.config))
        if c is not None and c.state == "done":
            self._step(draft, c, now, state="failed", detail=why, ended=0.0)
        return replace(book, confirmed=None, interval_s=0, registry_s=0, fail_safe="")

    def _valve(self, draft: _Draft, node: Node, event: Event) -> None:
        """Close on a leak where that is enabled; send a fail-safe position that the node has not confirmed.

        Only on a word that is current: neither suspect nor older than LEAK_NEWS_S. A clear withdraws what the node has not taken.
        """
        valve, now = self.policy.valve(node), event.received
        if event.alarm is not None and LEAK_RULE in event.alarm.rules:
            self._leak(draft, node, event, event.alarm)
        if valve is None or now < BUILT:
            return
        want = valve.fail_safe
        if want is not None and self._books.get(node.id, Book()).fail_safe != want:
            mine = (self._commands[node.id, n] for n in self._open.get(node.id, ()))
            if not any(c.requester == GATEWAY and c.configures for c in mine):
                day = int(now) // 86_400  # a refusal is asked about again tomorrow
                self._order(draft, node, f"fail_safe:{node.id}:{node.epoch}:{want}:{day}", "config", {"valve": {"fail_safe": want}}, "", LONGEST_S, now)  # fmt: skip

    def _leak(self, draft: _Draft, node: Node, event: Event, alarm: Alarm) -> None:
        """Close once for a leak that is up; again when the node did not do it, and not when someone has ordered otherwise since."""
        now, book, valve = event.received, self._books.get(node.id, Book()), self.policy.valve(node)
        if alarm.state == "cleared":
            self._withdraw(draft, node.id, now)
            self._leaks.pop(node.id, None)
        if alarm.state in ("raised", "cleared") and book.leak:
            book = replace(book, leak="")
            self._enter(draft, node.id, book)
        if valve is None or not valve.auto_close or not _is_current_leak(alarm, now):
            return
        before = self.get(GATEWAY, book.leak)
        if book.leak and (before is None or before.state not in UNDONE):
            return
        if now < BUILT:  # an expiry by this clock would have passed once it is set
            self._leaks[node.id] = event
        else:
            self._close(draft, node, event, now)

    def _close(self, draft: _Draft, node: Node, event: Event, now: float) -> None:
        ident = f"{LEAK_ID}{event.id}"
        self._order(draft, node, ident, orders.VALVE, ["close"], "leak", LEAK_S, now)
        if self.get(GATEWAY, ident) is not None:
            self._enter(draft, node.id, replace(self._books.get(node.id, Book()), leak=ident))

    def _withdraw(self, draft: _Draft, node: int, now: float) -> None:
        """End the automatic closings that the node has not taken: the leak is over. One that was sent may still be answered."""
        for number in tuple(self._open.get(node, ())):
            c = self._commands[node, number]
            if c.requester == GATEWAY and c.id.startswith(LEAK_ID) and not c.taken:
                self._step(draft, c, now, state="withdrawn", detail=f"the leak is over; sent {c.sends} times")

    # time

    def stepped(self, seconds: float) -> None:
        """Nothing: commands expire at a time of day."""

    def tick(self, now: float) -> Follow:
        """End what is overdue, forget what ended long ago."""
        draft = _Draft()
        for key, (state, why) in self._ending.items():
            c = self._commands.get(key)
            if c is not None and c.open:
                self._step(draft, c, now, state=state, detail=why)
        self._ending.clear()
        for number in self._stale:
            draft.notes[f"{self.name}:{number}:book"] = _encode(self._books[number])
        self._stale.clear()
        if self._leaks and now >= BUILT:
            for number, event in self._leaks.items():
                node = self.nodes.get(number)
                valve = None if node is None else self.policy.valve(node)
                if node is not None and valve is not None and valve.auto_close:
                    self._close(draft, node, event, now)
            self._leaks.clear()
        while self._due and self._due[0][0] <= now:
            at, key = heappop(self._due)
            c = self._commands.get(key)
            if c is None or c.due != at:
                continue  # it was moved
            if not c.open:
                self._drop(key, draft)
            elif c.taken:
                self._step(draft, c, now, state="failed", detail="taken, but no result came")
            elif now >= c.expires:
                why = f"sent {c.sends} times, no answer" if c.sends else c.detail or "the node did not ask in time"
                self._step(draft, c, now, state="expired", detail=why)
            else:
                self._step(draft, c, now, state="failed", detail=f"sent {c.sends} times, no answer")
        while len(self._commands) > MAX_KEPT and self._ended:
            key = self._ended.popleft()
            if key in self._commands and not self._commands[key].open:
                self._drop(key, draft)
        return draft.follow()

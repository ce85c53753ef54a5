"""Commands and configurations on their way to a node: kept, sent until the node answers, told and audited. Pure; a Follower.

    accepted -> queued -> sent -> done | failed | expired | refused        refused at once: not authorised, expired, malformed

Every step is an event (published on the ack topic and entered in the audit log by the store) and a note, both committed before anything
is sent. A node executes a number once and remembers the last 8 (mote.commands), so a number is sent again only while fewer others followed
it. Numbers grow with Unix time, so that a gateway that lost its store never uses one again. Not to be sent twice: what a node has
taken, refused or finished. The node's word is the last: a result that comes after the expiry still counts.

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
from gateway.core.authorise import GATEWAY, LONGEST_S, Policy, Refused, Request, authorise, parse
from gateway.core.command import Book, Command, Key, Offer
from gateway.core.follow import Follow
from gateway.core.model import RESTRICTED, Alarm, Event, Node
from gateway.core.redact import redact, scrub, secrets
from gateway.core.value import replace

REMEMBERED = 8  # commands whose ids a node remembers
RESETS = 2  # resets of a node behind sends of the same command, after which it is not sent again: it may be the cause
MAX_KEPT = 20_000
MOST = 2**32 - 1  # the highest number and the latest expiry of a frame
LEAK_S = 6 * 3600  # expiry of an automatic closing
LEAK_NEWS_S = 3 * 3600  # a leak measured longer ago may be over: its clear may still wait in the node's outbox
LEAK_ID = "leak:"  # begins the ids of automatic closings
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

    def follow(self) -> Follow:
        return Follow(tuple(self.events), self.notes)


_NOTHING = Follow()
_encode = msgspec.msgpack.Encoder().encode
_command_of = msgspec.msgpack.Decoder(Command).decode
_book_of = msgspec.msgpack.Decoder(Book).decode


def _is_current_leak(alarm: Alarm, now: float) -> bool:
    raised = alarm.state == "raised" and LEAK_RULE in alarm.rules
    return raised and not alarm.suspect and alarm.t > now - LEAK_NEWS_S


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

    # what is committed

    def load(self, notes: Mapping[str, bytes]) -> None:
        """Forget everything and go on from the committed notes."""
        self._numbers = {n.name: n.id for n in self.nodes.values()}
        self._commands: dict[Key, Command] = {}
        self._books: dict[int, Book] = {}
        self._open: dict[int, dict[int, None]] = {}
        self._waiting = 0
        self._ids: dict[tuple[str, str], Key] = {}
        self._due: list[tuple[float, Key]] = []
        self._ended: deque[Key] = deque()
        self._unfit: dict[Key, str] = {}  # what no frame can carry, and why: ended by the next tick
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

    def _keep(self, c: Command) -> None:
        key = (c.node, c.number)
        before = self._commands.get(key)
        self._commands[key] = c
        self._ids[c.requester, c.id] = key
        was_open = before is not None and before.open
        if c.open and not was_open:
            self._open.setdefault(c.node, {})[c.number] = None
            self._waiting += 1
        elif was_open and not c.open:
            del self._open[c.node][c.number]
            self._waiting -= 1
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
        self._keep(c)
        draft.notes[f"{self.name}:{c.node}:{c.number}"] = body

    def _enter(self, draft: _Draft, node: int, book: Book) -> None:
        if self._books.get(node) != book:
            body = _encode(book)
            self._books[node] = book
            draft.notes[f"{self.name}:{node}:book"] = body

    def _undo(self, draft: _Draft) -> None:
        """Take back the commands that a request made before it failed: what is in no note must not be sent."""
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
        told = {"number": c.number, "id": c.id, "requester": c.requester, "name": c.name, "args": redact(c.args, c.name), "reason": c.reason,
                "state": c.state, "detail": c.detail, "sends": c.sends, "expires": c.expires}  # fmt: skip
        if not c.open and c.args != told["args"]:
            c = replace(c, args=told["args"])  # it is not sent again
            self.redacted.add(f"{self.name}:{c.node}:{c.number}")
        self._note(draft, c)
        draft.events.append(self._event(c.node, "", now, f"{c.number}:{c.step}", told))
        return c

    def _event(self, number: int, name: str, now: float, what: str, command: Mapping[str, Any]) -> Event:
        node = self.nodes.get(number)
        name, visibility, interval = (node.name, node.visibility, node.interval_s) if node else (name, RESTRICTED, 1)
        return Event("command", f"{number}:{node.epoch if node else 0}:{self.name}:{what}", number, name or f"node-{number}", visibility, now, interval, command=command)  # fmt: skip

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
        return self._waiting

    def as_configured(self, node: Node) -> Node:
        """Return the node with the report interval that it confirmed, as long as the registry says what it said then."""
        book = self._books.get(node.id)
        if book is None or not book.interval_s or book.registry_s != node.interval_s:
            return node
        return replace(node, interval_s=book.interval_s)

    # requests

    def request(self, requester: str, name: str, body: bytes, now: float) -> tuple[Follow, str]:
        """Judge a request for the node `name` by someone the broker vouches for; return what follows and how it was judged.

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
            if not number:
                raise Refused("unknown_node", f"no node {name} here")
            known = self.get(requester, request.id)
            if known is not None:
                return self._again(draft, known, request, number, now)
            expires = authorise(self.policy, request, requester, self.nodes[number], now)
            self._accept(draft, number, request, requester, expires, now)
        except Refused as e:
            return self._refused(e, request, requester, number, name, now, len(body) <= MAX_TOLD), e.reason
        except Exception as e:  # of ours: this request's fault alone
            self._undo(draft)
            self._caught(e)
            unforeseen = Refused("malformed", f"this gateway cannot handle it ({type(e).__name__})")
            return self._refused(unforeseen, None, requester, number, name, now, False), unforeseen.reason
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
        told = {"number": c.number, "id": c.id, "requester": c.requester, "name": c.name, "args": redact(c.args, c.name), "reason": c.reason,
                "state": c.state, "detail": c.detail, "sends": c.sends, "expires": c.expires, "again": True}  # fmt: skip
        draft.events.append(self._event(c.node, "", now, f"{c.number}:again:{int(now * 1000)}", told))
        return draft.follow(), "again"

    def _may_ask(self, requester: str, now: float) -> bool:
        """Take a token of the requester's; all that are not known share one bucket."""
        who = requester if requester in self.policy.requesters else ""
        tokens, at = self._buckets.get(who, (float(BURST), now))
        tokens = min(BURST, tokens + max(now - at, 0.0) * (PER_S if who else STRANGERS_PER_S))
        self._buckets[who] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def _accept(self, draft: _Draft, number: int, request: Request, requester: str, expires: float, now: float) -> None:
        if self._waiting >= self.policy.max_queue:
            raise Refused("queue_full", f"{self._waiting} commands wait; try again later")
        if len(self._open.get(number, ())) >= self.policy.max_open:
            raise Refused("node_busy", f"{self.policy.max_open} commands wait for this node")
        book = self._books.get(number, Book())
        begun = (
            book.last if book.last < MOST else 0
        )  # counted by a clock beyond the wire's: no node has seen such a number
        last = max(begun + 1, int(now) if now < MOST else 0)
        self._enter(draft, number, replace(book, last=last))
        c = Command(last, request.id, requester, number, request.name, request.args, request.reason, now, expires)
        c = self._step(draft, c, now)
        self._step(draft, c, now, state="queued")

    def _order(
        self, draft: _Draft, node: Node, ident: str, name: str, args: Any, reason: str, longest: float, now: float
    ) -> None:
        """Order something in the gateway's own name; what has no room is told as refused."""
        if self.get(GATEWAY, ident) is not None:
            return
        request = Request(ident, name, GATEWAY, args, None, reason)
        try:
            self._accept(draft, node.id, request, GATEWAY, now + longest, now)
        except Refused as e:
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
            if not c.ready(now, repeat) or not self._in_turn(c, mine, book):
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
                self._unfit[c.node, c.number] = str(e)
                continue
            return self._sent(node, c, book, items, len(parts), room, now, newest, repeat)
        return None

    def _in_turn(self, c: Command, mine: list[Command], book: Book) -> bool:
        """True when sending c now cannot make the node execute something twice, or confuse two configurations."""
        if c.configures:  # an answer names no command: one at a time
            return all(not o.configures or not o.sends for o in mine if o is not c)
        if c.order:  # those that followed it are counted below, before they are sent
            return True
        unanswered = [o for o in mine if o.order and not o.taken]
        return all(book.order - o.order < REMEMBERED - 1 for o in unanswered)

    def _sent(
        self, node: Node, c: Command, book: Book, items: dict[int, Any], pieces: int, room: int, now: float, newest: tuple[int, int],
        repeat: bool,
    ) -> Offer:  # fmt: skip
        draft = _Draft()
        changes: dict[str, Any] = {"sends": c.sends + 1, "pieces": pieces, "room": c.room or room}
        changes |= {"spare": c.spare + 1, "spared": now} if repeat else {"sent": now}
        if not c.sends:
            changes |= {"mark": newest, "version": book.reported}
        if not c.order and not c.configures:
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
        mine = (self._commands[node, n] for n in self._open.get(node, ()))
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

        Only on a raise that is current: neither suspect nor older than LEAK_NEWS_S. A clear withdraws what the node has not taken.
        """
        valve, now = self.policy.valve(node), event.received
        alarm = event.alarm
        if alarm is not None and alarm.state == "cleared" and LEAK_RULE in alarm.rules:
            self._withdraw(draft, node.id, now)
        if valve is None:
            return
        if valve.auto_close and alarm is not None and _is_current_leak(alarm, now):
            self._order(draft, node, f"{LEAK_ID}{event.id}", orders.VALVE, ["close"], "leak", LEAK_S, now)
        want = valve.fail_safe
        if want is not None and self._books.get(node.id, Book()).fail_safe != want:
            mine = (self._commands[node.id, n] for n in self._open.get(node.id, ()))
            if not any(c.requester == GATEWAY and c.configures for c in mine):
                day = int(now) // 86_400  # a refusal is asked about again tomorrow
                self._order(draft, node, f"fail_safe:{node.id}:{want}:{day}", "config", {"valve": {"fail_safe": want}}, "", LONGEST_S, now)  # fmt: skip

    def _withdraw(self, draft: _Draft, node: int, now: float) -> None:
        """End the automatic closings that the node has not taken: the leak is over. One that was sent may still be answered."""
        for number in tuple(self._open.get(node, ())):
            c = self._commands[node, number]
            if c.requester == GATEWAY and c.id.startswith(LEAK_ID) and not c.taken:
                self._step(draft, c, now, state="expired", detail=f"withdrawn: the leak is over; sent {c.sends} times")

    # time

    def stepped(self, seconds: float) -> None:
        """Nothing: commands expire at a time of day."""

    def tick(self, now: float) -> Follow:
        """End what is overdue, forget what ended long ago."""
        draft = _Draft()
        for key, why in self._unfit.items():
            c = self._commands.get(key)
            if c is not None and c.open:
                self._step(draft, c, now, state="failed", detail=f"it cannot be sent: {why}")
        self._unfit.clear()
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

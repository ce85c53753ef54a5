"""What is kept of orders: every command and its state, and a Book of each node beside them. The only writer of both. Pure.

    accepted -> queued -> sent -> done | failed | expired | refused | superseded | withdrawn

Every step is an event (published on the ack topic and entered in the audit log by the store) and a note, both committed before anything
is sent: a Draft collects them. Numbers grow with Unix time, so that a gateway that lost its store never uses one again. A newer order for
the same thing (settings.py) ends the older; rights, and whose the number is, are judged again at every reload and before every send
(standing.py).

Arguments may hold secrets (a WiFi password). They are published and kept redacted (core/redact.py); what is sent stays in the command's note,
and nowhere else, until the command has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import msgspec

from gateway.core.authorise import GATEWAY, Policy, Request
from gateway.core.command import RESULT_S, Book, Command, Key
from gateway.core.follow import Follow
from gateway.core.model import Event, Node
from gateway.core.order_events import NAME, as_published, event_of
from gateway.core.order_time import OrderTime
from gateway.core.places import Places, is_urgent
from gateway.core.redact import scrub, secrets
from gateway.core.settings import outdated
from gateway.core.standing import book_of, prints, why_not
from gateway.core.value import replace

MAX_KEPT = 20_000
MOST = 2**32 - 1  # the highest number and the latest expiry of a frame

_encode = msgspec.msgpack.Encoder().encode
_command_of = msgspec.msgpack.Decoder(Command).decode
_book_of = msgspec.msgpack.Decoder(Book).decode


@dataclass
class Draft:
    """What follows from one call, to be committed together. made, was: the commands it made, and those it changed as they were before."""

    events: list[Event] = field(default_factory=list)
    notes: dict[str, bytes | None] = field(default_factory=dict)
    made: list[Key] = field(default_factory=list)
    was: dict[Key, Command] = field(default_factory=dict)

    def follow(self) -> Follow:
        return Follow(tuple(self.events), self.notes)


class OrderBook:
    """All orders of one gateway, for the nodes of its registry and by its policy, which configure() replaces.

    redacted: keys of notes that held a secret until now; whoever commits one takes it out.
    """

    def __init__(self, nodes: Mapping[int, Node], policy: Policy, time: OrderTime) -> None:
        self.nodes, self.policy, self._time = nodes, policy, time
        # orders of this life: when each ends by seconds that run on, and whether that is the end of the wait for its result
        self._lives: list[tuple[float, bool, Key]] = []
        self.load({})

    def configure(self, nodes: Mapping[int, Node], policy: Policy) -> None:
        """Go on with another registry and policy."""
        self.nodes, self.policy = nodes, policy
        self._numbers = {n.name: n.id for n in nodes.values()}
        self._judge()

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
        self.redacted: set[str] = set()
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

    # what is known

    def number(self, name: str) -> int:
        """Return the number of the node of this name, 0 when there is none."""
        return self._numbers.get(name, 0)

    def command(self, key: Key) -> Command | None:
        """Return the command of this node and number."""
        return self._commands.get(key)

    def get(self, requester: str, ident: str) -> Command | None:
        """Return the command a requester gave this id."""
        key = self._ids.get((requester, ident))
        return None if key is None else self._commands[key]

    def of(self, node: int) -> list[Command]:
        """Return the commands of a node that have not ended, as they came."""
        return [self._commands[node, n] for n in self._open.get(node, ())]

    def book(self, node: int) -> Book:
        """Return what is known of a node beside its commands."""
        return self._books.get(node, Book())

    def waits(self, node: int) -> bool:
        """True for a node with commands that have not ended."""
        return node in self._open

    def waiting(self) -> tuple[int, ...]:
        """Return the nodes with commands that have not ended."""
        return tuple(self._open)

    @property
    def open(self) -> int:
        """How many commands have not ended."""
        return self._places.open

    # whether an order still stands

    def _judge(self) -> None:
        """Look again at what waits, and at whose it is: registry or policy may be others than when it was ordered."""
        self._ending = {key: end for key, end in self._ending.items() if end[0] == "failed"}
        for number in self._open:
            node = self.nodes.get(number)
            if node is not None:
                for c in self.of(number):
                    self.may_be_sent(c, node)
        for number, book in self._books.items():
            node = self.nodes.get(number)
            if node is not None and (now := book_of(book, node)) != book:
                self._books[number] = now
                self._stale.add(number)

    def may_be_sent(self, c: Command, node: Node) -> bool:
        """Judge an order once more; one that is not to be sent any more is ended by the next tick."""
        if self.is_ending(c):
            return False
        why = why_not(c, node, self.policy)
        if why:
            self.end_later(c, "withdrawn", f"{why}; sent {c.sends} times")
        return not why

    def is_ending(self, c: Command) -> bool:
        """True for an order that the next tick ends."""
        return (c.node, c.number) in self._ending

    def end_later(self, c: Command, state: str, why: str) -> None:
        """End an order by the next tick; it is not sent until then."""
        self._ending[c.node, c.number] = (state, why)

    # changes

    def accept(
        self, draft: Draft, number: int, request: Request, requester: str, expires: float, lasts: float, now: float
    ) -> None:
        """Enter a new order for a node, and end those whose place it takes. lasts: seconds until it expires. Raises Refused when there is no room for it."""
        mine, at_nodes = self.of(number), self._time.at_nodes(now)
        old = outdated(mine, request.name, request.args)
        if not (requester == GATEWAY and is_urgent(request.name)):  # closings at a leak: one of each leak
            # nothing sends these any more, though they may not have ended
            over = [c for c in mine if c.expires <= (now if at_nodes is None else at_nodes)]
            self._places.judge(mine, [*old, *(c for c in over if c not in old)], request.name, requester, self.policy)
        book = self.book(number)
        begun = (
            book.last if book.last < MOST else 0
        )  # counted by a clock beyond the wire's: no node has seen such a number
        last = max(begun + 1, int(now) if now < MOST else 0)
        self.enter(draft, number, replace(book, last=last))
        node = self.nodes[number]
        c = Command(last, request.id, requester, number, request.name, request.args, request.reason, now, expires,
                    target=node.name, visibility=node.visibility, keys=prints(node))  # fmt: skip
        c = self.step(draft, c, now)
        self.step(draft, c, now, state="queued")
        heappush(self._lives, (self._time.elapsed() + lasts, False, (number, last)))
        for o in old:
            detail = f"by order {last} of {requester}; sent {o.sends} times"
            self.step(draft, o, now, state="superseded", detail=detail)

    def step(self, draft: Draft, c: Command, now: float, **changes: Any) -> Command:
        """Change a command, publish it and note it; return it as it is now."""
        if changes.get("detail"):
            changes["detail"] = scrub(changes["detail"], secrets(c.args, c.name))
        c = replace(c, step=c.step + 1, **changes)
        if not c.open and not c.ended:
            c = replace(c, ended=now)
        published = as_published(c)
        if not c.open and c.args != published["args"]:
            c = replace(c, args=published["args"])  # it is not sent again
            self.redacted.add(_key(c))
        self.note(draft, c)
        draft.events.append(event_of(self.nodes, c, now, f"{c.number}:{c.step}", published))
        return c

    def note(self, draft: Draft, c: Command) -> None:
        """Keep a command as it is now, and note it; nothing is published."""
        body = _encode(c)  # first: what cannot be encoded must not be kept either
        if (c.node, c.number) not in self._commands:
            draft.made.append((c.node, c.number))
        else:
            draft.was.setdefault((c.node, c.number), self._commands[c.node, c.number])
        self._keep(c)
        draft.notes[_key(c)] = body

    def enter(self, draft: Draft, node: int, book: Book) -> None:
        """Keep what is known of a node, and note it when it is news."""
        if not book.keys and node in self.nodes:
            book = replace(book, keys=prints(self.nodes[node]))
        if self._books.get(node) != book:
            body = _encode(book)
            self._books[node] = book
            draft.notes[_key_of_book(node)] = body

    def undo(self, draft: Draft) -> None:
        """Take back what a request made or ended before it failed: what is in no note must not be sent, nor be over."""
        for key, c in draft.was.items():
            if key not in draft.made:
                self._keep(c)
        for key in draft.made:
            c = self._commands[key]
            if c.open:
                self._keep(replace(c, state="refused"))
            self._drop(key, Draft())

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

    def _drop(self, key: Key, draft: Draft) -> None:
        c = self._commands.pop(key)
        if self._ids.get((c.requester, c.id)) == key:
            del self._ids[c.requester, c.id]
        self.redacted.discard(_key(c))
        draft.notes[_key(c)] = None

    # time

    def end_judged(self, draft: Draft, now: float) -> None:
        """End what was found not to be sent any more; note what is known of boards that were exchanged."""
        for key, (state, why) in self._ending.items():
            c = self._commands.get(key)
            if c is not None and c.open:
                self.step(draft, c, now, state=state, detail=why)
        self._ending.clear()
        for number in self._stale:
            draft.notes[_key_of_book(number)] = _encode(self._books[number])
        self._stale.clear()

    def end_overdue(self, draft: Draft, now: float) -> None:
        """End what is overdue, forget what ended long ago, by times that have passed for sure. Cost O(due)."""
        passed, elapsed = self._time.passed(now), self._time.elapsed()
        while self._lives and self._lives[0][0] <= elapsed:
            end, is_result, key = heappop(self._lives)
            c = self._commands.get(key)
            if c is None or not c.open:
                continue
            if c.taken and not is_result:
                heappush(self._lives, (end + RESULT_S, True, key))
            else:
                self._end(draft, c, now)
        while self._due and self._due[0][0] <= passed:
            at, key = heappop(self._due)
            c = self._commands.get(key)
            if c is None or c.due != at:
                continue  # it was moved
            if not c.open:
                self._drop(key, draft)
            elif c.taken or passed >= c.expires:
                self._end(draft, c, now)
            else:
                self.step(draft, c, now, state="failed", detail=f"sent {c.sends} times, no answer")
        while len(self._commands) > MAX_KEPT and self._ended:
            key = self._ended.popleft()
            if key in self._commands and not self._commands[key].open:
                self._drop(key, draft)

    def _end(self, draft: Draft, c: Command, now: float) -> None:
        """End an order whose time is over."""
        if c.taken:
            self.step(draft, c, now, state="failed", detail="taken, but no result came")
        else:
            why = f"sent {c.sends} times, no answer" if c.sends else c.detail or "the node did not ask in time"
            self.step(draft, c, now, state="expired", detail=why)


def _key(c: Command) -> str:
    return f"{NAME}:{c.node}:{c.number}"


def _key_of_book(node: int) -> str:
    return f"{NAME}:{node}:book"

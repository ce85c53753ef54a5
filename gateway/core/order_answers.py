"""What comes back from a node: answers to commands, versions and problems of configurations, resets behind a send. Pure.

The node's word is the last: a result that comes after the end still counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from motewire import codes

from gateway.core.command import Book, Command
from gateway.core.model import Event, Node
from gateway.core.order_book import Draft, OrderBook
from gateway.core.value import replace

RESETS = 2  # resets of a node behind sends of the same command, after which it is not sent again: it may be the cause
_WORDS = {
    codes.COMMAND_DONE: "done",
    codes.COMMAND_FAILED: "failed",
    codes.COMMAND_EXPIRED: "expired",
    codes.COMMAND_REFUSED: "refused",
}
_GIVEN_UP = re.compile(r"(\d+): ")  # a node's text about a version it took back


class Answers:
    """Answers to the orders of a book."""

    def __init__(self, orders: OrderBook) -> None:
        self._orders = orders

    def follow(self, draft: Draft, node: Node, event: Event) -> None:
        """Take an event of a node."""
        at, now, status = (event.epoch, event.counter), event.received, event.status or {}
        alone = len(status) == 1
        if event.rebooted:
            self._reset(draft, node, at, now)
        if "command" in status:
            self._answered(draft, node, status["command"], now)
        if "config_version" in status:
            stale = "config_version" in event.stale
            self._version(draft, node, status["config_version"], alone, stale, at, now)
        if "config_problem" in status:
            self._problem(draft, node, str(status["config_problem"]), alone, at, now)

    def _answered(self, draft: Draft, node: Node, word: Any, now: float) -> None:
        if not isinstance(word, list) or not 2 <= len(word) <= 3:
            return
        c = self._orders.command((node.id, word[0])) if isinstance(word[0], int) else None
        if c is None or c.said or c.configures:
            return
        detail = str(word[2]) if len(word) == 3 else ""
        state = _WORDS.get(word[1]) if isinstance(word[1], int) else None
        if state is not None:
            self._orders.step(draft, c, now, state=state, detail=detail, said=True, ended=0.0)
        elif word[1] == codes.COMMAND_ACCEPTED and c.open and not c.taken:
            self._orders.step(draft, c, now, state="sent", detail="taken by the node", taken=True)

    def _reset(self, draft: Draft, node: Node, at: tuple[int, int], now: float) -> None:
        """The node was reset behind a send: what it cannot bear must not be sent without end. (A reboot that was asked for is answered after it.)"""
        for c in self._orders.of(node.id):
            if c.rounds <= c.resets or c.taken or at <= c.mark:
                continue
            c = replace(c, resets=c.resets + 1)
            if c.resets < RESETS:
                self._orders.note(draft, c)
            else:
                why = f"the node was reset {c.resets} times behind it, no answer"
                self._orders.step(draft, c, now, state="failed", detail=why)

    def _travelling(self, node: int) -> Command | None:
        """Return the configuration on its way to a node."""
        mine = self._orders.of(node)
        return next((c for c in mine if c.configures and c.sends and not self._orders.is_ending(c)), None)

    def _version(
        self, draft: Draft, node: Node, version: Any, alone: bool, stale: bool, at: tuple[int, int], now: float
    ) -> None:
        """A node said which configuration is in force. A lone version newer than the first send is its answer; so is a higher one. A stale
        word may still be an answer, but does not say what is in force."""
        if not isinstance(version, int):
            return
        book, c = self._orders.book(node.id), self._travelling(node.id)
        if c is not None and at > c.mark and (alone or c.version is not None and version > c.version):
            book = replace(book, reported=version, config=c.number, confirmed=version, since=at)
            args: Any = c.args
            if isinstance(args.get("report_s"), int):
                book = replace(book, interval_s=args["report_s"], registry_s=node.interval_s)
                original = self._orders.nodes.get(node.id)
                if original is not None:
                    book = replace(book, registry_s=original.interval_s)
            if isinstance(args.get("valve"), Mapping) and isinstance(args["valve"].get("fail_safe"), str):
                book = replace(book, fail_safe=args["valve"]["fail_safe"])
            self._orders.enter(draft, node.id, book)
            self._orders.step(draft, c, now, state="done", detail=f"version {version}", said=True)
            return
        if book.confirmed is not None and version < book.confirmed and at > book.since:
            book = self._taken_back(draft, node, book, f"taken back: version {version} is in force", now)
        if not stale:
            self._orders.enter(draft, node.id, replace(book, reported=version))

    def _problem(self, draft: Draft, node: Node, text: str, alone: bool, at: tuple[int, int], now: float) -> None:
        """A node said why it refused a configuration ("..."), or that it gave one up ("<version>: ...")."""
        book, c, gone = self._orders.book(node.id), self._travelling(node.id), _GIVEN_UP.match(text)
        if gone is not None:
            if book.confirmed == int(gone[1]) and at > book.since:
                self._orders.enter(draft, node.id, self._taken_back(draft, node, book, text, now))
        elif c is not None and alone and at > c.mark:
            self._orders.step(draft, c, now, state="failed", detail=text, said=True)

    def _taken_back(self, draft: Draft, node: Node, book: Book, why: str, now: float) -> Book:
        c = self._orders.command((node.id, book.config))
        if c is not None and c.state == "done":
            self._orders.step(draft, c, now, state="failed", detail=why, ended=0.0)
        return replace(book, confirmed=None, interval_s=0, registry_s=0, fail_safe="")

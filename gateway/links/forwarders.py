"""What is known of packet forwarders: where each listens, which frames of it are under way, and whether an EUI is one receiver.

An EUI that stands on two boxes (a copied card) is noticed by their counters of microseconds (`tmst`): each runs evenly since its own start, so frames of one
box fit one line, and frames of two boxes, taken in turns, fit two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from gateway.health import Problem

MAX_FORWARDERS = 64
FORGET_S = 3600.0  # an EUI that was not heard for so long makes room for another
ALIVE_S = 120.0  # a forwarder pulls every few seconds; an address that did not for so long is not where it is now
TOLD_S = 600.0
EVEN_US = 5_000_000  # two frames of one box differ by less from one line, whatever the network did to them
KEPT = 8  # addresses of one EUI
PATHS = 256  # frames whose origin is remembered
_TURN = 1 << 32

Address = tuple[Any, ...]


class _Source:
    """One address that pushes. offset: of its tmst from our clock, in us; even: frames in a row that fit it."""

    __slots__ = ("at", "even", "offset")

    def __init__(self, offset: int, at: float) -> None:
        self.offset, self.at, self.even = offset, at, 0


class Forwarder:
    """One EUI. Times are monotonic seconds."""

    __slots__ = ("_last", "_origins", "_pulls", "_sources", "_turns", "eui", "heard_at", "twins", "twins_at", "waiting")

    def __init__(self, now: float, eui: str = "") -> None:
        self.eui = eui  # in hex; one string for all that it brings
        self.waiting: dict[asyncio.Future[None], None] = {}
        self.heard_at = now
        self.twins: tuple[str, str] | None = None
        self.twins_at = float("-inf")
        self._pulls: dict[Address, float] = {}
        self._sources: dict[Address, _Source] = {}
        self._origins: dict[int, Address] = {}
        self._last: Address | None = None
        self._turns = 0

    def pulled(self, address: Address, now: float) -> None:
        """A PULL_DATA came from there: downlinks can go there."""
        self._pulls.pop(address, None)
        self._pulls[address] = now  # the newest is the last
        if len(self._pulls) > KEPT:
            del self._pulls[next(iter(self._pulls))]

    def pushed(self, address: Address, tmst: int, now: float) -> bool:
        """A frame with this tmst came from there; True when it shows, for the first time in a while, that two boxes use this EUI."""
        self._origins.pop(tmst, None)
        self._origins[tmst] = address
        if len(self._origins) > PATHS:
            del self._origins[next(iter(self._origins))]
        offset = (tmst - round(now * 1e6)) % _TURN
        source = self._sources.get(address)
        if source is None or _apart(source.offset, offset) > EVEN_US:  # another box, or this one was started anew
            self._sources.pop(address, None)
            self._sources[address] = source = _Source(offset, now)
            if len(self._sources) > KEPT:
                del self._sources[min(self._sources, key=lambda a: self._sources[a].at)]
        else:
            source.even += 1
        source.offset, source.at = offset, now
        last, self._last = self._last, address
        other = self._sources.get(last) if last is not None and last != address else None
        if other is None or not other.even or not source.even or _apart(other.offset, offset) <= EVEN_US:
            return False
        self._turns += 1
        if self._turns < 2:  # one change may be a box that was moved; there and back is two
            return False
        first = now - self.twins_at >= TOLD_S
        assert last is not None
        low, high = sorted((f"{last[0]}:{last[1]}", f"{address[0]}:{address[1]}"))
        self.twins, self.twins_at = (low, high), now
        return first

    def only_from(self, allowed: Callable[[str], bool]) -> None:
        """Forget paths to addresses that are not allowed."""
        self._pulls = {a: at for a, at in self._pulls.items() if allowed(str(a[0]))}

    def path(self, tmst: int, now: float) -> Address | None:
        """Return where the answer to a frame goes: to the box that heard it, as far as addresses say which that is; None when none pulls."""
        if not self._pulls:
            return None
        newest = next(reversed(self._pulls))
        origin = self._origins.get(tmst)
        if origin is None or len(self._pulls) == 1:
            return newest
        alive = [a for a, at in self._pulls.items() if now - at < ALIVE_S or a == newest]
        if origin in alive:
            return origin
        return next((a for a in reversed(alive) if a[0] == origin[0]), newest)


class Forwarders:
    """All EUIs of a link; bounded."""

    def __init__(self) -> None:
        self._all: dict[bytes, Forwarder] = {}

    def get(self, eui: bytes) -> Forwarder | None:
        """Return what is known of an EUI."""
        return self._all.get(eui)

    def enter(self, eui: bytes, now: float) -> Forwarder | None:
        """Return a new entry; None when MAX_FORWARDERS others were heard within FORGET_S."""
        if len(self._all) >= MAX_FORWARDERS:
            oldest = min(self._all, key=lambda e: self._all[e].heard_at)
            if now - self._all[oldest].heard_at < FORGET_S:
                return None
            del self._all[oldest]
        made = self._all[eui] = Forwarder(now, eui.hex())
        return made

    def only(self, allowed: frozenset[str]) -> None:
        """Forget those that are not allowed any more."""
        self._all = {eui: f for eui, f in self._all.items() if eui.hex() in allowed}

    def __iter__(self) -> Iterator[tuple[bytes, Forwarder]]:
        return iter(self._all.items())

    def problems(self, link: str, now: float) -> Iterator[Problem]:
        """Say which EUIs stand on two boxes."""
        for eui, f in self._all.items():
            if f.twins is not None and now - f.twins_at < TOLD_S:
                yield Problem(
                    "receiver_twin",
                    f"link {link}: two receivers send under the EUI {eui.hex()}, from {f.twins[0]} and {f.twins[1]}",
                    "give each an EUI of its own (gateway_ID in its configuration); until then answers may leave from the wrong one",
                )


def _apart(a: int, b: int) -> int:
    away = (a - b) % _TURN
    return min(away, _TURN - away)

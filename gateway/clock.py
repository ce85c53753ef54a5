"""What time it is, for receive times, downlinks and presence; and when the machine's clock was set instead of running."""

from __future__ import annotations

import ctypes
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median_low
from typing import Protocol

import structlog

from gateway.core.witness import BUILT
from gateway.health import Problem

STEP_S = 2.0  # what NTP slews away (0.5 ms a second) never looks like this between two calls
NEAR_S = 120.0  # receivers no further apart than this agree: theirs is the same time, sooner or later set
SOLE_S = 60.0  # how long a receiver that nobody confirms must repeat a step
LIVE_S = 300.0  # a receiver that has said nothing for so long has no voice; concentrators send stat every 30 s
SILENT_S = 86_400.0  # for so long a silent receiver speaks against a step away from what it said last
TOLD_S = 7 * 86_400.0  # for so long health says that silent receivers said otherwise
MAX_RECEIVERS = 64
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMESYNCD = Path("/run/systemd/timesync/synchronized")

log = structlog.get_logger(__name__)


class Clock(Protocol):
    """now() is Unix seconds; heard() tells what time a receiver said it was. on_step: called with seconds when the clock was set.

    elapsed(): seconds since some moment, which run on whatever the clock is set to: for waits.

    received(): the time a receiver wrote on a frame when it may be believed, else None. problems(): what people must look at.
    is_set: someone who knows the time has set it, so that nodes which say otherwise are the ones that are wrong. judges_alone: a simulation's, which no one is to doubt.
    is_kept: something that knows the time keeps it now: it is right, not only set by someone.
    """

    on_step: Callable[[float], None]

    def now(self) -> float: ...

    def elapsed(self) -> float: ...

    def heard(self, unix: float, receiver: str = "") -> None: ...

    def received(self, unix: float, receiver: str) -> float | None: ...

    def problems(self) -> Iterable[Problem]: ...

    @property
    def follows_receivers(self) -> bool: ...

    @property
    def is_set(self) -> bool: ...

    @property
    def is_kept(self) -> bool: ...

    @property
    def judges_alone(self) -> bool: ...


def _nobody(_seconds: float) -> None:
    """Nobody asked to be told."""


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read here; modes 0 changes nothing."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long), ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long), ("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long), ("rest", ctypes.c_byte * 256),
    )  # fmt: skip


def synchronised() -> bool:
    """True when a time service keeps the machine's clock, as the kernel says, or systemd-timesyncd where the kernel may not be asked.

    False when nothing says so, which is no proof: a clock may have been set by hand.
    """
    timex = _Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return TIMESYNCD.exists()
    return (
        state != TIME_ERROR and abs(timex.tv_sec - time.time()) < NEAR_S
    )  # else this process sees another time than the kernel


class HostClock:
    """The machine's own clock, held against the monotonic one: a difference of STEP_S or more between two calls is a step.

    Standing still (a suspended machine) looks like a step forward, and is one for everybody who waits for frames.
    """

    follows_receivers = False
    judges_alone = False

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        synchronised: Callable[[], bool] = synchronised,
    ) -> None:
        self.on_step = _nobody
        self.steps = 0
        self._wall, self._monotonic, self._synchronised = wall, monotonic, synchronised
        self._before = wall() - monotonic()

    def now(self) -> float:
        wall = self._wall()
        offset = wall - self._monotonic()
        moved, self._before = offset - self._before, offset
        if abs(moved) >= STEP_S:
            self.steps += 1
            self.on_step(moved)
        return wall

    def elapsed(self) -> float:
        return self._monotonic()

    def heard(self, unix: float, receiver: str = "") -> None:
        """The machine knows better."""

    def received(self, unix: float, receiver: str) -> float | None:
        return None

    @property
    def is_set(self) -> bool:
        """True when a time service keeps the clock, or it was set while we ran."""
        return self.steps > 0 or self._synchronised()

    @property
    def is_kept(self) -> bool:
        """True while a time service keeps the clock."""
        return self._synchronised()

    def problems(self) -> Iterable[Problem]:
        return ()


@dataclass(slots=True)
class _Said:
    """What a receiver said last. Times of the monotonic clock; offset: what to add to it for the receiver's Unix time.

    since: from when on it has said so. odd: it was named in the log.
    """

    offset: float
    since: float
    seen: float
    odd: bool = False


class ForwarderClock:
    """The time that most receivers say (stat, rxpk), for a box without a clock of its own. Runs on the monotonic clock between two words.

    Small differences are followed at once. A step of more than NEAR_S, in either direction, is believed when most of the receivers
    heard lately agree on it (where two disagree the machine's own clock decides, if it was ever set), or when the only one there is
    repeats it for SOLE_S and the machine's own clock, where it may be believed, does not contradict. A receiver that said the time in force
    and fell silent counts against a step for SILENT_S: who was odd among others is no authority because they are off. A time before BUILT is
    never believed: the receiver was not set since it was switched on. Until the first word: the machine's clock.
    """

    follows_receivers = True
    judges_alone = False

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        synchronised: Callable[[], bool] = synchronised,
    ) -> None:
        self.on_step = _nobody
        self._wall, self._monotonic, self._synchronised = wall, monotonic, synchronised
        self._offset = wall() - monotonic()
        self._told = False
        self._said: OrderedDict[str, _Said] = OrderedDict()

    def now(self) -> float:
        return self._offset + self._monotonic()

    def elapsed(self) -> float:
        return self._monotonic()

    def heard(self, unix: float, receiver: str = "") -> None:
        now = self._monotonic()
        offset = unix - now
        said = self._said.pop(receiver, None)
        if said is None or abs(offset - said.offset) > NEAR_S or now - said.seen > LIVE_S:
            said = _Said(offset, now, now, said is not None and said.odd)
        said.offset, said.seen = offset, now
        self._said[receiver] = said
        if len(self._said) > MAX_RECEIVERS:
            self._said.popitem(last=False)
        self._follow(now)
        self._name(receiver, said)

    def received(self, unix: float, receiver: str) -> float | None:
        """Return `unix`, which a receiver wrote on a frame just now, when its time is the one in force."""
        self.heard(unix, receiver)
        return unix if abs(unix - self.now()) <= NEAR_S else None

    @property
    def is_set(self) -> bool:
        """True when receivers have told the time."""
        return self._told

    @property
    def is_kept(self) -> bool:
        """True once receivers have reported the time: most of them keep it."""
        return self._told

    def problems(self) -> Iterable[Problem]:
        now = self._monotonic()
        live = self._live(now)
        for receiver, said in live:
            apart = said.offset - self._offset
            if abs(apart) > NEAR_S:
                yield Problem(
                    "receiver_time",
                    f"receiver {receiver} says that it is {_date(now + said.offset)}, {abs(apart):.0f} s "
                    f"{'ahead of' if apart > 0 else 'behind'} the time in force; it is not followed",
                    "look at its GPS or its time service; where the others, silent by now, were wrong: restart the gateway",
                )
        gone = {
            r: s for r, s in self._said.items()
            if LIVE_S < now - s.seen <= TOLD_S and not s.odd and abs(s.offset - self._offset) > NEAR_S
        }  # fmt: skip
        if len(live) == 1 and gone:
            first = next(iter(gone.values()))
            yield Problem(
                "receiver_time",
                f"receiver {live[0][0]} alone tells the time; {', '.join(sorted(gone))}, silent for {(now - first.seen) / 3600:.0f} h, "
                f"said {abs(first.offset - self._offset):.0f} s {'more' if first.offset > self._offset else 'less'}",
                "compare the time with a clock, and look why the others are silent",
            )

    def _live(self, now: float) -> list[tuple[str, _Said]]:
        return [(receiver, said) for receiver, said in self._said.items() if now - said.seen <= LIVE_S]

    def _silent(self, now: float) -> list[_Said]:
        """Receivers that said the time in force, and nothing since: they speak against a step away from it."""
        return [
            said for said in self._said.values()
            if LIVE_S < now - said.seen <= SILENT_S and abs(said.offset - self._offset) <= NEAR_S and now + said.offset >= BUILT
        ]  # fmt: skip

    def _follow(self, now: float) -> None:
        live = [said for _, said in self._live(now) if now + said.offset >= BUILT]  # before that no one has set it
        if not live:
            return
        heard = live + self._silent(now)
        groups = [[s for s in heard if abs(s.offset - said.offset) <= NEAR_S] for said in heard]
        most = max(groups, key=lambda group: (len(group), -abs(group[0].offset - self._offset)))
        voices = len(heard)
        size = len(most)
        if 2 * size == voices and self._wall() >= BUILT:  # two against each other, and a machine that knows the time
            own = self._wall() - now
            most = min(groups, key=lambda group: (-len(group), abs(group[0].offset - own)))
            size += abs(most[0].offset - own) <= NEAR_S
        sole = voices == 1 and (
            self.now() < BUILT or now - most[0].since >= SOLE_S and not self._host_objects(most[0].offset, now)
        )
        speaking = [s.offset for s in most if now - s.seen <= LIVE_S]
        if speaking and (sole or voices > 1 and 2 * size > voices):
            self._move(median_low(speaking))
            return
        near = [s.offset for s in live if abs(s.offset - self._offset) <= NEAR_S]
        if near:
            self._move(median_low(near))

    def _host_objects(self, offset: float, now: float) -> bool:
        """True when the machine's own clock confirms the time in force against a step that only one receiver knows of.

        An unsynchronised one counts against a step back only: a clock that was not set is behind, so ahead of it may be the truth.
        """
        own = self._wall() - now
        if self._wall() < BUILT or abs(offset - own) <= NEAR_S or abs(offset - self._offset) <= NEAR_S:
            return False
        return self._synchronised() or offset < self._offset and self._told and abs(own - self._offset) <= NEAR_S

    def _move(self, offset: float) -> None:
        moved, self._offset, self._told = offset - self._offset, offset, True
        if abs(moved) >= STEP_S:
            self.on_step(moved)

    def _name(self, receiver: str, said: _Said) -> None:
        apart = said.offset - self._offset
        odd = abs(apart) > NEAR_S
        if odd and not said.odd:
            log.warning(
                "receiver_time", receiver=receiver, seconds=round(apart), next="look at its GPS or its time service"
            )
        said.odd = odd


class LockstepClock:
    """For simulations, whose time is what the only receiver says and stands still between two messages: the newest stat or rxpk.

    Nothing is judged here: a simulated day passes in seconds.
    """

    follows_receivers = True
    judges_alone = True

    def __init__(self) -> None:
        self.on_step = _nobody
        self._newest: float | None = None

    def now(self) -> float:
        return time.time() if self._newest is None else self._newest

    def elapsed(self) -> float:
        """Simulated seconds: a wait of a simulation passes in its time."""
        return self.now()

    def heard(self, unix: float, receiver: str = "") -> None:
        if self._newest is None or unix > self._newest:
            self._newest = unix

    def received(self, unix: float, receiver: str) -> float | None:
        self.heard(unix, receiver)
        return unix

    @property
    def is_set(self) -> bool:
        return True

    @property
    def is_kept(self) -> bool:
        return True

    def problems(self) -> Iterable[Problem]:
        return ()


def clock_of(kind: str) -> Clock:
    """Return the clock that the configuration names: host, forwarder or lockstep."""
    return {"host": HostClock, "forwarder": ForwarderClock, "lockstep": LockstepClock}[kind]()


def _date(unix: float) -> str:
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{unix:.0f}"

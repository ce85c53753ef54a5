"""What a stolen node sends: authentic frames that cost the gateway as much as they may, and frames that are refused, a kind each.

Its key is real, so nothing here fails a tag unless it is meant to. Bit streams are written by hand: 240 rows of 16 columns are some 50 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import cbor2
from motewire import codes, frame

from host_sim.load import Mote

ROWS, COLUMNS = 240, 16
EVENT_ID, LEVEL_ID = 17, 1  # occupied, temperature; further instances are 256 apart


def _bits(text: str) -> bytes:
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def flat(rows: int, columns: int, events: bool = False) -> bytes:
    """Return a bit stream of columns without a gap that stand at 0: no gap, first value 0, no width. events: with a column of times."""
    return _bits(("1111" if events else "") + ("0" + "1" + "000000" + "1111") * columns)


class Stolen:
    """A node in wrong hands. next() gives its frames in turn, each of another kind of cost."""

    def __init__(self, mote: Mote) -> None:
        self.mote = mote
        self._n = 0
        self._fresh = 1
        self._makers: tuple[Callable[[], bytes], ...] = (
            self.occurrences, self.levels, self.new_quantities, self.flapping_alarm, self.long_status, self.odd_alarm,
        )  # fmt: skip

    def next(self) -> bytes:
        """Return the next frame, sealed."""
        self._n += 1
        return self._makers[self._n % len(self._makers)]()

    def occurrences(self) -> bytes:
        """A report of 240 rows by 16 columns that are events: 3,840 occurrences in 96 bytes."""
        ids = [EVENT_ID + 256 * i for i in range(COLUMNS)]
        return self._report([ids, int(time.time()) - 10, 0, ROWS, flat(ROWS, COLUMNS, events=True)])

    def levels(self) -> bytes:
        """A report of 240 rows by 16 columns: 3,840 readings."""
        ids = [LEVEL_ID + 256 * i for i in range(COLUMNS)]
        return self._report([ids, int(time.time()) - ROWS, 1, ROWS, flat(ROWS, COLUMNS)])

    def new_quantities(self) -> bytes:
        """A report of 16 quantities that it never named before."""
        ids = list(range(self._fresh, self._fresh + COLUMNS))
        self._fresh = self._fresh % 60_000 + COLUMNS
        return self._report([ids, int(time.time()), 60, [1] * COLUMNS])

    def flapping_alarm(self) -> bytes:
        """An alarm that comes and goes."""
        code = codes.ALARM_ABOVE if self._n % 2 else codes.ALARM_CLEARED
        return self.mote.alarm(code, int(time.time()), 6, 151 + self._n % 100, 150, long=True)

    def odd_alarm(self) -> bytes:
        """An alarm of a quantity that it never named before."""
        self._fresh = self._fresh % 60_000 + 1
        return self.mote.alarm(codes.ALARM_ABOVE, int(time.time()), self._fresh, 5, 1, long=True)

    def long_status(self) -> bytes:
        """A status of every key there is and of fifty without a name, with boots that rise."""
        items = {key: self._n for key in range(1, 26) if key != codes.STATUS_SCHEMA}
        items |= {100 + key: "x" * 8 for key in range(50)}
        return self.mote.seal(frame.STATUS, cbor2.dumps(items, canonical=True), long=True)

    def _report(self, body: list[object]) -> bytes:
        return self.mote.seal(frame.REPORT, cbor2.dumps(body, canonical=True), long=True)


def refused(motes: list[Mote], count: int) -> Mapping[str, list[bytes]]:
    """Return `count` frames of each kind that a gateway knowing these motes refuses, by the reason that is expected.

    replayed: are to be sent once before. The motes take turns, so that no frame is refused for its node's rate.
    """

    def turn(n: int) -> Mote:
        return motes[n % len(motes)]

    now = int(time.time())
    foreign = [Mote(60_000 + i) for i in range(50)]
    forged = [Mote(m.id, bytes(16)) for m in motes]
    later = [Mote(m.id, m.key, epoch=m.epoch + 2) for m in motes]

    def report(m: Mote, n: int) -> bytes:
        return m.report(now - 3600 + n % 3000, [[3, 5, 5, 231, 631, 121]])

    def version(data: bytes) -> bytes:
        return bytes((data[0] ^ 0xC0,)) + data[1:]  # the two highest bits (motewire/frame.py)

    return {
        "replayed": [report(turn(n), n) for n in range(count)],
        "malformed": [turn(n).seal(frame.REPORT, b"\x9f\xff" + bytes(30)) for n in range(count)],
        "bad_tag": [report(forged[n % len(forged)], n) for n in range(count)],
        "unknown_node": [report(foreign[n % len(foreign)], n) for n in range(count)],
        "wrong_epoch": [report(later[n % len(later)], n) for n in range(count)],
        "bad_version": [version(report(turn(n), n)) for n in range(count)],
        "too_short": [report(turn(n), n)[: 3 + n % 5] for n in range(count)],
    }

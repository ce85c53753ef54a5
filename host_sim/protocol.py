"""The line between a node's VM and the world.

VM -> world, one text line per message, `<op> <now_us> ...`:

| op | rest | meaning |
|---|---|---|
| H | heap_used heap_free | stand-ins are up, boot.py comes next |
| B | | still here; nothing before now will come from this VM |
| Q | json | before R or Z: what else the RTC domain keeps ("ulp": slow memory and timer, "hold": latched pads) |
| A | target listening | blocked: may I run to target? (the only op that is answered) |
| T | freq sf bw cr preamble sync dBm hex | transmission starts now |
| L, U | freq sf bw cr preamble sync / | radio listens from now / no longer |
| O, W, C | sid host port / sid hex / sid | socket opens, writes, closes |
| N, M, K | json / hex / off_us | NVS committed, RTC memory written, RTC set |
| F | erases | blocks of the flash image erased in this boot; once a minute when changed, and before the last word |
| I | kind | a fault of the hardware was met |
| D | depth | truth probe: frames in the outbox, when that changed |
| P | t2000 id:value,... | truth probe: this row is persisted |
| G, Y | t2000 id:value,... / 0 | truth probe: this row was taken, and is persisted with the next Y; a power cut before it takes it |
| R, Z, X, E | kind / ms [us] / 0 / text | last word: reset, deep sleep (us: the ULP would end it then), power gone, firmware ended at the REPL |

World -> VM, only after A: <grant_us int64, length uint32>, then deliveries <kind uint8, t_us int64, length uint16> data.
The boot file (JSON): lib, chips, standins (at, size: instead of the files of both), rom, image or folder, flash (bytes), files {name: host path} for a fresh flash, now (us),
heap (bytes free for the firmware), rtc_off (us), cause, rtc (hex), kept (of Q), nvs, cut_at (us), seed, python_us {module: what a start takes when it is imported}, world (series file), values {quantity: fixed value}, hw (see vm/sim_hw.py), fd, probe, script, argv.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

LOCK, PACKET, BROKEN, CONNECTED, DATA, CLOSED = range(1, 7)
EPOCH_2000 = 946684800
NEVER = 1 << 60
FINAL = frozenset("RZXE")
PWRON, HARD, WDT, DEEPSLEEP, SOFT = range(1, 6)


def slept_us(text: str, rate: float = 1.0) -> int:
    """How long the deep sleep of a Z lasts (us); rate: of the node's slow clock to time, which its timer counts on and its ULP does not."""
    ms, *woken = map(int, text.split())
    return min(round(ms * 1000 / rate), *woken) if woken else round(ms * 1000 / rate)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Something that reaches a node at virtual time t (us)."""

    t: int
    kind: int
    data: bytes = b""

    @classmethod
    def lock(cls, t: int, until: int) -> Delivery:
        return cls(t, LOCK, struct.pack("<q", until))

    @classmethod
    def packet(cls, t: int, rssi: int, snr_quarters: int, payload: bytes) -> Delivery:
        return cls(t, PACKET, struct.pack("<hh", rssi, snr_quarters) + payload)


def answer(grant: int, deliveries: list[Delivery]) -> bytes:
    """The bytes that let a VM run to `grant` and hand it its deliveries."""
    body = b"".join(struct.pack("<BqH", d.kind, d.t, len(d.data)) + d.data for d in deliveries)
    return struct.pack("<qI", grant, len(body)) + body

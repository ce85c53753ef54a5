"""Runs inside the MicroPython VM for `citymote bench vm`: one fixed batch, each job as often as the command line says.

argv: folder of the firmware, then job=times ... ; prints the size of what each job wrote, so that a changed result is seen.
"""

import sys

sys.path.insert(0, sys.argv[1])

from cryptolib import aes  # pyright: ignore[reportMissingImports]
from motewire import frame
from motewire.batch import Batch
from motewire.ccm import Ccm

ROWS = 24
IDS = (4, 5, 6, 1, 2, 3)
T0 = 820540800  # device seconds of 2026-01-01


def values_at(i):
    """A row of an ordinary day: slow temperature, humidity and pressure, restless particles. It never changes."""
    noise = (i * i * 7 + i * 13) % 11
    return (4 + noise % 5, 8 + noise, 12 + noise * 3 // 2, 231 - i // 3, 631 + i // 2, 121 - i // 5)


rows = [values_at(i) for i in range(ROWS)]
batch = Batch(IDS, 3, 60, ROWS)
buf = bytearray(1100)
nonce = bytearray(frame.NONCE)
frame.put_nonce(nonce, frame.UP, 0x107, 0, 0x12345)
ccm = Ccm(aes(bytes(range(16)), 1))
head = frame.put_header(buf, frame.REPORT, 0x107, 0x12345, 0, False)


def fill():
    """Append 24 rows of 6 columns; returns the row count."""
    batch.clear()
    t = T0
    for row in rows:
        batch.append(t, row, 63)
        t += 60
    return batch.rows


def packed():
    """Encode the packed report; returns its bytes."""
    return batch.encode(buf, head, 1000) - head


def plain():
    """Encode the plain report; returns its bytes."""
    return batch.encode_plain(buf, head, 1000) - head


def seal():
    """Seal a payload of the packed report's size; returns the frame's bytes."""
    return ccm.seal(buf, head, head + payload, nonce)


def opens():
    """Seal and open again: `open` wants a fitting tag."""
    return ccm.open(buf, head, ccm.seal(buf, head, head + payload, nonce), nonce) - head


JOBS = {"fill": fill, "packed": packed, "plain": plain, "seal": seal, "seal_and_open": opens}
fill()
payload = packed()
for job in JOBS:
    JOBS[job]()
for argument in sys.argv[2:]:
    job, times = argument.split("=")
    run = JOBS[job]
    size = 0
    for _ in range(int(times)):
        size = run()
    print(job, size)

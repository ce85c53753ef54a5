"""What the measuring path may cost: no heap at all. Common subset; on the 32-bit VM a number at 2**30 is heap too.

`run(cases, aes)` yields a line for each case that allocates. A case: [name, ids, schema, interval_s, stamp, times, rows].
"""

import micropython
from motewire.batch import Batch
from motewire.ccm import Ccm
from motewire.frame import REPORT, UP, put_header, put_nonce


class Node:
    """append, encode, header, nonce and seal with everything made beforehand, as mote.sealer does it."""

    def __init__(self, case, aes):
        _, ids, schema, interval_s, self.stamp, self.times, rows = case
        self.batch = Batch(ids, schema, interval_s, 240)
        self.buf, self.nonce, self.ccm = bytearray(4000), bytearray(13), Ccm(aes)
        self.rows = [[v or 0 for v in row] for row in rows]
        self.present = [sum([1 << c for c in range(len(row)) if row[c] is not None]) for row in rows]
        self.frame = 0

    def work(self):
        """One whole frame."""
        batch, buf = self.batch, self.buf
        batch.clear()
        for i in range(len(self.times)):
            batch.append(self.times[i], self.rows[i], self.present[i])
        at = put_header(buf, REPORT, 263, 4711, 2, True)
        put_nonce(self.nonce, UP, 263, 6, 4711)
        end = batch.encode(buf, at, 3990, None, self.stamp, self.times[-1] + 5)
        self.frame = self.ccm.seal(buf, at, end, self.nonce)


def run(cases, aes):
    """Yield the name of every case that allocates, with what was allocated where the VM says so."""
    block = aes(bytes(16))
    for case in cases:
        node = Node(case, block)
        node.work()
        first = bytes(node.buf[: node.frame])
        micropython.heap_lock()
        try:
            node.work()
            wrong = None
        except MemoryError as e:
            wrong = e
        micropython.heap_unlock()
        if wrong is not None:
            yield case[0] + ": " + str(wrong)
        elif bytes(node.buf[: node.frame]) != first:
            yield case[0] + ": another frame the second time"

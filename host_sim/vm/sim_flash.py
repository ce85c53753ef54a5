"""The node's flash chip: an image file of 4 KiB blocks, as a littlefs block device that takes NOR flash time.

Times are typical for a W25Q32 (page program 0.4 ms per 256 B, sector erase 45 ms, read at 20 MB/s). `erases` and
`writes` count for wear budgets; the world is told of erases once a minute, and before the last word of a boot.
"""

import sim_clock as _c

BLOCK = 4096


class Flash:
    def __init__(self, file, size):
        self._file = file
        self._blocks = size // BLOCK
        self.erases = 0
        self.writes = 0
        self._told = 0

    def tell(self, send):
        """Report the erases of this boot by send(op, rest) if there were new ones; True if so."""
        if self.erases == self._told:
            return False
        self._told = self.erases
        send("F", self.erases)
        return True

    def readblocks(self, block, buf, off=0):
        self._file.seek(block * BLOCK + off)
        self._file.readinto(buf)
        _c.now += 2 + len(buf) // 20

    def _put(self, at, data, us):
        """Put data in place, which takes us; when the power goes meanwhile, as much of it as there was time for."""
        left = max(0, _c.cut_at - _c.now)  # a read may have gone past it
        self._file.seek(at)
        if left <= us:
            self._file.write(data[: len(data) * left // us])
        _c.spend(us)
        self._file.write(data)

    def writeblocks(self, block, buf, off=0):
        self.writes += 1
        self._put(block * BLOCK + off, buf, 20 + len(buf) * 400 // 256)

    def ioctl(self, op, arg):
        if op == 4:
            return self._blocks
        if op == 5:
            return BLOCK
        if op == 6:
            self.erases += 1
            self._put(arg * BLOCK, ERASED, 45000)
        return 0


ERASED = b"\xff" * BLOCK

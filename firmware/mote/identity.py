"""Who this node is to the gateway: key and key epoch, from NVS with a copy on flash (the port may erase NVS), and the change to the next.

The file is where a change happens: replacing it in one step makes the new key this node's. It then also names the key before, so
that NVS, which cannot follow in the same step, is taken along at once or at the next boot: the key, then the counters (they begin
again under the new mark), then the epoch. Only while NVS still holds the epoch before does a boot begin counters again, and
until it no longer does nothing is sealed: no (key, counter) pair can seal twice.
"""

import os
from binascii import crc32
from struct import pack, unpack
from mote.errors import NeedsKey
from mote.files import remove, write_whole
from mote.twice import Twice

_KEY = 16


class Identity:
    """`key` (16 bytes), `epoch`, `mark` (4 bytes that name this key's life); `pending`: (key, epoch) to change to, or None.

    Raises NeedsKey when both copies are gone, or when NVS holds an older epoch than the file (a key that was given up).
    """

    def __init__(self, nvs, path="/identity"):
        self._nvs, self._path = nvs, path
        key = nvs.get_blob("key", _KEY)
        epoch = nvs.get("epoch")
        kept, before = self._read(path)
        if kept is not None and before is not None and self._behind(key, epoch, kept, before):
            self._follow(kept)
        elif key is None or epoch is None:
            if kept is None:
                raise NeedsKey("no key")
            nvs.put_blob("key", kept[0])
            nvs.put("epoch", kept[1])
        elif kept is not None and epoch < kept[1]:
            raise NeedsKey("an older key")
        else:
            if kept != (key, epoch) or before is not None:
                self._write(path, key, epoch)
            kept = key, epoch
        self._take(kept)
        self.pending = self._next()

    def _take(self, kept):
        self.key, self.epoch = kept
        self.mark = _mark(self.key, self.epoch)

    @staticmethod
    def _behind(key, epoch, kept, before):
        """True while NVS holds the key before, or already the key but not the epoch of the file."""
        if key is None or epoch is None or epoch >= kept[1]:
            return False
        return _mark(key, epoch) == before or key == kept[0]

    def _follow(self, kept):
        nvs = self._nvs
        folder = self._path[: self._path.rfind("/")]
        mark = _mark(kept[0], kept[1])
        nvs.put_blob("key", kept[0])
        Twice(nvs, "ceiling", folder + "/ceiling.bin", mark).put(0)
        Twice(nvs, "down", folder + "/down.bin", mark).put(0)
        nvs.put("epoch", kept[1])
        self._write(self._path, kept[0], kept[1])
        remove(self._path + ".next")

    def offer(self, key, epoch):
        """Keep the next key (twice) if its epoch is newer than this one's and any pending one's; True when kept. Raises OSError."""
        if epoch <= self.epoch or self.pending is not None and epoch <= self.pending[1]:
            return False
        body = key + pack(">I", epoch)
        body += pack(">I", crc32(body))
        self._write(self._path + ".next", key, epoch)
        self._nvs.put_blob("next", body)
        self.pending = key, epoch
        return True

    def change(self):
        """Become the pending key. Nothing sealed with the old one may be waiting. Raises OSError: then a reset must follow."""
        if self.pending is None:
            raise ValueError
        key, epoch = after = self.pending
        body = key + pack(">I", epoch) + self.mark
        write_whole(self._path, body + pack(">I", crc32(body)))
        self._follow(after)
        self._take(after)
        self.pending = None

    def _next(self):
        kept = self._read(self._path + ".next")[0]
        if kept is None:
            kept = _checked(self._nvs.get_blob("next", 24))[0]
        return kept if kept is not None and kept[1] > self.epoch else None

    @staticmethod
    def _write(path, key, epoch):
        body = key + pack(">I", epoch)
        write_whole(path, body + pack(">I", crc32(body)))

    @staticmethod
    def _read(path):
        try:
            with open(path, "rb") as f:
                return _checked(f.read(32))
        except OSError:
            return None, None


def is_provisioned(nvs, path="/identity"):
    """True when this board has been given a key, be it that only one copy is left."""
    if nvs.get_blob("key", _KEY) is not None:
        return True
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _mark(key, epoch):
    return pack(">I", crc32(key + pack(">I", epoch)))


def _checked(data):
    """Return ((key, epoch), mark of the key before or None) of a stored record; (None, None) when it is not whole."""
    if data is None:
        return None, None
    n = len(data)
    if n not in (24, 28) or crc32(data[: n - 4]) != unpack(">I", data[n - 4 :])[0]:
        return None, None
    return (bytes(data[:_KEY]), unpack(">I", data[_KEY:20])[0]), bytes(data[20:24]) if n == 28 else None

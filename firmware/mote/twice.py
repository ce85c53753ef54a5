"""A number that must not be lost, kept in NVS and in a file; the larger copy counts.

Two copies because the esp32 port erases all of NVS when it finds no free page or another NVS version. The file is bound to `mark`
(a fingerprint of key and epoch), so that a copy of another key's life is not believed.
"""

import os
from binascii import crc32
from struct import pack, unpack


class Twice:
    """get() and put() of one int, 0..2**31-1. nvs: get(key) -> int or None, put(key, int) which commits."""

    def __init__(self, nvs, key, path, mark):
        self._nvs, self._key, self._path, self._mark = nvs, key, path, mark
        self.doubt = False  # one copy was missing or they differed

    def get(self):
        """Return the larger copy, or None when both are gone. Sets `doubt` unless both were there and equal."""
        a = self._nvs.get(self._key)
        b = self._read()
        self.doubt = a is None or b is None or a != b
        if a is None or b is not None and b > a:
            return b
        return a

    def put(self, value):
        """Store both copies; on return neither can be lost to a power cut. Raises OSError when a copy cannot be written."""
        self._nvs.put(self._key, value)
        body = pack(">4sI", self._mark, value)
        new = self._path + ".new"
        with open(new, "wb") as f:
            f.write(body + pack(">I", crc32(body)))
        os.rename(new, self._path)

    def put_fast(self, value):
        """Store the NVS copy only (a log-structured store: cheap in wear); the file follows with the next put()."""
        self._nvs.put(self._key, value)

    def _read(self):
        try:
            with open(self._path, "rb") as f:
                data = f.read(12)
        except OSError:
            return None
        if len(data) != 12 or crc32(data[:8]) != unpack(">I", data[8:])[0] or data[:4] != self._mark:
            return None
        return unpack(">I", data[4:8])[0]

"""Who this node is to the gateway: key and key epoch, from NVS with a copy on flash (the port may erase NVS)."""

from binascii import crc32
from struct import pack, unpack
from mote.errors import NeedsKey
from mote.files import write_whole

_KEY = 16


class Identity:
    """`key` (16 bytes), `epoch`, `mark` (4 bytes that name this key's life). Raises NeedsKey when both copies are gone."""

    def __init__(self, nvs, path="/identity"):
        key = nvs.get_blob("key", _KEY)
        epoch = nvs.get("epoch")
        kept = self._read(path)
        if key is None or epoch is None:
            if kept is None:
                raise NeedsKey("no key")
            key, epoch = kept
            nvs.put_blob("key", key)
            nvs.put("epoch", epoch)
        elif kept != (key, epoch):
            body = key + pack(">I", epoch)
            write_whole(path, body + pack(">I", crc32(body)))
        self.key, self.epoch = key, epoch
        self.mark = pack(">I", crc32(key + pack(">I", epoch)))

    @staticmethod
    def _read(path):
        try:
            with open(path, "rb") as f:
                data = f.read(24)
        except OSError:
            return None
        if len(data) != 24 or crc32(data[:20]) != unpack(">I", data[20:])[0]:
            return None
        return data[:16], unpack(">I", data[16:20])[0]

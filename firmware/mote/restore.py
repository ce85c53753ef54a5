"""What is left when there is no usable configuration, and the way back to the factory's. Loaded for that only."""

import json

from mote import borrow
from mote.config import FACTORY, GOOD, PATH, Config
from mote.errors import BadConfig
from mote.files import read_json, remove, write_whole
from mote.hal.rtc import CRASHES, ENTERED, SHED, TRIES
from mote.pieces import PIECES
from mote.settings import repaired

_CALIBRATION = ("/bay.json",)


def rescue(paths=(PATH, GOOD, FACTORY)):
    """Return (what a safe node needs: node, link and its options; the file it is from) out of the first file that has it. Raises BadConfig."""
    for path in paths:
        raw = read_json(path) or {}
        part = {"profile": "none"}
        for key in ("node", "name", "link", "sf", "channels_khz", "wifi", "version", "refused", "repl"):
            if key in raw and not borrow("motewire.config", "wrong", key, raw[key]):
                part[key] = raw[key]
        if "node" in part:
            return repaired(part), path
    raise BadConfig("no configuration names this node")


class Rescued(Config):
    """For a safe node, when there is no usable file: what is left of one. A change is judged with all that the file holds."""

    def _load(self):
        self.values, self.source = rescue()
        self.fallback = True


def factory_reset(rtc, nvs):
    """Configuration back to the factory's, calibration and what RTC memory says of crashes gone. True when there was a factory
    configuration. A restart must follow.

    Key, epoch, counters, registers, what waits in outbox and staging, and the record of time on air stay. Raises OSError.
    """
    raw = read_json(FACTORY) or read_json(GOOD)
    if raw is not None:
        now = read_json(PATH) or {}
        top = 0
        for kept in (now, read_json(GOOD) or {}, raw):
            for key in ("version", "refused"):
                v = kept.get(key)
                if isinstance(v, int):
                    top = max(top, v)
        raw["version"] = top + 1
        raw.pop("refused", None)
        write_whole(PATH, json.dumps(raw))
    for path in _CALIBRATION:
        remove(path)
    remove(PIECES)
    for at in (CRASHES, ENTERED, SHED, TRIES):
        rtc.buf[at] = 0
    rtc.save()
    for key in ("ladder", "tries"):
        if nvs.get(key):
            nvs.put(key, 0)
    return raw is not None

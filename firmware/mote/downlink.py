"""What the gateway says: authenticated, never twice, each key handled or left alone.

The counter floor is raised in RAM for every downlink and stored (twice) before one is acted upon that does more than acknowledge. An ack
states what will be true for ever, so that replaying one after a reset does no harm and costs no flash write.
"""

from mote import log
from mote.errors import BadConfig
from mote.sealer import Foreign
from motewire import messages
from motewire.codes import DOWN_CONFIG, DOWN_MISSING, DOWN_NEXT, DOWN_REKEY, DOWN_SINCE, DOWN_TIME
from motewire.errors import Malformed, WireError

_ACK_KEYS = (DOWN_NEXT, DOWN_MISSING, DOWN_SINCE)
_DONE_KEYS = (DOWN_TIME, DOWN_CONFIG, DOWN_REKEY)


class Downlink:
    """handle() one received frame.

    sealer: open(frame, floor). floor: mote.twice.Twice of the lowest counter not yet seen. on_ack(Ack), on_time(unix s),
    on_config({key: value}), on_rekey([epoch, key]): what to do. refused: {reason: count}; unknown: payload keys nobody knows.
    """

    def __init__(self, sealer, floor, on_ack, on_time, on_config, on_rekey):
        self._sealer = sealer
        self.restart(floor)
        self._on_rekey = on_rekey
        self._on_ack, self._on_time, self._on_config = on_ack, on_time, on_config
        self.refused = {}
        self.unknown = 0
        self.heard = 0
        self.rssi = self.snr = None

    def restart(self, floor):
        """Count downlinks by this floor from now on: another key's."""
        self._store = floor
        self._floor = floor.get() or 0

    def save(self, put):
        """Tell put(int) what load() needs after a deep sleep."""
        put(self._floor)

    def load(self, get):
        """Go on after a deep sleep."""
        self._floor = max(self._floor, get())

    def _refuse(self, reason):
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def handle(self, frame, rssi=None, snr=None):
        """Take a frame (bytearray, decrypted in place); True when it was ours and authentic. Raises OSError (flash)."""
        try:
            counter, at, end = self._sealer.open(frame, self._floor)
        except Foreign:
            self._refuse(Foreign.reason)
            return False
        except WireError as e:
            self._refuse(e.reason)
            log.warning("downlink refused: %s", e.reason)
            return False
        self.heard += 1
        self.rssi, self.snr = rssi, snr
        try:
            payload = messages.read(frame, at, end)
            if not isinstance(payload, dict):
                raise Malformed
            ack = messages.Ack(payload) if DOWN_NEXT in payload else None
        except WireError as e:
            self._raise_floor(counter + 1, True)
            self._refuse(e.reason)
            return True  # authentic: whoever wrote it speaks a later dialect
        plain = True
        for key in payload:
            if key not in _ACK_KEYS:
                plain = False
        self._raise_floor(counter + 1, not plain)
        if DOWN_TIME in payload:
            self._do(DOWN_TIME, self._on_time, payload[DOWN_TIME], int)
        if DOWN_REKEY in payload:
            self._do(DOWN_REKEY, self._on_rekey, payload[DOWN_REKEY], list)
        if ack is not None:
            self._on_ack(ack)
        if DOWN_CONFIG in payload:
            self._do(DOWN_CONFIG, self._on_config, payload[DOWN_CONFIG], dict)
        for key in payload:
            if key not in _ACK_KEYS and key not in _DONE_KEYS:
                self.unknown += 1
                log.info("downlink key %s is not known here", key)
        return True

    def _do(self, key, action, value, kind):
        try:
            if not isinstance(value, kind):
                raise ValueError
            action(value)
        except (ValueError, BadConfig) as e:
            self._refuse("bad_value")
            log.warning("downlink key %d: %s", key, e)

    def _raise_floor(self, floor, store):
        self._floor = floor
        if store:
            self._store.put(floor)

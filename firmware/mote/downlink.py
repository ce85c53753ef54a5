"""What the gateway says: authenticated, never twice, each key of the right shape handled or left alone.

The counter floor is raised in RAM for every downlink and stored (twice) before one is acted upon that does more than acknowledge. An ack
states what will be true for ever, so that replaying one after a reset does no harm and costs no flash write.
"""

import gc

from micropython import const
from mote import borrow, let_go, log
from mote.errors import BadConfig
from mote.sealer import Foreign
from motewire.errors import WireError
from motewire.messages import Ack

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_DOWN_COMMAND = const(5)
_DOWN_CONFIG = const(4)
_DOWN_EXPIRY = const(10)
_DOWN_MISSING = const(2)
_DOWN_NEXT = const(1)
_DOWN_REKEY = const(9)
_DOWN_SINCE = const(8)
_DOWN_TIME = const(3)

_ACK_KEYS = (_DOWN_NEXT, _DOWN_MISSING, _DOWN_SINCE)
_DONE_KEYS = (_DOWN_TIME, _DOWN_CONFIG, _DOWN_REKEY, _DOWN_COMMAND, _DOWN_EXPIRY)


class Downlink:
    """handle() one received frame.

    sealer: open(frame, floor). floor: mote.twice.Twice of the lowest counter not yet seen. on_ack(Ack), on_time(unix s),
    on_config({key: value}), on_rekey([epoch, key]), on_command([id, name, ...], expiry or None): what to do with a value of the
    right shape. refused: {reason: count}; unknown: payload keys nobody knows.
    """

    def __init__(self, sealer, floor, on_ack, on_time, on_config, on_rekey, on_command):
        self._sealer = sealer
        self.restart(floor)
        self._on_rekey, self._on_command = on_rekey, on_command
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
        wrong = ()
        try:
            payload, wrong = borrow("motewire.downlink", "read_downlink", frame, at, end)
        except WireError as e:
            self._raise_floor(counter + 1, True)
            self._refuse(e.reason)
            return True  # authentic: whoever wrote it speaks a later dialect
        except MemoryError:  # its floor stays: sent again, it may find more room
            payload = None
        finally:
            let_go("motewire.shapes")
        if payload is None:
            gc.collect()
            self._refuse("memory")
            log.error("no memory for a downlink")
            return True
        plain = not wrong
        for key in payload:
            if key not in _ACK_KEYS:
                plain = False
        self._raise_floor(counter + 1, not plain)
        whole_ack = _DOWN_NEXT in payload
        for key in wrong:
            self._refuse("bad_value")
            log.warning("downlink key %d has no right shape", key)
            if key in _ACK_KEYS:
                whole_ack = False  # next without its bitmap would name as committed what is missing
        if _DOWN_TIME in payload:
            self._do(_DOWN_TIME, self._on_time, payload[_DOWN_TIME])
        if _DOWN_REKEY in payload:
            self._do(_DOWN_REKEY, self._on_rekey, payload[_DOWN_REKEY])
        if whole_ack:
            self._on_ack(Ack(payload))
        if _DOWN_CONFIG in payload:
            self._do(_DOWN_CONFIG, self._on_config, payload[_DOWN_CONFIG])
        if _DOWN_COMMAND in payload and _DOWN_EXPIRY not in wrong:
            self._on_command(payload[_DOWN_COMMAND], payload.get(_DOWN_EXPIRY))
        for key in payload:
            if key not in _ACK_KEYS and key not in _DONE_KEYS:
                self.unknown += 1
                log.info("downlink key %s is not known here", key)
        return True

    def _do(self, key, action, value):
        try:
            action(value)
        except (ValueError, BadConfig) as e:
            self._refuse("bad_value")
            log.warning("downlink key %d: %s", key, e)

    def _raise_floor(self, floor, store):
        self._floor = floor
        if store:
            self._store.put(floor)

"""`esp32`: NVS, PCNT, wake sources, die temperature."""

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link
import json

WAKEUP_ALL_LOW, WAKEUP_ANY_HIGH = False, True
_store = {}  # namespace -> {key: int or hex string}, as committed


class NVS:
    """Non-volatile storage: a set value is lost unless commit() follows it, and survives power loss once it has."""

    def __init__(self, namespace):
        if len(namespace) > 15:
            raise OSError(-4361)
        self._ns = namespace
        self._new = {}

    def _put(self, key, value):
        if len(key) > 15:
            raise OSError(-4361)  # ESP_ERR_NVS_KEY_TOO_LONG
        self._new[key] = value

    def _get(self, key, kind):
        value = self._new[key] if key in self._new else _store.get(self._ns, {}).get(key)
        if not isinstance(value, kind):
            raise OSError(-4354, "ESP_ERR_NVS_NOT_FOUND")
        return value

    def set_i32(self, key, value):
        if not -0x80000000 <= value <= 0x7FFFFFFF:
            raise OverflowError
        self._put(key, int(value))

    def get_i32(self, key):
        return self._get(key, int)

    def set_blob(self, key, value):
        self._put(key, bytes(value).hex())

    def get_blob(self, key, buffer):
        data = bytes.fromhex(self._get(key, str))
        if len(data) > len(buffer):
            raise OSError(-4364, "ESP_ERR_NVS_INVALID_LENGTH")
        buffer[: len(data)] = data
        return len(data)

    def erase_key(self, key):
        if key not in self._new and key not in _store.get(self._ns, {}):
            raise OSError(-4354, "ESP_ERR_NVS_NOT_FOUND")
        self._put(key, None)

    def commit(self):
        _c.spend(5000)  # an NVS entry write, sometimes a page move
        space = _store.setdefault(self._ns, {})
        for key, value in self._new.items():
            if value is None:
                space.pop(key, None)
            else:
                space[key] = value
        self._new = {}
        _link.send("N", json.dumps(_store))


class PCNT:
    """Pulse counter, 16 bit: reaching `max` or `min` resets it to zero. Dead in deep sleep and at reset, as on the chip."""

    INCREMENT, DECREMENT, IGNORE, HOLD, NORMAL, REVERSE = 1, 2, 0, 0, 0, 1
    IRQ_ZERO, IRQ_MIN, IRQ_MAX, IRQ_THRESHOLD0, IRQ_THRESHOLD1 = 1, 2, 4, 8, 16
    _units = {}

    def __new__(cls, id, **kwargs):
        unit = cls._units.get(id)
        if unit is None:
            unit = cls._units[id] = object.__new__(cls)
            unit.chip, unit._step, unit._base, unit._seen, unit._running = None, 0, 0, 0, False
            unit._min, unit._max = -32768, 32767
        return unit

    def __init__(self, id, **kwargs):
        if kwargs:
            self.init(**kwargs)

    def init(self, pin=None, rising=0, falling=0, min=-32768, max=32767, **kwargs):
        if not -32768 <= min < 0 and min != 0 or not 0 < max <= 32767:
            raise ValueError("limits")
        self._update()
        self._min, self._max = min, max
        self._step = (1 if rising == PCNT.INCREMENT else -1 if rising == PCNT.DECREMENT else 0) + (
            1 if falling == PCNT.INCREMENT else -1 if falling == PCNT.DECREMENT else 0
        )
        self.chip = _hw.pulse.get(getattr(pin, "id", pin))
        self._seen = self.chip.count() if self.chip else 0

    def _update(self):
        if self.chip is None:
            return
        count = int(self.chip.count())
        if self._running:
            v = self._base + (count - self._seen) * self._step
            self._base = v % self._max if v >= self._max else -(-v % -self._min) if self._min and v <= self._min else v
        self._seen = count

    def start(self):
        self._update()
        self._running = True

    def stop(self):
        self._update()
        self._running = False

    def value(self, value=None):
        self._update()
        old = self._base
        if value is not None:
            self._base = value
        return old

    def deinit(self):
        self.stop()


def wake_on_ext0(pin=None, level=0):
    pass


def wake_on_ext1(pins=None, level=0):
    pass


def gpio_deep_sleep_hold(enable):
    pass


def mcu_temperature():
    return 38


def raw_temperature():
    return 100


def idf_heap_info(capabilities):
    return ((131072, 65536, 32768, 32768),)


HEAP_DATA, HEAP_EXEC = 4, 1

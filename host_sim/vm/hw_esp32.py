"""`esp32`: NVS, PCNT, wake sources, die temperature."""

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link
import json
import struct
import sys

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


def romfs_partition():
    """The class Partition, of which only the partition "romfs" is there: a board without it has no use for the class here."""
    import sim_rom as _rom

    class Partition:
        TYPE_APP, TYPE_DATA = 0, 1

        @staticmethod
        def find(type=0, subtype=0xFF, label=None, block_size=4096):
            there = _rom.memory is not None and type == _rom.TYPE and subtype in (0xFF, _rom.SUBTYPE)
            return [Partition()] if there and label in (None, _rom.LABEL) else []

        def info(self):
            return (_rom.TYPE, _rom.SUBTYPE, 0x1E0000, len(_rom.memory), _rom.LABEL, False)

        def readblocks(self, block, buf, offset=0):
            at = block * _rom.BLOCK + offset
            buf[:] = _rom.memory[at : at + len(buf)]

        def writeblocks(self, block, buf, offset=None):
            """Without an offset the blocks are erased first; OSError where the partition ends."""
            at = block * _rom.BLOCK + (offset or 0)
            if at + len(buf) > len(_rom.memory):
                raise OSError(_INVALID_SIZE)
            if offset is None:
                for i in range(block, block + (len(buf) + _rom.BLOCK - 1) // _rom.BLOCK):
                    _rom.erase(i)
            _rom.program(at, buf)

        def ioctl(self, op, arg):
            if op == 4:
                return len(_rom.memory) // _rom.BLOCK
            if op == 5:
                return _rom.BLOCK
            if op == 6:
                _rom.erase(arg)
            return 0

    return Partition


class PCNT:
    """Pulse counter, a signed 16-bit register. `max` and `min` are off by default (0), as in the port: then it wraps from 32767 to
    -32768; with a limit set, reaching it resets it to zero. Dead in deep sleep and at reset, as on the chip."""

    INCREMENT, DECREMENT, IGNORE, HOLD, NORMAL, REVERSE = 1, 2, 0, 0, 0, 1
    IRQ_ZERO, IRQ_MIN, IRQ_MAX, IRQ_THRESHOLD0, IRQ_THRESHOLD1 = 1, 2, 4, 8, 16
    _units = {}

    def __new__(cls, id, **kwargs):
        unit = cls._units.get(id)
        if unit is None:
            unit = cls._units[id] = object.__new__(cls)
            unit.chip, unit._step, unit._base, unit._seen, unit._running = None, 0, 0, 0, False
            unit._min, unit._max = 0, 0
        return unit

    def __init__(self, id, **kwargs):
        if kwargs:
            self.init(**kwargs)

    def init(self, pin=None, rising=0, falling=0, min=None, max=None, filter=None, **kwargs):
        if min is not None and not -32768 <= min <= 0 or max is not None and not 0 <= max <= 32767:
            raise ValueError("limits")
        if filter is not None and not 0 <= filter <= 12787:  # ns: 1023 cycles of the 80 MHz bus clock
            raise ValueError("filter")
        self._update()
        self._min = self._min if min is None else min
        self._max = self._max if max is None else max
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
            if self._max and v >= self._max:
                v %= self._max
            elif self._min and v <= self._min:
                v = -(-v % -self._min)
            self._base = ((v + 32768) & 65535) - 32768
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


_INVALID_ARG, _INVALID_SIZE, _NOT_SUPPORTED = 0x102, 0x104, 0x106  # esp_err_t
_wake = {"ext0": None, "ext1": (), "ulp": False, "touch": False}


def _ext_pin(pin):
    number = getattr(pin, "id", pin)
    if number not in _hw.rtc_pins():
        raise ValueError("invalid pin")
    return number


def wake_on_ext0(pin=None, level=0):
    """Kept and checked as the port does; a simulated node is woken by its timer only (DECISIONS.md)."""
    if _wake["touch"] or _wake["ulp"]:
        raise ValueError("no resources")
    _wake["ext0"] = None if pin is None else _ext_pin(pin)


def wake_on_ext1(pins=None, level=0):
    _wake["ext1"] = tuple([_ext_pin(p) for p in pins or ()])


def wake_on_touch(wake):
    if _wake["ext0"] is not None:
        raise ValueError("no resources")
    _wake["touch"] = bool(wake)


def wake_on_ulp(wake):
    """Also what keeps RTC slow memory and the coprocessor alive in deep sleep."""
    if _wake["ext0"] is not None:
        raise ValueError("no resources")
    _wake["ulp"] = bool(wake)
    if "sim_ulp" in sys.modules:
        _ulp().keep_in_sleep = bool(wake)


def gpio_deep_sleep_hold(enable):
    """Digital pads with Pin(hold=True) keep their level in deep sleep, too."""
    _hw.hold_digital = bool(enable)


def _ulp():
    ulp = sys.modules.get("sim_ulp")
    if ulp is None:
        raise RuntimeError("simulator: a board without a pulse line has no ULP")
    return ulp


class ULP:
    """The FSM coprocessor as the port gives it: load, period, run. See sim_ulp.py."""

    RESERVE_MEM = 2040

    def load_binary(self, load_addr, program):
        """Place a program (header of ESP-IDF's ulp_load_binary) at word load_addr."""
        data = bytes(program)
        if len(data) < 12 or len(data) % 4:
            raise OSError(_INVALID_SIZE)
        if 4 * load_addr > self.RESERVE_MEM:
            raise OSError(_INVALID_ARG)
        if 4 * load_addr + len(data) > self.RESERVE_MEM:
            raise OSError(_INVALID_SIZE)
        magic, offset, text, initial, zero = struct.unpack("<IHHHH", data)
        if magic != 0x00706C75:
            raise OSError(_NOT_SUPPORTED)
        if offset + text + initial != len(data):
            raise OSError(_INVALID_SIZE)
        ulp = _ulp()
        ulp.catch_up(_c.now)
        body = data[offset:] + bytes(zero)
        for i in range(len(body) // 4):
            ulp.store(load_addr + i, struct.unpack_from("<I", body, 4 * i)[0])

    def set_wakeup_period(self, period_index, period_us):
        if not 0 <= period_index <= 4:
            raise OSError(_INVALID_ARG)
        _ulp().set_period(int(period_us))

    def run(self, entry_point):
        """Start the timer; entry_point in bytes."""
        _ulp().start(entry_point // 4)


def mcu_temperature():
    return 38


def raw_temperature():
    return 100


def idf_heap_info(capabilities):
    return ((131072, 65536, 32768, 32768),)


HEAP_DATA, HEAP_EXEC = 4, 1

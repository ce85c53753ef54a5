"""micropython-lib's `lora` API (lora 0.2.0, platform drivers) on the simulated air.

Same calls, results and traps: send() returns the ticks_ms at the end of the transmission; recv() the RxPacket or None;
configure() raises while receiving; an undetected packet is silence, a detected one keeps recv() past its timeout.

`trouble` makes the chip fail as the real driver reports it (sx126x.py: _wait_not_busy, _check_error, the constructor): "busy" (BUSY
stays high), "status" (the oscillator did not start), "absent" (no chip), "lost_tx_done", "stuck_receive" (neither a packet nor the timeout is reported). Each lasts until it
is taken back, or as long as the hardware's `faults` say; "busy" until the chip is reset, which making a new modem does. `power()` is what the chip draws: "sleep", or "standby" (0.6 mA, without end).
"""

import asyncio
import struct

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link
from hw_time import ticks_ms

__version__ = "0.2.0"
LOCK, PACKET, BROKEN = 1, 2, 3  # delivery kinds of the world
_BW = {"7.8": 7812, "10.4": 10417, "15.6": 15625, "20.8": 20833, "31.25": 31250, "41.7": 41667, "62.5": 62500}
_BW.update({"125": 125000, "250": 250000, "500": 500000})
_START_US = 1500  # command, ramp-up
_radio = []
trouble = None
_power = "standby"
_reset_since = []  # places in sim_hw.faults of a stuck BUSY that a reset has ended


def _wrong(*kinds):
    """True when one of these is wrong now; the world counts it."""
    kind = trouble
    if kind is None and _hw.faults:
        found = _hw.fault_of("radio")
        if found is not None and found[0] not in _reset_since:
            kind = found[1]
    if kind not in kinds:
        return False
    _hw.hit(kind)
    return True


def power():
    """The state of the chip between two commands; deep sleep of the board changes nothing about it."""
    return _power


def _command(state="standby"):
    """The driver talks to the chip, which wakes up by that; its state afterwards."""
    global _power
    if _wrong("busy"):
        _c.spend(100000)
        raise RuntimeError("BUSY timeout", 100000)
    if _wrong("absent"):
        raise RuntimeError("Unexpected silicon ID")
    _power = state
    if state != "sleep" and _wrong("status"):
        raise RuntimeError("Internal radio Status (2, 1) OpError 0x20")


class ConfigError(ValueError):
    """A lora_cfg value out of range; names the key."""

    def __init__(self, field):
        super().__init__("Invalid lora_cfg " + field)


class RxPacket(bytearray):
    """Payload with ticks_ms (end of reception), snr (quarter dB), rssi (dBm), crc_error."""

    def __init__(self, payload, ticks, snr, rssi, crc_error):
        super().__init__(payload)
        self.ticks_ms, self.snr, self.rssi, self.crc_error = ticks, snr, rssi, crc_error


class BaseModem:
    def __init__(self, lora_cfg=None):
        self._sf, self._bw_hz, self._cr, self._preamble, self._power = 7, 125000, 5, 12, 14
        self._freq_hz, self._sync, self._implicit, self._crc = 0, 0x12, False, True
        self.crc_errors = 0
        self.rx_crc_error = False
        self._mode = 0  # 0 sleep/standby, 1 receiving, 2 sending
        self._got = None
        self._locked_until = 0
        _radio[:] = [self]
        self._reset()
        if lora_cfg:
            self.configure(lora_cfg)

    def _reset(self):
        global trouble
        if trouble == "busy":
            trouble = None
        found = _hw.fault_of("radio") if _hw.faults else None
        if found is not None and found[1] == "busy" and found[0] not in _reset_since:
            _hw.hit("busy")
            _reset_since.append(found[0])
        _command()

    def configure(self, lora_cfg):
        """Take a lora_cfg dict; unset keys keep their values. RuntimeError while sending or receiving."""
        if self._mode:
            raise RuntimeError("Receiving" if self._mode == 1 else "Sending")
        _command()
        self._freq_hz = int(lora_cfg.get("freq_khz", self._freq_hz // 1000) * 1000)
        self._sf = lora_cfg.get("sf", self._sf)
        if not 5 <= self._sf <= 12:
            raise ConfigError("sf")
        bw = str(lora_cfg.get("bw", "")) if "bw" in lora_cfg else None
        if bw is not None:
            if bw not in _BW:
                raise ConfigError("bw")
            self._bw_hz = _BW[bw]
        self._cr = lora_cfg.get("coding_rate", self._cr)
        if not 5 <= self._cr <= 8:
            raise ConfigError("coding_rate")
        self._preamble = lora_cfg.get("preamble_len", self._preamble)
        self._power = lora_cfg.get("output_power", self._power)
        if not -9 <= self._power <= 22:
            raise ConfigError("output_power")
        self._sync = lora_cfg.get("syncword", self._sync)
        self._implicit = lora_cfg.get("implicit_header", self._implicit)
        self._crc = lora_cfg.get("crc_en", self._crc)
        _c.spend(1000)

    def get_n_symbols_x4(self, payload_len):
        """Symbols of a frame, times 4 (SX1276 datasheet; SF5/6 as SX1262)."""
        sf = self._sf
        ldro = self._sym_us() >= 16000
        bits = 8 * payload_len - 4 * sf + 28 + (16 if self._crc else 0) - (20 if self._implicit else 0)
        per = 4 * (sf - (2 if ldro else 0))
        return 4 * (self._preamble + 8) + 17 + 4 * max((bits + per - 1) // per, 0) * self._cr

    def _sym_us(self):
        return (1 << self._sf) * 1000000 // self._bw_hz

    def get_time_on_air_us(self, payload_len):
        return self.get_n_symbols_x4(payload_len) * self._sym_us() // 4

    def is_idle(self):
        return self._mode == 0

    def standby(self):
        self._listen(False)
        _command()

    def sleep(self, warm_start=True):
        self._listen(False)
        _command("sleep")

    def calibrate(self):
        _c.spend(3500)

    def calibrate_image(self):
        _c.spend(3500)

    def _air(self):
        return "%d %d %d %d %d %d" % (self._freq_hz, self._sf, self._bw_hz, self._cr, self._preamble, self._sync)

    def _listen(self, on):
        if on:
            _command()
            self._mode = 1
            self._got, self._locked_until = None, 0
            _link.speak("L", self._air())
            _c.ear(True)
        elif self._mode == 1:
            self._mode = 0
            _c.ear(False)
            _link.speak("U", "")

    def _begin_send(self, packet):
        if self._mode == 2:
            raise RuntimeError("Sending")
        if not 0 < len(packet) <= 255:
            raise ConfigError("payload_len")
        if not self._freq_hz:
            raise ConfigError("freq_khz")
        self._listen(False)
        _command()
        _c.spend(_START_US)
        self._mode = 2
        _link.speak("T", "%s %d %s" % (self._air(), self._power, bytes(packet).hex()))
        return self.get_time_on_air_us(len(packet))

    def _end_send(self):
        self._mode = 0
        return ticks_ms()

    def _result(self, start, timeout_us):
        """None while recv() must go on waiting, else a tuple (RxPacket or None,)."""
        if self._got is not None:
            got, self._got = self._got, None
            return (got,)
        if timeout_us is not None and _c.now >= start + timeout_us and _c.now >= self._locked_until:
            return (None,)
        return None

    def _deliver(self, data):
        if self._mode == 1:
            rssi, snr = struct.unpack_from("<hh", data)
            self.rx_crc_error = False
            self._got = RxPacket(data[4:], ticks_ms(), snr, rssi, False)

    def _broken(self):
        if self._mode == 1:
            self.crc_errors += 1
            self.rx_crc_error = True
            self._locked_until = 0

    def _lock(self, until):
        if self._mode == 1:
            self._locked_until = until


class SyncModem(BaseModem):
    def send(self, packet, tx_at_ms=None):
        us = self._begin_send(packet)
        _c.advance(_c.now + us)
        return self._end_send()

    def recv(self, timeout_ms=None, rx_length=0xFF, rx_packet=None):
        self._listen(True)
        start = _c.now
        us = None if timeout_ms is None else timeout_ms * 1000
        try:
            while True:
                _c.sync()
                done = self._result(start, us)
                if done is not None:
                    return done[0]
                end = _c.NEVER - 1 if us is None else max(start + us, self._locked_until)
                _c.advance(end, lambda: self._got is not None)
        finally:
            self._listen(False)


class AsyncModem(BaseModem):
    """send() and recv() as coroutines; their wait is one asyncio sleep cut short by an event of the air."""

    async def send(self, packet, tx_at_ms=None):
        us = self._begin_send(packet)
        try:
            end = _c.now + us
            while _c.now < end:
                await asyncio.sleep_ms((end - _c.now + 999) // 1000)
            if _wrong("lost_tx_done"):
                await asyncio.sleep(86400)
            return self._end_send()
        finally:
            self._mode = 0

    async def recv(self, timeout_ms=None, rx_length=0xFF, rx_packet=None):
        self._listen(True)
        start = _c.now
        us = None if timeout_ms is None else timeout_ms * 1000
        flag = self._wake = asyncio.ThreadSafeFlag()
        timer = None
        try:
            if _wrong("stuck_receive"):
                await asyncio.sleep(86400)
            while True:
                done = self._result(start, us)
                if done is not None:
                    return done[0]
                if us is not None:
                    timer = _c.at(max(start + us, self._locked_until), self._ring)
                await flag.wait()
        finally:
            if timer is not None:
                _c.cancel(timer)
            self._wake = None
            self._listen(False)

    _wake = None

    def _ring(self):
        if self._wake is not None:
            self._wake.set()

    def _deliver(self, data):
        super()._deliver(data)
        self._ring()

    def _broken(self):
        super()._broken()
        self._ring()

    def recv_continuous(self):
        return _Continuous(self)


class _Continuous:
    def __init__(self, modem):
        self._modem = modem

    def __aiter__(self):
        return self

    async def __anext__(self):
        while True:
            packet = await self._modem.recv()
            if packet is not None:
                return packet


class SX1262(SyncModem):
    def __init__(self, spi=None, cs=None, busy=None, dio1=None, dio2_rf_sw=True, dio3_tcxo_millivolts=None,
                 dio3_tcxo_start_time_us=1000, reset=None, lora_cfg=None, ant_sw=None):  # fmt: skip
        super().__init__(lora_cfg)


class AsyncSX1262(AsyncModem):
    def __init__(self, spi=None, cs=None, busy=None, dio1=None, dio2_rf_sw=True, dio3_tcxo_millivolts=None,
                 dio3_tcxo_start_time_us=1000, reset=None, lora_cfg=None, ant_sw=None):  # fmt: skip
        super().__init__(lora_cfg)


class SX1276(SyncModem):
    def __init__(self, spi=None, cs=None, dio0=None, dio1=None, reset=None, lora_cfg=None, ant_sw=None):
        super().__init__(lora_cfg)


class AsyncSX1276(AsyncModem):
    def __init__(self, spi=None, cs=None, dio0=None, dio1=None, reset=None, lora_cfg=None, ant_sw=None):
        super().__init__(lora_cfg)


SX1261, AsyncSX1261 = SX1262, AsyncSX1262
SX1277 = SX1278 = SX1279 = SX1276
AsyncSX1277 = AsyncSX1278 = AsyncSX1279 = AsyncSX1276


def _on_lock(data):
    if _radio:
        _radio[0]._lock(struct.unpack("<q", data)[0])


def _on_packet(data):
    if _radio:
        _radio[0]._deliver(data)


def _on_broken(data):
    if _radio:
        _radio[0]._broken()


_link.handlers[LOCK] = _on_lock
_link.handlers[PACKET] = _on_packet
_link.handlers[BROKEN] = _on_broken

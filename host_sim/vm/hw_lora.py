"""micropython-lib's `lora` API (lora 0.2.0, lora-async 0.1.1, lora-sx126x 0.1.6) on the simulated chip, without its commands.

Same calls, results, errors and traps as the driver, which tests run over both: send() returns the ticks_ms of TX_DONE; recv() the RxPacket or None; a
window without a packet counts as a CRC error; a recv() that was cancelled leaves the chip listening and configure() refused until standby() or sleep();
send() ends a reception or another send(); sleep() raises what the chip complains of, and leaves it awake then. Its synchronous classes are not
here: `lora-sync` is not on a board (firmware/package.json). The driver's low-level calls (start_recv, poll_send ...) are left out, too.
"""

import asyncio

import sim_clock as _c
import sim_radio as _radio
from chips.sx126x import CRC_ERR, RX, RX_DONE, STBY_RC, STBY_XOSC, TIMEOUT, TX, TX_DONE
from hw_time import ticks_add, ticks_diff, ticks_ms

__version__ = "0.2.0"
_BW = {"7.8": 7800, "10.4": 10400, "15.6": 15600, "20.8": 20800, "31.25": 31250, "41.7": 41700, "62.5": 62500}
_BW.update({"125": 125000, "250": 250000, "500": 500000})
_COMMAND_US = 30  # a dozen bytes at 8 MHz, and the edges of NSS
_BUSY_US = 7000  # longer is an error
_POLL_MS, _LATE_MS, _SLACK_MS = 1000, 10, 50  # between two looks at the chip when DIO1 says nothing
_ABSENT = "Internal radio Status (7, 3) OpError 0xffff"


class ConfigError(ValueError):
    """A lora_cfg value out of range; names the key."""

    def __init__(self, field):
        super().__init__("Invalid lora_cfg " + field)


class RxPacket(bytearray):
    """Payload with ticks_ms (end of reception), snr (quarter dB), rssi (dBm), crc_error."""

    def __init__(self, payload, ticks_ms=None, snr=None, rssi=None, valid_crc=True):
        super().__init__(payload)
        self.ticks_ms, self.snr, self.rssi, self.valid_crc = ticks_ms, snr, rssi, valid_crc


class AsyncModem:
    def __init__(self, lora_cfg, reset, tcxo_us):
        self._busy_us = _BUSY_US + (tcxo_us or 0)
        self.crc_errors = 0
        self.rx_crc_error = False
        self._asleep = True  # perhaps: the first command wakes it
        self._rx = False  # or True, or the ticks_ms at which the reception ends
        self._tx = self._on = False  # on: one packet after the other
        self._edge_at = None
        self._heard, self._sent = asyncio.ThreadSafeFlag(), asyncio.ThreadSafeFlag()
        chip = _radio.chip
        _radio.antenna.dio1 = self._dio1
        if reset is not None:
            _c.advance(_c.now + 1000)
            _radio.was_reset()
            chip.power_on()
            _c.advance(_c.now + 5000)
        else:
            self._command()
            chip.standby()
        self._check()
        if chip.mode not in (STBY_RC, STBY_XOSC):
            raise RuntimeError("Invalid initial status (%d, 1)." % chip.mode)
        if tcxo_us is not None:
            chip.given_us = tcxo_us
            _c.advance(_c.now + 15000)
            chip.errors = 0
            self._check()
        self._command()
        chip.irq_mask = TX_DONE | RX_DONE | TIMEOUT | CRC_ERR
        chip.dio1_mask = TX_DONE | RX_DONE | TIMEOUT
        if lora_cfg:
            self.configure(lora_cfg)

    # ---- one command

    def _command(self):
        """The chip takes a command: it is awake and BUSY is low. Raises RuntimeError when BUSY stays high."""
        chip = _radio.chip
        if self._asleep:
            self._asleep = False
            _c.advance(_c.now + 20)
            chip.wake()
            self._command()
            chip.errors = 0
            self._check()
        us = chip.quiet_in_us()
        if us is None or us > self._busy_us:
            _c.advance(_c.now + self._busy_us)
            raise RuntimeError("BUSY timeout", self._busy_us)
        if us:
            _c.advance(_c.now + us)
        _c.spend(_COMMAND_US)

    def _check(self):
        """Raise RuntimeError for what the chip complains of."""
        self._command()
        if _radio.wrong("absent"):
            raise RuntimeError(_ABSENT)
        if _radio.chip.errors:
            raise RuntimeError("Internal radio Status (%d, 1) OpError 0x%x" % (_radio.chip.mode, _radio.chip.errors))

    def _forget(self):
        _radio.chip.irq = 0
        _radio.chip.show()
        self._edge_at = None

    def _quiet(self):
        self._command()
        if not _radio.wrong("absent"):
            _radio.chip.standby(True)
        self._forget()

    def _dio1(self, level):
        if level:
            self._edge_at = ticks_ms()
            self._heard.set()
            self._sent.set()

    async def _wait(self, flag, ms):
        try:
            await asyncio.wait_for_ms(flag.wait(), ms)
        except asyncio.TimeoutError:
            pass  # the edge was lost, or it takes longer: the caller looks

    # ---- calls of the driver

    def configure(self, lora_cfg):
        """Take a lora_cfg dict; unset keys keep their values. RuntimeError while receiving."""
        if self._rx is not False:
            raise RuntimeError("Receiving")
        chip = _radio.chip
        self._command()
        chip.preamble = lora_cfg.get("preamble_len", chip.preamble)
        if "freq_khz" in lora_cfg:
            chip.freq = int(lora_cfg["freq_khz"] * 1000)
            if not chip.freq:
                raise ConfigError("freq_khz")
        chip.sync = lora_cfg.get("syncword", chip.sync)
        chip.dbm = max(-9, min(22, int(lora_cfg.get("output_power", chip.dbm))))
        chip.sf = lora_cfg.get("sf", chip.sf)
        if not 6 <= chip.sf <= 12:
            raise ConfigError("sf")
        if "bw" in lora_cfg:
            chip.bw = _BW[str(lora_cfg["bw"])]
        chip.cr = lora_cfg.get("coding_rate", chip.cr)
        if not 4 <= chip.cr <= 8:
            raise ConfigError("coding_rate")
        chip.low_rate = chip.symbol_us() >= 16000
        for _ in range(5):
            self._command()
        self._check()

    def get_time_on_air_us(self, payload_len):
        return _radio.chip.air_us(payload_len)

    def is_idle(self):
        if self._asleep:
            return True
        self._command()
        return _radio.chip.mode in (STBY_RC, STBY_XOSC) and not _radio.wrong("absent")

    def standby(self):
        self._quiet()
        self._rx = self._tx = False
        self._dio1(1)
        self._edge_at = None

    def sleep(self, warm_start=True):
        self._check()
        self.standby()
        self._command()
        _radio.chip.sleep(warm_start)
        self._asleep = True

    def calibrate(self):
        self._command()
        _radio.chip.calibrate(0x7E)
        self._command()

    def calibrate_image(self):
        if not 863 <= _radio.chip.freq // 1000000 <= 870:
            raise ValueError
        self._command()
        _radio.chip.calibrate(0x40)
        self._command()

    async def send(self, packet, tx_at_ms=None):
        self._sent.clear()
        if len(packet) > 255:
            raise ConfigError("packet too long")
        self._quiet()
        self._check()
        chip = _radio.chip
        payload = bytes(packet)
        wait_ms = chip.air_us(len(payload)) // 1000 + _SLACK_MS
        if tx_at_ms is not None:
            await asyncio.sleep_ms(max(0, ticks_diff(tx_at_ms, ticks_ms())))
        for _ in range(6):
            self._command()
        chip.send(payload)
        self._check()
        self._tx = True
        while True:
            await self._wait(self._sent, wait_ms)
            if not self._tx:  # someone called standby() or sleep()
                return False
            at = ticks_ms() if self._edge_at is None else self._edge_at
            self._command()
            if chip.irq & TX_DONE or _radio.wrong("absent"):
                self._forget()
                self._tx = False
                self._go_on()
                return at
            wait_ms = _LATE_MS

    async def recv(self, timeout_ms=None, rx_length=0xFF, rx_packet=None):
        self._heard.clear()
        self._rx, self._on = True if timeout_ms is None else ticks_add(ticks_ms(), timeout_ms), False
        self._open(timeout_ms)
        return await self._packet()

    def recv_continuous(self, rx_length=0xFF, rx_packet=None):
        self._rx = self._on = True
        self._open(None)
        return _Continuous(self)

    async def _packet(self):
        while True:
            await self._wait(self._heard, _POLL_MS)
            found = self._look()
            if found is not True:
                return found

    def _open(self, timeout_ms):
        if self._tx:  # it begins when the frame has been sent
            return
        self._quiet()
        for _ in range(3):
            self._command()
        if not _radio.wrong("absent"):
            us = None if timeout_ms is None else max(1, timeout_ms * 64) * 125 // 8
            _radio.chip.receive(us, self._on)

    def _look(self):
        """The RxPacket, None when the reception has ended, else True."""
        if self._rx is False:
            return None
        if self._tx:
            return True
        self._command()
        chip = _radio.chip
        irq = 0xFFFF if _radio.wrong("absent") else chip.irq
        packet = None
        if irq & (RX_DONE | TIMEOUT):
            at = ticks_ms() if self._edge_at is None else self._edge_at
            self._forget()
            whole = not irq & (TIMEOUT | CRC_ERR)
            self.crc_errors += not whole
            if (whole or self.rx_crc_error) and chip.got is not None:
                payload, rssi, snr, right = chip.got
                packet = RxPacket(payload, at, snr, rssi)
                packet.crc_error = not right
                if not self._on:
                    self._rx = False
        return packet or self._go_on(irq == 0xFFFF)

    def _go_on(self, absent=False):
        """A chip that has stopped before the end of the reception listens again. None when there is none, or it has ended, else True."""
        if self._rx is False:
            return None
        if absent or _radio.chip.mode in (RX, TX):
            return True
        left = None if self._rx is True else ticks_diff(self._rx, ticks_ms())
        if left is not None and left <= 0:
            self._rx = False
            return None
        self._open(left)
        return True


class _Continuous:
    def __init__(self, modem):
        self._modem = modem

    def __aiter__(self):
        return self

    async def __anext__(self):
        packet = await self._modem._packet()
        if packet is None:
            raise StopAsyncIteration
        return packet


class AsyncSX1262(AsyncModem):
    def __init__(self, spi, cs, busy, dio1=None, dio2_rf_sw=True, dio3_tcxo_millivolts=None,
                 dio3_tcxo_start_time_us=1000, reset=None, lora_cfg=None, ant_sw=None):  # fmt: skip
        super().__init__(lora_cfg, reset, dio3_tcxo_start_time_us if dio3_tcxo_millivolts else None)


class AsyncSX1276(AsyncModem):
    def __init__(self, spi, cs, dio0=None, dio1=None, reset=None, lora_cfg=None, ant_sw=None):
        super().__init__(lora_cfg, reset, None)


AsyncSX1261 = AsyncSX1262
AsyncSX1277 = AsyncSX1278 = AsyncSX1279 = AsyncSX1276

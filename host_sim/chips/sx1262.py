"""SX1262 on the level of its SPI commands. Semtech SX1261/2 datasheet rev. 2.1, chapter 13; registers chapter 12 and 15; status byte 13.5.1.

A command is what lies between two edges of NSS; it is executed at the rising one. What the datasheet leaves undefined, or the model does not
have, is noted in `complaints`, so that a test can demand that nobody relied on it.
"""

try:
    from .sx126x import FLOATING, FS, RX, SLEEP, STBY_RC, STBY_XOSC, TX, Transceiver
except ImportError:
    from sx126x import FLOATING, FS, RX, SLEEP, STBY_RC, STBY_XOSC, TX, Transceiver

DONE, DATA, REFUSED, FAILED, SENT = 1, 2, 4, 5, 6  # status of a command, bits 3..1
_BANDWIDTHS = {0: 7812, 8: 10417, 1: 15625, 9: 20833, 2: 31250, 10: 41667, 3: 62500, 4: 125000, 5: 250000, 6: 500000}
_AMPLIFIER = {(4, 7): 22, (3, 5): 20, (2, 3): 17, (2, 2): 14}  # (duty cycle, hpMax) -> dBm at power 22: table 13-21
_RESET = {0x740: 0x14, 0x741: 0x24, 0x736: 0x0D, 0x889: 0x01, 0x8AC: 0x94, 0x8D8: 0xC8, 0x902: 0x01}
_FALLBACK = {0x20: STBY_RC, 0x30: STBY_XOSC, 0x40: FS}
_READS = {0xC0: 1, 0x11: 2, 0x12: 3, 0x13: 3, 0x14: 4, 0x15: 2, 0x17: 3}  # opcode -> bytes after it
# opcode -> (parameters, or the fewest of them as a negative number; method)
_WRITES = {
    0x84: (1, "set_sleep"), 0x80: (1, "set_standby"), 0xC1: (0, "set_fs"), 0x83: (3, "set_tx"), 0x82: (3, "set_rx"),
    0x9F: (1, "stop_timer_on_preamble"), 0x96: (1, "set_regulator"), 0x89: (1, "set_calibrate"), 0x98: (2, "calibrate_image"),
    0x95: (4, "set_amplifier"), 0x93: (1, "set_fallback"), 0x0D: (-3, "write_register"), 0x0E: (-2, "write_buffer"),
    0x08: (8, "set_interrupts"), 0x02: (2, "clear_interrupts"), 0x9D: (1, "set_dio2"), 0x97: (4, "set_tcxo"),
    0x86: (4, "set_frequency"), 0x8A: (1, "set_packet_type"), 0x8E: (2, "set_tx_params"), 0x8B: (4, "set_modulation"),
    0x8C: (6, "set_packet"), 0x8F: (2, "set_buffer_base"), 0xA0: (1, "set_symbol_timeout"), 0x07: (2, "clear_errors"),
}  # fmt: skip
_ANYWHERE = (0x80, 0x02, 0x07, 0x0D, 0x0E, 0x9F)  # what may be written while it sends or receives
_NO_TIMER, _FOR_EVER = 0, 0xFFFFFF
_COMPLAINTS = 20


class SX1262(Transceiver):
    """nss(level) and reset(level) are its pins, exchange(bytes) what the bus carries; the rest as Transceiver."""

    def power_on(self):
        self.registers = dict(_RESET)
        self.buffer = bytearray(256)
        self._base, self._at_rx = (0, 0), 0
        self._lora = False
        self._length = 0
        self._amplifier, self._power = 14, 14
        self._status = DONE
        self._heard = (0, 0, 0)  # length, rssi, snr as the chip codes them
        self._said = None  # bytes of this command so far; None: NSS is high, or the chip does not listen
        super().power_on()
        self.sync = 0x12

    # ---- pins

    def nss(self, level):
        """The level of NSS changes. A sleeping chip wakes by the falling edge, and does not hear what follows before BUSY is low."""
        if level:
            said, self._said = self._said, None
            if said:
                self._execute(said)
            return
        self._said = None
        if self.wrong("absent"):
            return
        if self.mode == SLEEP:
            self.wake()
        elif not self.busy():
            self._said = bytearray()

    def reset(self, level):
        """NRESET: low keeps the chip in reset, the rising edge starts it."""
        if level:
            self.power_on()

    def exchange(self, out):
        """Bytes of MOSI -> as many of MISO."""
        if self._said is None and not self.wrong("absent"):
            self._complain("%s while BUSY is high" % bytes(out[:9]).hex())
        back = bytearray(len(out))
        for i in range(len(out)):
            back[i] = self._byte(out[i])
        return back

    def _byte(self, byte):
        said = self._said
        if said is None:
            return FLOATING if self.wrong("absent") else 0
        said.append(byte)
        n = len(said) - 1
        op = said[0]
        if not n:
            self._reply = self._answer(op)
        if op == 0x1D and n >= 4:
            return self.registers.get((said[1] << 8 | said[2]) + n - 4, 0)
        if op == 0x1E and n >= 3:
            return self.buffer[(said[1] + n - 3) & 255]
        return self._reply[n - 1] if 0 < n <= len(self._reply) else self.status()

    def status(self):
        """13.5.1: mode in bits 6..4, what came of the last command in bits 3..1."""
        return self.mode << 4 | self._status << 1

    def _answer(self, op):
        """What follows the opcode on MISO (13.3.3, 13.5, 13.6)."""
        s = self.status()
        if op == 0x12:
            return (s, self.irq >> 8, self.irq & 255)
        if op == 0x17:
            return (s, self.errors >> 8, self.errors & 255)
        if op == 0x13:
            return (s, self._heard[0], self._at_rx)
        if op == 0x14:
            return (s, self._heard[1], self._heard[2], self._heard[1])
        if op == 0x11:
            return (s, int(self._lora))
        if op == 0x15:
            return (s, 240)
        return (s,)

    # ---- commands

    def _execute(self, said):
        op = said[0]
        if op in _READS or op in (0x1D, 0x1E):
            if len(said) <= (_READS.get(op) or op - 0x1A):
                self._complain("a read that ends early: %s" % said.hex())
            return
        n, name = _WRITES.get(op, (0, None))
        if name is None or (len(said) - 1 != n if n >= 0 else len(said) - 1 < -n):
            self._complain("no such command: %s" % said[:9].hex())
            self._status = REFUSED
            return
        if self.mode in (RX, TX) and op not in _ANYWHERE:
            self._complain("%s in mode %d" % (name, self.mode))
        self._status = DONE if getattr(self, "_" + name)(said) is not False else FAILED

    def _complain(self, text):
        if len(self.complaints) < _COMPLAINTS:
            self.complaints.append(text)

    def _set_sleep(self, b):
        if not self.sleep(bool(b[1] & 4)):
            self._complain("SetSleep in mode %d" % self.mode)
            return False
        for i in range(256):
            self.buffer[i] = 0  # it is not kept (7.1)
        return True

    def _set_standby(self, b):
        return self.standby(bool(b[1] & 1))

    def _set_fs(self, b):
        self._stop()
        started = self.oscillator()
        self._enter(FS if started else STBY_RC)
        return started

    def _set_tx(self, b):
        length = self._length
        base = self._base[0]
        payload = bytes([self.buffer[(base + i) & 255] for i in range(length)])
        self._radio_ready()
        timeout = b[1] << 16 | b[2] << 8 | b[3]
        return self.send(payload, timeout * 125 // 8)

    def _set_rx(self, b):
        self._radio_ready()
        t = b[1] << 16 | b[2] << 8 | b[3]
        return self.receive(None if t in (_NO_TIMER, _FOR_EVER) else t * 125 // 8, t == _FOR_EVER)

    def _radio_ready(self):
        if not self._lora or not self.freq:
            self._complain("no packet type or frequency")
        self.sync = self.registers[0x740] & 0xF0 | self.registers[0x741] >> 4
        if self.registers[0x740] & 15 != 4 or self.registers[0x741] & 15 != 4:
            self._complain("sync word %02x%02x" % (self.registers[0x740], self.registers[0x741]))

    def _stop_timer_on_preamble(self, b):
        self.stop_on_preamble = bool(b[1])

    def _set_regulator(self, b):
        pass

    def _set_dio2(self, b):
        pass

    def _set_symbol_timeout(self, b):
        if b[1]:
            self._complain("SetLoRaSymbNumTimeout: not in the model")

    def _set_calibrate(self, b):
        if self.mode != STBY_RC:
            self._complain("Calibrate in mode %d" % self.mode)
        self.calibrate(b[1] & 0x7F)

    def _calibrate_image(self, b):
        self.calibrate(0x40)

    def _set_amplifier(self, b):
        if b[3:5] != b"\0\1":
            self._complain("SetPaConfig for an SX1261: %s" % b.hex())
        self._amplifier = _AMPLIFIER.get((b[1], b[2]), 22)
        self.dbm = self._amplifier - 22 + self._power

    def _set_tx_params(self, b):
        self._power = b[1] - 256 if b[1] > 127 else b[1]
        if not -9 <= self._power <= 22 or b[2] > 7:
            self._complain("SetTxParams %s" % b.hex())
        self.dbm = self._amplifier - 22 + self._power

    def _set_fallback(self, b):
        self.fallback = _FALLBACK.get(b[1], STBY_RC)

    def _write_register(self, b):
        at = b[1] << 8 | b[2]
        for i in range(3, len(b)):
            self.registers[at + i - 3] = b[i]

    def _write_buffer(self, b):
        for i in range(2, len(b)):
            self.buffer[(b[1] + i - 2) & 255] = b[i]

    def _set_interrupts(self, b):
        self.irq_mask, self.dio1_mask = b[1] << 8 | b[2], b[3] << 8 | b[4]
        self.show()

    def _clear_interrupts(self, b):
        self.irq &= ~(b[1] << 8 | b[2])
        self.show()

    def _clear_errors(self, b):
        self.errors = 0

    def _set_tcxo(self, b):
        if self.mode != STBY_RC:
            self._complain("SetDIO3AsTCXOCtrl in mode %d" % self.mode)
        self.given_us = (b[2] << 16 | b[3] << 8 | b[4]) * 125 // 8

    def _set_frequency(self, b):
        steps = b[1] << 24 | b[2] << 16 | b[3] << 8 | b[4]
        self.freq = (steps * 15625 + (1 << 13)) >> 14  # 32 MHz / 2**25 a step

    def _set_packet_type(self, b):
        if b[1] != 1:
            self._complain("packet type %d: only LoRa is modelled" % b[1])
        self._lora = b[1] == 1

    def _set_modulation(self, b):
        if not self._lora:
            self._complain("modulation before the packet type")
        if not 5 <= b[1] <= 12 or b[2] not in _BANDWIDTHS or not 1 <= b[3] <= 4 or b[4] > 1:
            self._complain("SetModulationParams %s" % b.hex())
        self.sf, self.bw = b[1], _BANDWIDTHS.get(b[2], 125000)
        self.cr, self.low_rate = b[3] + 4, bool(b[4])

    def _set_packet(self, b):
        if not self._lora:
            self._complain("packet parameters before the packet type")
        self.preamble = b[1] << 8 | b[2]
        self.implicit, self._length, self.crc, self.inverted = bool(b[3]), b[4], bool(b[5]), bool(b[6])

    def _set_buffer_base(self, b):
        self._base = (b[1], b[2])

    # ---- what the transceiver tells

    def _sent(self):
        super()._sent()
        self._status = SENT

    def _store(self, payload, rssi, snr):
        self._at_rx = self._base[1]
        for i in range(len(payload)):
            self.buffer[(self._at_rx + i) & 255] = payload[i]
        self._heard = (len(payload), max(0, min(255, -2 * rssi)), max(-128, min(127, snr)) & 255)
        self._status = DATA

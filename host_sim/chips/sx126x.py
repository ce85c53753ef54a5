"""What an SX126x does below its commands: modes, oscillator, BUSY, receive timer, interrupts, device errors.

Semtech SX1261/2 datasheet rev. 2.1: modes and times of BUSY chapters 8.3 and 9, time on air 6.1.4, SetRx and SetTx 13.1, interrupts 13.3, device errors
13.6. Where it is silent the model does what users of the chip reported, and says so. Times in microseconds.
"""

SLEEP, STBY_RC, STBY_XOSC, FS, RX, TX = 0, 2, 3, 4, 5, 6  # as the status byte tells them; asleep it tells none
TX_DONE, RX_DONE, PREAMBLE, SYNC, HEADER, HEADER_ERR, CRC_ERR, TIMEOUT = 1, 2, 4, 8, 16, 32, 64, 512  # interrupts
XOSC_START = 0x20  # device error: the oscillator did not start in the time that it was given
IMAGE, BLOCKS = 0x40, 0x7F  # what can be calibrated
COLD_US, WARM_US, CALIBRATE_US, CRYSTAL_US, SWITCH_US = 3500, 340, 3500, 150, 100
FLOATING = 0xFF  # MISO when no chip drives it


class Transceiver:
    """now_us() -> us. at(us, function) -> handle for cancel(handle). antenna: send(modulation, dbm, payload), listen(modulation), deaf(), dio1(level);
    modulation is (Hz, SF, Hz of bandwidth, 5..8, symbols of preamble, sync word). wrong(kind): True while the chip fails so (FAULTS).

    tcxo_us: start time of the oscillator that hangs on DIO3; None: a crystal.
    """

    FAULTS = ("busy", "absent", "status", "lost_tx_done", "lost_edge", "stuck_receive")

    def __init__(self, now_us, at, cancel, antenna, wrong, tcxo_us=None):
        self.now_us, self._at, self._cancel, self._antenna, self.wrong = now_us, at, cancel, antenna, wrong
        self.tcxo_us = tcxo_us
        self.complaints = []  # what was asked of it that the datasheet leaves undefined
        self.mode, self.timers = STBY_RC, []
        self.power_on()

    def power_on(self):
        """Power-on, or the reset line let go: every setting is lost, and what is calibrated at the start fails without a TCXO's power (13.1.12)."""
        self._stop()
        self.freq, self.sf, self.bw, self.cr, self.preamble, self.sync = 0, 7, 125000, 5, 12, 0x12
        self.low_rate, self.crc, self.implicit, self.inverted, self.dbm = False, True, False, False, 14
        self.given_us = None  # SetDIO3AsTCXOCtrl: start time the chip gives its TCXO
        self.fallback = STBY_RC
        self.stop_on_preamble = False
        self.irq = self.irq_mask = self.dio1_mask = self.level = 0
        self.errors = 0 if self.tcxo_us is None else XOSC_START
        self.uncalibrated = 0 if self.tcxo_us is None else BLOCKS
        self.got = None  # (payload, rssi dBm, snr quarters of a dB, CRC right)
        self.warm = False
        self._running = False  # the oscillator
        self._quiet_at = self.now_us() + COLD_US
        self._enter(STBY_RC)
        self._antenna.dio1(0)

    # ---- BUSY and the oscillator

    def busy(self):
        """Level of BUSY: high while a command is executed, and asleep."""
        return int(self.quiet_in_us() != 0)

    def quiet_in_us(self):
        """How long BUSY stays high; None when that does not end by itself."""
        if self.wrong("absent"):
            return 0
        return None if self.mode == SLEEP or self.wrong("busy") else max(0, self._quiet_at - self.now_us())

    def _takes(self, us):
        self._quiet_at = max(self._quiet_at, self.now_us()) + us

    def oscillator(self):
        """Start it unless it runs; False when it does not start: a TCXO that nobody told the chip of, that needs longer than it is given, or is dead."""
        if not self._running:
            self._takes(CRYSTAL_US if self.given_us is None else self.given_us)
            self._running = not self.wrong("status") and (self.tcxo_us is None or (self.given_us or 0) >= self.tcxo_us)
            if not self._running:
                self.errors |= XOSC_START
        return self._running

    def calibrate(self, blocks):
        """13.1.12: needs the oscillator, BUSY is high meanwhile; what fails stays as it was."""
        if self.oscillator():
            self.uncalibrated &= ~blocks
        self._takes(CALIBRATE_US)
        self._running = self.mode >= STBY_XOSC

    # ---- modes

    def _enter(self, mode):
        self.mode = mode
        if mode <= STBY_RC:
            self._running = False

    def _stop(self):
        """End what the chip is doing on the air."""
        for timer in self.timers:
            self._cancel(timer)
        self.timers = []
        if self.mode == RX:
            self._antenna.deaf()

    def _after(self, us, what):
        self.timers.append(self._at(self.now_us() + us, what))

    def sleep(self, warm=True):
        """13.1.1, from standby only: False in another mode. Without `warm` every setting will be lost."""
        if self.mode not in (STBY_RC, STBY_XOSC):
            return False
        self.warm = warm
        self._enter(SLEEP)
        return True

    def wake(self):
        """NSS fell (9.3). The TCXO's error shows again then, as the driver's authors found."""
        if self.mode != SLEEP:
            return
        if not self.warm:
            self.power_on()
        else:
            self._quiet_at = self.now_us() + WARM_US
            self._enter(STBY_RC)
            self.errors |= 0 if self.tcxo_us is None else XOSC_START

    def standby(self, xosc=False):
        """13.1.2. False when the oscillator did not start: the chip is in STBY_RC then."""
        self._stop()
        started = not xosc or self.oscillator()
        self._enter(STBY_XOSC if xosc and started else STBY_RC)
        return started

    def send(self, payload, timeout_us=0):
        """13.1.4. False when there is no oscillator to send with. timeout_us 0: none."""
        self._stop()
        if not self.oscillator():
            self._enter(STBY_RC)
            return False
        self._takes(SWITCH_US)
        self._enter(TX)
        self._payload, self._send_us = payload, timeout_us
        self._after(self._quiet_at - self.now_us(), self._on_air)
        return True

    def _on_air(self):
        self.timers = []
        self._antenna.send(self.modulation(), self.dbm, self._payload)
        us = self.air_us(len(self._payload))
        if self._send_us and self._send_us < us:
            self._after(self._send_us, self._timed_out)
        else:
            self._after(us, self._sent)

    def _sent(self):
        self.timers = []
        self._enter(self.fallback)
        if not self.wrong("lost_tx_done"):
            self._interrupt(TX_DONE)

    def receive(self, timeout_us=None, continuous=False):
        """13.1.5. timeout_us None: until a packet has come. False when there is no oscillator to receive with."""
        self._stop()
        if not self.oscillator():
            self._enter(STBY_RC)
            return False
        self._takes(SWITCH_US)
        self._enter(RX)
        self._antenna.listen(self.modulation())
        self._continuous = continuous
        self._header = None  # nobody was heard yet; else True once a header was
        self._lame = self.wrong("stuck_receive")
        if timeout_us is not None and not self._lame:
            self._after(self._quiet_at - self.now_us() + timeout_us, self._timed_out)
        return True

    def _timed_out(self):
        self._stop()
        self._enter(self.fallback)
        self._interrupt(TIMEOUT)

    # ---- what the air brings

    def locked(self):
        """The preamble of a frame that this modulation fits has ended; its header takes 8 symbols more, and stops the timer."""
        if self.mode == RX and not self._lame:
            if self.stop_on_preamble:
                self._no_timeout()
            self._header = False
            self._interrupt(PREAMBLE | SYNC)
            self._after(8 * self.symbol_us(), self._head)

    def _head(self):
        self._header = True
        self._no_timeout()
        self._interrupt(HEADER)

    def _no_timeout(self):
        for timer in self.timers:
            self._cancel(timer)
        self.timers = []

    def arrived(self, payload, rssi, snr):
        """The frame whose preamble was heard has ended and is whole."""
        self._packet(payload, rssi, snr, True)

    def broken(self):
        """It has ended, and others have destroyed it."""
        self._packet(b"", -120, -60, False)

    def _packet(self, payload, rssi, snr, whole):
        if self.mode != RX or self._lame or not self._header:
            return
        self.got = (payload, rssi, snr, whole)
        self._store(payload, rssi, snr)
        self._header = None
        if not self._continuous:
            self._stop()
            self._enter(self.fallback)
        self._interrupt(RX_DONE if whole else RX_DONE | CRC_ERR)

    def _store(self, payload, rssi, snr):
        """Where a command-level chip puts it."""

    # ---- interrupts

    def _interrupt(self, bits):
        self.irq |= bits & self.irq_mask
        self.show()

    def show(self):
        """Let DIO1 have the level that interrupts and masks give it."""
        level = int(bool(self.irq & self.dio1_mask))
        if level != self.level and not (level and self.wrong("lost_edge")):
            self.level = level
            self._antenna.dio1(level)

    # ---- the signal

    def modulation(self):
        return (self.freq, self.sf, self.bw, self.cr, self.preamble, self.sync)

    def symbol_us(self):
        return (1 << self.sf) * 1000000 // self.bw

    def air_us(self, n):
        """Time on air of n bytes (6.1.4); SF5 and SF6 have a longer preamble and no 8 bits."""
        short = self.sf < 7
        bits = 8 * n + (16 if self.crc else 0) - 4 * self.sf + (0 if short else 8) + (0 if self.implicit else 20)
        per = 4 * (self.sf - (2 if self.low_rate else 0))
        coded = (max(bits, 0) + per - 1) // per * self.cr
        return (4 * (self.preamble + 8 + coded + (2 if short else 0)) + 17) * self.symbol_us() // 4

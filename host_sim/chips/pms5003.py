"""Plantower PMS5003 on byte level: active and passive mode, sleep, fan run-up. Data manual 2016, appendix I and II."""

try:
    from .parts import Line, Noise
except ImportError:
    from parts import Line, Noise

WARM_UP_US = 30_000_000
PERIOD_US = 1_000_000  # active mode, one frame a second (200 ms .. 2.3 s by how fast the air changes)
ANSWER_US = 3_000
KEPT = 12  # frames: more than any receive buffer of a node holds
BOOT_US = 100_000  # deaf that long after waking


class PMS5003Chip:
    """Senses pm1, pm25, pm10 (ug/m3). Powered up awake and in active mode; during the first 30 s after waking it reads low.

    fault: "silent"; "checksum" (each frame's sum is wrong); "noise" (garbage on the line, and every second frame loses two
    bytes); "stuck" (the values stay those of the last good frame); "dead" (fan or laser: good frames that count no particle at all).
    """

    FAULTS = ("silent", "checksum", "noise", "stuck", "dead")

    def __init__(self, sense, now_us):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self._line = Line()
        self._noise = Noise(5003)
        self._woke_us = now_us()
        self._asleep = False
        self._active = True
        self._next_us = now_us() + PERIOD_US
        self._rx = b""
        self._values = None
        self._frames = 0

    def receive(self, data):
        """Bytes from the node: commands of seven bytes; anything else is skipped."""
        self._catch_up()
        self._rx += data
        while len(self._rx) >= 7:
            c = self._rx[:7]
            if c[:2] != b"\x42\x4d":
                self._rx = self._rx[1:]
                continue
            self._rx = self._rx[7:]
            if sum(c[:5]) == c[5] << 8 | c[6]:
                self._command(c[2], c[4])

    def _command(self, command, data):
        now = self.now_us()
        if command == 0xE4 and data == 1:
            if self._asleep:
                self._asleep, self._active, self._woke_us = False, True, now
                self._next_us = now + PERIOD_US
        elif self._asleep or now < self._woke_us + BOOT_US:
            return
        elif command == 0xE4:
            self._answer(now, b"\xe4\x00")
            self._asleep = True
        elif command == 0xE1:
            self._active = data == 1
            self._next_us = now + PERIOD_US
            self._answer(now, bytes((0xE1, data)))
        elif command == 0xE2 and not self._active:
            self._send(now + ANSWER_US)

    def _answer(self, now, body):
        if self.fault != "silent":
            answer = b"\x42\x4d\x00\x04" + body
            self._line.say(now + ANSWER_US, answer + _sum(answer))

    def _catch_up(self):
        """Put the frames of active mode on the line, as late as they are asked for."""
        if self._asleep or not self._active:
            return
        now = self.now_us()
        made = 0
        while self._next_us <= now:
            if made < KEPT:
                self._send(self._next_us)
                made += 1
                self._next_us += PERIOD_US
            else:  # nobody can have kept these
                self._next_us += (now - self._next_us) // PERIOD_US * PERIOD_US + PERIOD_US

    def frame(self):
        """Return the 32 bytes of a measurement now."""
        if self.fault != "stuck" or self._values is None:
            ramp = min(1.0, 0.3 + 0.7 * (self.now_us() - self._woke_us) / WARM_UP_US)
            atm = [max(0, min(1000, int(self.sense(k) * ramp + 0.5))) for k in ("pm1", "pm25", "pm10")]
            # the CF=1 words run above the atmospheric ones from about 30 ug/m3, as on real sensors
            cf1 = [v if v <= 30 else v * 3 // 2 - 15 for v in atm]
            counts = [atm[0] * 150 + 60, atm[0] * 45 + 18, atm[1] * 7, atm[1], max(0, atm[2] - atm[1]), atm[2] // 8]
            self._values = cf1 + atm + counts
        if self.fault == "dead":
            self._values = [0] * 12
        data = b"\x42\x4d\x00\x1c" + b"".join([bytes((v >> 8 & 255, v & 255)) for v in self._values]) + b"\x97\x00"
        return data + _sum(data)

    def _send(self, at):
        if self.fault == "silent":
            return
        data = self.frame()
        self._frames += 1
        if self.fault == "checksum":
            data = data[:31] + bytes((data[31] ^ 1,))
        elif self.fault == "noise":
            data = bytes([self._noise.below(256) for _ in range(5)]) + b"\x42" + data
            if self._frames & 1:
                data = data[:17] + data[19:]
        self._line.say(at, data)

    def produce(self):
        self._catch_up()
        return self._line.heard(self.now_us())

    def next_us(self):
        at = self._line.next_us()
        if at is None and self._active and not self._asleep and self.fault != "silent":
            at = self._next_us + Line.BYTE_US
        return at


def _sum(data):
    s = sum(data)
    return bytes((s >> 8 & 255, s & 255))

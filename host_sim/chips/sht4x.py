"""Sensirion SHT4x on command level. Datasheet SHT4x version 6.5: commands table 8, timing table 5, CRC 4.4."""

TIMES_US = {0xFD: 8300, 0xF6: 4500, 0xE0: 1600}


def crc8(data):
    """Return the Sensirion CRC-8 of bytes (polynomial 0x31, start 0xFF)."""
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x31) & 0xFF if crc & 0x80 else crc << 1
    return crc


class SHT4xChip:
    """Senses temperature (Cel), humidity (%RH). Busy or without a measurement it does not acknowledge a read.

    fault: "nack"/"silent"; "crc" (one word damaged: temperature and humidity by turns); "stuck" (values stay).
    """

    FAULTS = ("nack", "silent", "crc", "stuck")

    def __init__(self, sense, now_us):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self._ready_us = None
        self._raw = None
        self._answers = 0

    def write(self, data):
        if self.fault in ("nack", "silent"):
            raise OSError(19)
        if data and data[0] in TIMES_US:
            self._ready_us = self.now_us() + TIMES_US[data[0]]

    def read(self, n):
        if self.fault in ("nack", "silent") or self._ready_us is None or self.now_us() < self._ready_us:
            raise OSError(19)
        self._ready_us = None
        if self.fault != "stuck" or self._raw is None:
            t = (self.sense("temperature") + 45) / 175 * 65535 + 0.5
            h = (self.sense("humidity") + 6) / 125 * 65535 + 0.5
            self._raw = (int(min(max(t, 0), 65535)), int(min(max(h, 0), 65535)))
        self._answers += 1
        out = b""
        for i in range(2):
            word = bytes((self._raw[i] >> 8, self._raw[i] & 255))
            bad = self.fault == "crc" and (self._answers ^ i) & 1
            out += word + bytes((crc8(word) ^ (1 if bad else 0),))
        return out[:n]

"""What several chip models share: register files behind I2C, byte lines, and a seeded noise source."""


class Noise:
    """A 31-bit linear congruential generator (glibc's constants): the same numbers on every machine and run."""

    def __init__(self, seed):
        self._x = seed & 0x7FFFFFFF

    def below(self, n):
        """Return the next number in 0 .. n-1."""
        self._x = (self._x * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._x >> 8) % n

    def around(self, n):
        """Return a number in -n .. n with a triangular distribution."""
        return self.below(n + 1) - self.below(n + 1)


class Registers:
    """An I2C chip with 8-bit registers. Subclasses give `wrote(register, value)` `before_read` and `after_read`.

    fault None, or "nack" / "silent" (nobody answers: OSError 19, what the esp32 port raises), or the subclass's own.
    """

    def __init__(self, sense, now_us):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self.reg = bytearray(256)
        self._at = 0

    def present(self):
        if self.fault in ("nack", "silent"):
            raise OSError(19)

    def wrote(self, register, value):
        self.reg[register] = value

    def before_read(self, register):
        pass

    def after_read(self, register):
        pass

    def write(self, data):
        """The master's write: register number, then values for it and the following ones."""
        self.present()
        if data:
            self._at = data[0]
        for value in data[1:]:
            self.wrote(self._at, value)
            self._at = (self._at + 1) & 255

    def read(self, n):
        """The master's read of n bytes from the register pointer."""
        self.present()
        at = self._at
        self.before_read(at)
        self._at = (at + n) & 255
        data = bytes(self.reg[at : at + n])
        self.after_read(at)
        return data


class Line:
    """What a UART chip sends: messages with their start time, byte by byte at 9600 baud (1042 us)."""

    BYTE_US = 1042

    def __init__(self):
        self._queue = []  # [start_us, bytes]
        self.free_us = 0  # when the line is idle again

    def say(self, start_us, data):
        """Send `data` from start_us on, or when the line is free."""
        start_us = max(start_us, self.free_us)
        self._queue.append([start_us, data])
        self.free_us = start_us + len(data) * self.BYTE_US

    def clear(self):
        self._queue = []

    def heard(self, now_us):
        """Return the bytes that have arrived up to now."""
        out = b""
        queue = self._queue
        while queue:
            start, data = queue[0]
            n = (now_us - start) // self.BYTE_US
            if n <= 0:
                break
            if n < len(data):
                out += data[:n]
                queue[0] = [start + n * self.BYTE_US, data[n:]]
                break
            out += data
            queue.pop(0)
        return out

    def next_us(self):
        """Return when the next byte will have arrived; None when nothing is under way."""
        return self._queue[0][0] + self.BYTE_US if self._queue else None

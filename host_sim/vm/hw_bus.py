"""UART, I2C, SPI and ADC on the chip models of sim_hw. Every transfer takes its time on the wire."""

import io

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link

_POLL, _RD, _WR = 3, 1, 4
_TICK_US = 10000  # of FreeRTOS: what waits for a stream is woken then


class UART(io.IOBase):
    """Bytes are readable as they come: while timeout_char is 0 the port sets the threshold of the FIFO to one byte (machine_uart.c).

    rxbuf overflow loses the newest bytes, silently, as on the chip; `lost` counts them for tests.
    """

    INV_TX, INV_RX, RTS, CTS = 32, 4, 2, 1

    def __init__(self, id, baudrate=115200, bits=8, parity=None, stop=1, **kwargs):
        self.id = id
        self._rx = bytearray()
        self.lost = 0
        self.init(baudrate, bits, parity, stop, **kwargs)

    def init(
        self, baudrate=115200, bits=8, parity=None, stop=1, rxbuf=256, txbuf=256, timeout=0, timeout_char=0, **kwargs
    ):
        for key in ("tx", "rx"):
            if key in kwargs and not _hw.has_pin(getattr(kwargs[key], "id", kwargs[key])):
                raise ValueError("invalid pin")
        self._size = max(rxbuf, 256)
        self._timeout = timeout
        self.chip = _hw.uart.get(self.id)

    def deinit(self):
        self._rx = bytearray()

    def _pull(self):
        chip = self.chip
        if chip is None:
            return
        data = chip.produce()
        if data:
            room = self._size - len(self._rx)
            self._rx += data[:room]
            self.lost += max(0, len(data) - room)

    def _readable(self):
        self._pull()
        return len(self._rx)

    def sim_next(self):
        """When poll() should look again: at the tick after the next byte."""
        nxt = None if self.chip is None else self.chip.next_us()
        return None if nxt is None else (max(nxt, _c.now) // _TICK_US + 1) * _TICK_US

    def feed(self, data):
        """Bytes arrive from outside (tests without a chip)."""
        room = self._size - len(self._rx)
        self._rx += data[:room]
        self.lost += max(0, len(data) - room)

    def any(self):
        return self._readable()

    def _take(self, n):
        if not self._readable() and self._timeout:
            end = _c.now + self._timeout * 1000
            while not self._readable() and _c.now < end:
                nxt = self.sim_next()
                _c.advance(end if nxt is None or nxt > end else nxt)
        n = min(n, self._readable())
        out = bytes(self._rx[:n])
        self._rx = self._rx[n:]
        return out

    def readinto(self, buf, n=None):
        data = self._take(len(buf) if n is None else n)
        if not data:
            return None
        buf[: len(data)] = data
        return len(data)

    def read(self, n=-1):
        return self._take(1 << 20 if n is None or n < 0 else n) or None

    def readline(self):
        self._readable()
        i = self._rx.find(b"\n")
        return self.read(i + 1 if i >= 0 else -1)

    def write(self, data):
        if self.chip is not None:
            self._pull()  # what came before the command stays before its answer
            self.chip.receive(bytes(data))
        _c.spend(10)  # the driver's ring takes it; the line is modelled by the chip
        return len(data)

    def flush(self):
        pass

    def txdone(self):
        return True

    def sendbreak(self):
        pass

    def ioctl(self, op, arg):
        if op == _POLL:
            return ((_RD if arg & _RD and self._readable() else 0) | _WR) & arg
        return -1  # never 0: poll.register() asks for a file number (10), and 0 would be stdin


class I2C:
    """I2C(id, scl=, sda=, freq=): memory and raw transfers; ENODEV (19) when nobody answers. 9 bits per byte."""

    def __init__(self, id=0, scl=None, sda=None, freq=400000, timeout=50000):
        for pin in (scl, sda):
            if pin is not None and not _hw.drives(getattr(pin, "id", pin)):
                _link.final("R", "hard")  # ESP-IDF 5.5.2 and later: abort(), not an exception
        self.id = id
        self._byte_us = max(1, 9000000 // freq)

    def init(self, **kwargs):
        self._byte_us = max(1, 9000000 // kwargs.get("freq", 400000))

    def _chip(self, addr, n):
        _c.spend((n + 1) * self._byte_us)
        chip = _hw.i2c.get((self.id, addr))
        if chip is None:
            raise OSError(19)
        return chip

    def scan(self):
        _c.spend(112 * self._byte_us)
        return sorted(a for bus, a in _hw.i2c if bus == self.id)

    def writeto(self, addr, buf, stop=True):
        self._chip(addr, len(buf)).write(bytes(buf))
        return len(buf)

    def writevto(self, addr, vector, stop=True):
        return self.writeto(addr, b"".join([bytes(v) for v in vector]))

    def readfrom_into(self, addr, buf, stop=True):
        data = self._chip(addr, len(buf)).read(len(buf))
        buf[: len(data)] = data

    def readfrom(self, addr, n, stop=True):
        return bytes(self._chip(addr, n).read(n))

    def _register(self, memaddr, addrsize):
        return bytes((memaddr,)) if addrsize == 8 else bytes((memaddr >> 8, memaddr & 255))

    def writeto_mem(self, addr, memaddr, buf, addrsize=8):
        self._chip(addr, len(buf) + 1).write(self._register(memaddr, addrsize) + bytes(buf))

    def readfrom_mem_into(self, addr, memaddr, buf, addrsize=8):
        chip = self._chip(addr, len(buf) + 2)
        chip.write(self._register(memaddr, addrsize))
        data = chip.read(len(buf))
        buf[: len(data)] = data

    def readfrom_mem(self, addr, memaddr, n, addrsize=8):
        buf = bytearray(n)
        self.readfrom_mem_into(addr, memaddr, buf, addrsize)
        return bytes(buf)


class SoftI2C(I2C):
    def __init__(self, scl=None, sda=None, freq=400000, timeout=50000):
        super().__init__(getattr(scl, "id", 0), scl, sda, freq)


class SPI:
    """An SPI bus. What hangs on it (the radio, when it is modelled at the level of its commands) answers exchange(bytes); nobody: ones."""

    MSB, LSB = 0, 1

    def __init__(self, id=1, baudrate=1000000, **kwargs):
        self.id = id
        self._byte_us = max(1, 8000000 // baudrate)

    def init(self, **kwargs):
        self._byte_us = max(1, 8000000 // kwargs.get("baudrate", 1000000))

    def deinit(self):
        pass

    def _move(self, out):
        _c.spend(len(out) * self._byte_us)
        chip = _hw.spi.get(self.id)
        return b"\xff" * len(out) if chip is None else chip.exchange(out)

    def write(self, buf):
        self._move(buf)

    def readinto(self, buf, write=0):
        buf[:] = self._move(bytes((write,)) * len(buf))

    def read(self, n, write=0):
        return bytes(self._move(bytes((write,)) * n))

    def write_readinto(self, out, buf):
        buf[:] = self._move(bytes(out))


SoftSPI = SPI


class ADC:
    """12-bit ADC with the port's calibrated read_uv(); the pin's source is a number or a sensed voltage (V)."""

    ATTN_0DB, ATTN_2_5DB, ATTN_6DB, ATTN_11DB = 0, 1, 2, 3
    WIDTH_12BIT = 3

    def __init__(self, pin, atten=0, **kwargs):
        self._pin = getattr(pin, "id", pin)
        self._top = (950000, 1250000, 1750000, 3100000)[atten]

    def atten(self, a):
        self._top = (950000, 1250000, 1750000, 3100000)[a]

    def width(self, w):
        pass

    def read_uv(self):
        _c.spend(40)
        source = _hw.analog.get(self._pin)
        if source is None:
            return 0
        uv = int(source() * 1000000)
        if _hw.faults and _hw.fault_of("adc") and _c.now // 40 * 40503 % 65536 < 6554:
            _hw.hit("adc")  # one reading of ten, while the radio or a pump draws current
            uv = uv * 3 // 4
        return max(0, min(self._top, uv))

    def read(self):
        return self.read_uv() * 4095 // self._top

    def read_u16(self):
        return self.read_uv() * 65535 // self._top

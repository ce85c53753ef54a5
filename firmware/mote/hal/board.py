"""Buses and pins by board.json (made from boards/<board>.toml). Nobody else knows a pin number."""

import machine
from mote.errors import BadConfig


def gpio(number, *how, **more):
    """machine.Pin(number, ...). Raises BadConfig for a pin that the chip lacks, or cannot drive as asked."""
    try:
        return machine.Pin(number, *how, **more)
    except (ValueError, TypeError):
        raise BadConfig("board.json: pin %s" % number)


class Board:
    """spec: the board file as a dict. Every factory takes a unit number, or None for the first one of its kind.

    Raises BadConfig when the board has no such unit.
    """

    def __init__(self, spec):
        self._spec = spec
        self.radio_spec = spec.get("radio")
        self.limits = spec.get("limits", {})
        self._i2c = {}

    def _unit(self, kind, unit):
        units = self._spec.get(kind, {})
        if unit is None and units:
            unit = min(units)
        if unit is None or str(unit) not in units:
            raise BadConfig("board.json: no %s %s" % (kind, "" if unit is None else unit))
        return int(unit), units[str(unit)]

    def spi_spec(self, unit):
        """The table of SPI bus `unit`."""
        return self._unit("spi", unit)[1]

    def i2c(self, unit=None):
        """The I2C bus; one object per bus, shared by its chips."""
        n, spec = self._unit("i2c", unit)
        if n not in self._i2c:
            # an input as SCL or SDA is no error of machine.I2C but an abort (ESP-IDF 5.5.2 and later): asked of the pin first
            scl, sda = gpio(spec["scl"], machine.Pin.OPEN_DRAIN), gpio(spec["sda"], machine.Pin.OPEN_DRAIN)
            self._i2c[n] = machine.I2C(n, scl=scl, sda=sda, freq=spec.get("freq_hz", 100000))
        return self._i2c[n]

    def uart(self, unit=None, baud=9600, rxbuf=512):
        """A UART, 8N1."""
        n, spec = self._unit("uart", unit)
        return machine.UART(n, baud, tx=spec["tx"], rx=spec["rx"], rxbuf=rxbuf)

    def i2s(self, unit=None, rate=48000, frames=4096):
        """An I2S microphone input, 32-bit mono; rate in Hz. frames: what it holds until they are read, in DMA memory of 8 bytes each
        (machine_i2s.c takes stereo frames of 32 bits, whatever is asked for); a multiple of 256."""
        n, spec = self._unit("i2s", unit)
        return machine.I2S(
            n, sck=machine.Pin(spec["sck"]), ws=machine.Pin(spec["ws"]), sd=machine.Pin(spec["sd"]),
            mode=machine.I2S.RX, bits=32, format=machine.I2S.MONO, rate=rate, ibuf=8 * frames,
        )  # fmt: skip

    def pulse(self, unit=None, asleep=False, woke=False):
        """A running pulse counter: PCNT (rising edges, 16 bit), or one that counts on in deep sleep (mote.hal.ulp). woke: out of a sleep that this
        firmware chose, so that its program is there and runs."""
        n, spec = self._unit("pulse", unit)
        if asleep and woke and machine.reset_cause() == machine.DEEPSLEEP_RESET:
            from mote.hal.ulp_run import Running

            return Running(spec["pin"])
        if asleep:
            from mote.hal.ulp import Counter

            return Counter(spec["pin"], self._spec.get("board", {}).get("chip", "esp32"))
        from esp32 import PCNT

        # limits are off unless asked for (esp32_pcnt.c): the register would go on at -32768; filter: ns, the longest there is
        counter = PCNT(n, pin=machine.Pin(spec["pin"], machine.Pin.IN), rising=PCNT.INCREMENT, max=32767, filter=12787)
        counter.start()
        return counter

    def pin(self, number, **how):
        """An output pin by GPIO number (enable lines of sensors, named in the profile's options)."""
        return machine.Pin(number, machine.Pin.OUT, **how)

    def battery_mv(self):
        """Supply voltage in mV, or None on a board without a divider."""
        spec = self._spec.get("battery")
        if not spec:
            return None
        uv = machine.ADC(machine.Pin(spec["pin"]), atten=machine.ADC.ATTN_11DB).read_uv()
        return uv // 1000 * int(spec["divider"] * 1000 + 0.5) // 1000

    def temperature(self):
        """Temperature of the board's processor in degrees Celsius, or None where the port cannot tell."""
        import esp32

        if hasattr(esp32, "mcu_temperature"):  # S2, S3, C3, C6
            return esp32.mcu_temperature()  # pyright: ignore[reportAttributeAccessIssue]
        if hasattr(esp32, "raw_temperature"):  # ESP32: degrees Fahrenheit
            return (esp32.raw_temperature() - 32) * 5 // 9
        return None

    def has_led(self):
        return "led" in self._spec

    def led(self, on):
        """Switch the LED; only on a board that has one."""
        spec = self._spec["led"]
        machine.Pin(spec["pin"], machine.Pin.OUT).value(int(on) if spec.get("active", 1) else int(not on))

    def bench(self):
        """True when the bench pin is tied to ground: a technician wants the REPL."""
        number = self.limits.get("bench_pin")
        if number is None:
            return False
        return machine.Pin(number, machine.Pin.IN, machine.Pin.PULL_UP).value() == 0

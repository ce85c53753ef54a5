"""Waste bin: distance to the waste (A02YYUW), fill from the geometry, temperature (BME280), tilt (LIS3DH).

Options: sensors.bin = {"empty_mm", "full_mm"}: the distances at 0 % and 100 %.
"""

from mote.errors import BadConfig
from mote.profiles import Profile, one_of
from mote.sampler import Sensor

_DISTANCE, _FILL, _TEMPERATURE = 0, 1, 2


class BinFill(Profile):
    SCHEMA = 6
    KEYS = ("distance", "fill_level", "temperature", "tilt")
    HOWS = {"distance": "last", "fill_level": "last", "tilt": "max"}
    ALARMS = ({"q": "tilt", "above": 45, "clear": 20}, {"q": "temperature", "above": 70, "clear": 50})

    def build(self, board, config, keep):
        geometry = config["sensors"].get("bin") or {}
        if not isinstance(geometry, dict):
            raise BadConfig("sensors.bin: a table of options")
        self._empty, self._full = geometry.get("empty_mm", 1200), geometry.get("full_mm", 200)
        if not (
            isinstance(self._empty, int) and isinstance(self._full, int) and 0 <= self._full < self._empty <= 10000
        ):
            raise BadConfig("sensors.bin: 0 <= full_mm < empty_mm <= 10000")
        self._ping = one_of("a02yyuw", board.uart, config, compensate=True)
        return [
            Sensor("a02yyuw", self._ping),
            Sensor("bme280", one_of("bme280", board.i2c, config)),
            Sensor("lis3dh", one_of("lis3dh", board.i2c, config)),
        ]

    def derive(self, values, present):
        if present >> _TEMPERATURE & 1:
            self._ping.set_temperature(values[_TEMPERATURE])
        if present >> _DISTANCE & 1:
            empty = self._empty
            fill = (100 * (empty - values[_DISTANCE]) + (empty - self._full) // 2) // (empty - self._full)
            values[_FILL] = 0 if fill < 0 else 100 if fill > 100 else fill
            present |= 1 << _FILL
        return present

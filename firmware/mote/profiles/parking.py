"""A parking bay: occupied or free, by a magnetometer (QMC5883L). A row per change, sent at once, and a heartbeat.

Options: sensors.bay = the keyword arguments of mote.dsp.occupancy.Occupancy. The baseline and state are kept on flash. Command set_free: the bay is empty now,
whatever the node believes (it was started under a car, or iron was laid): the next quiet field is its baseline.
"""

import json
from asyncio import sleep_ms
from micropython import const
from time import ticks_diff, ticks_ms

from mote.drivers.errors import DriverError
from mote.dsp.occupancy import UNKNOWN, Occupancy
from mote.errors import BadConfig, Refused
from mote.files import read_json, write_whole
from mote.profiles import Profile, chip
from mote.sampler import Sensor

_STATE = "/bay.json"
_KEEP_MS = const(10800000)
_MOVED = const(10)  # 1 uT
_STEPS = const(80)  # about 40 s of manoeuvring; then the slot ends with the state as it is


class Unsettled(DriverError):
    """The field has not been quiet since the start: nothing is known about the bay yet."""

    reason = "unsettled"
    world = True


class Bay:
    """The bay as a sensor with the one channel `occupied`. When the field moves a reading goes on until it is quiet."""

    CHANNELS = ("occupied",)

    def __init__(self, magnetometer, occupancy, slow_ms):
        self._chip, self._occupancy, self._slow_ms = magnetometer, occupancy, slow_ms
        self._xyz = [0, 0, 0]
        self._last = ticks_ms()
        self._field = (0, 0, 0)  # baseline on flash
        kept = read_json(_STATE)
        if kept and isinstance(kept.get("baseline"), list) and len(kept["baseline"]) == 3:
            self._field = kept["baseline"]
            occupancy.resume(self._field, kept.get("occupied"))
        self._kept = kept is not None
        self._ms = 0

    async def read_into(self, out):
        """out[0] = 0 or 1. Raises OSError, DriverError."""
        bay, xyz = self._occupancy, self._xyz
        for _ in range(_STEPS):
            await self._chip.wait_xyz_into(xyz)
            now, before = ticks_ms(), self._last
            changed = bay.step(xyz[0], xyz[1], xyz[2], min(ticks_diff(now, self._last), 60000))
            self._last = now
            self._ms += min(ticks_diff(now, before), 60000)
            if changed or not self._kept and bay.state != UNKNOWN or self._ms >= _KEEP_MS and self._moved():
                self._field = bay.baseline
                write_whole(_STATE, json.dumps({"baseline": bay.baseline, "occupied": bay.occupied}))
                self._kept = True
            if bay.wait_ms >= self._slow_ms:
                break
            await sleep_ms(bay.wait_ms)
        if bay.state == UNKNOWN:
            raise Unsettled
        out[0] = bay.occupied

    def _moved(self):
        """Every few hours: True when the baseline has followed the weather so far that a start with the old one might see a car."""
        self._ms = 0
        field = self._occupancy.baseline
        return field is not None and max([abs(field[i] - self._field[i]) for i in range(3)]) >= _MOVED

    async def set_free(self, args):
        """The command."""
        if args:
            raise Refused("arguments")
        self._occupancy.set_free()
        self._kept = False


class Parking(Profile):
    SCHEMA = 12
    KEYS = ("occupied",)
    HOWS = {"occupied": "last"}

    def build(self, board, config, keep):
        slow_ms = config["sample_s"] * 1000
        try:
            occupancy = Occupancy(slow_ms=slow_ms, **(config["sensors"].get("bay") or {}))
        except (TypeError, ValueError) as e:
            raise BadConfig("sensors.bay: %s" % e)
        bay = Bay(chip("qmc5883l", board.i2c, config), occupancy, slow_ms)
        self.commands["set_free"] = bay.set_free
        return [Sensor("qmc5883l", bay, deadline_s=120)]

    def rhythm(self, config):
        return config["sample_s"], 0

"""A driver whose constructor fails: it looks up a chip variant it does not know. No object, so nothing of the profile either."""

from mote.drivers import DRIVERS

_CHIP = __name__[__name__.rfind(".") + 1 :]
_CLASS = DRIVERS[_CHIP].split(":")[1]
_Sound = getattr(__import__("mote.drivers.%s_sound" % _CHIP, None, None, (_CLASS,)), _CLASS)

_VARIANTS = {0x58: "BMP", 0x60: "BME"}


class Faulty(_Sound):
    def __init__(self, bus, **options):
        super().__init__(bus, **options)
        self.variant = _VARIANTS[0x61]


globals()[_CLASS] = Faulty

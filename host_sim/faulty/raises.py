"""A driver with a bug: a table one short. Every reading after the first `good` ones ends in IndexError, which is neither bus nor chip."""

from mote.drivers import DRIVERS

_CHIP = __name__[__name__.rfind(".") + 1 :]
_CLASS = DRIVERS[_CHIP].split(":")[1]
_Sound = getattr(__import__("mote.drivers.%s_sound" % _CHIP, None, None, (_CLASS,)), _CLASS)

_GAIN = (1, 2, 4)


class Faulty(_Sound):
    def __init__(self, bus, good=0, **options):
        super().__init__(bus, **options)
        self._good = good

    async def read_into(self, out):
        """As the sound driver; IndexError once the good readings are spent."""
        await super().read_into(out)
        if self._good:
            self._good -= 1
            return
        out[0] *= _GAIN[3]


globals()[_CLASS] = Faulty

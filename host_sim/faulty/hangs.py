"""A driver that waits for a busy bit which never clears, without a bound and without giving way: only the watchdog ends it."""

from time import sleep_ms

from mote.drivers import DRIVERS

_CHIP = __name__[__name__.rfind(".") + 1 :]
_CLASS = DRIVERS[_CHIP].split(":")[1]
_Sound = getattr(__import__("mote.drivers.%s_sound" % _CHIP, None, None, (_CLASS,)), _CLASS)


class Faulty(_Sound):
    def __init__(self, bus, good=0, **options):
        super().__init__(bus, **options)
        self._good = good
        self._busy = False

    async def read_into(self, out):
        """As the sound driver; never returns once the good readings are spent."""
        await super().read_into(out)
        self._busy = not self._good
        while self._busy:
            sleep_ms(10)
        self._good -= 1


globals()[_CLASS] = Faulty

"""A driver that awaits an interrupt which never comes: its task stands, the node's others go on."""

from asyncio import Event

from mote.drivers import DRIVERS

_CHIP = __name__[__name__.rfind(".") + 1 :]
_CLASS = DRIVERS[_CHIP].split(":")[1]
_Sound = getattr(__import__("mote.drivers.%s_sound" % _CHIP, None, None, (_CLASS,)), _CLASS)


class Faulty(_Sound):
    def __init__(self, bus, good=0, **options):
        super().__init__(bus, **options)
        self._good = good

    async def read_into(self, out):
        """As the sound driver; never returns once the good readings are spent."""
        await super().read_into(out)
        if not self._good:
            await Event().wait()
        self._good -= 1


globals()[_CLASS] = Faulty

"""A driver that keeps raw answers "for later": memory goes in small pieces until an allocation fails, here or anywhere else."""

from mote.drivers import DRIVERS

_CHIP = __name__[__name__.rfind(".") + 1 :]
_CLASS = DRIVERS[_CHIP].split(":")[1]
_Sound = getattr(__import__("mote.drivers.%s_sound" % _CHIP, None, None, (_CLASS,)), _CLASS)


class Faulty(_Sound):
    def __init__(self, bus, good=0, bite=8192, **options):
        """bite: bytes kept per reading (on the ESP32; a 64-bit VM takes more)."""
        super().__init__(bus, **options)
        self._good, self._bite = good, bite
        self._kept = None

    async def read_into(self, out):
        """As the sound driver; MemoryError when the heap is full."""
        await super().read_into(out)
        if self._good:
            self._good -= 1
            return
        for _ in range(self._bite // 48):
            self._kept = (bytes(32), self._kept)


globals()[_CLASS] = Faulty

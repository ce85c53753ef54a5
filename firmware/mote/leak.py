"""Who keeps the memory? After a boot that ended badly every reading is weighed: heap in use after it, less before it.

Readings wait for each other meanwhile, so that growth has one cause; two collections a reading cost some 10 ms on an ESP32, which is why a
sound node does without. The sensor that keeps most becomes `supervisor.suspect`: a MemoryError, wherever it strikes, is put to its account.
"""

import gc
from asyncio import Lock

from micropython import const
from mote import log, supervisor
from mote.hal import clock

_SUSPECT = const(1024)  # bytes the heap must have grown by before anybody is suspected


class Scales:
    """kept: bytes by sensor since boot."""

    def __init__(self, sensors):
        self.kept = [0] * sensors
        self._lock = Lock()
        self._readings = [0] * sensors
        self._first = 0  # heap in use when the first reading was weighed
        self._queued = 0
        gc.collect()
        before = gc.mem_alloc()
        queued = (self.read(0, None), self._lock.acquire())
        gc.collect()
        self._tare = gc.mem_alloc() - before  # what a reading that waits for its turn takes
        for waiting in queued:
            waiting.close()

    async def read(self, index, sensor):
        """Await the driver's reading, weighing it. Raises what the driver raises."""
        sensor.began = -1  # waiting for others is no hanging
        self._queued += 1
        try:
            await self._lock.acquire()
        finally:
            self._queued -= 1
        try:
            sensor.began = clock.uptime_s()
            gc.collect()
            before = gc.mem_alloc() - self._queued * self._tare
            try:
                await sensor.driver.read_into(sensor.out)
            finally:
                gc.collect()
                self._weigh(index, before, gc.mem_alloc() - self._queued * self._tare)
        finally:
            self._lock.release()

    def _weigh(self, index, before, after):
        self._readings[index] += 1
        if self._readings[index] == 1:
            self._first = after  # what a driver allocates once it keeps, and may
            return
        self.kept[index] += after - before
        if after - self._first < _SUSPECT:
            return  # others came and went meanwhile: nothing is lost for good
        worst = 0
        for i in range(len(self.kept)):
            if self.kept[i] > self.kept[worst]:
                worst = i
        if supervisor.suspect != worst + 1:
            supervisor.suspect = worst + 1
            log.warning("sensor %d keeps %d bytes", worst, self.kept[worst])

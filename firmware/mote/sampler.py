"""Polls the sensors on the wall-clock grid and makes rows of what they say.

Every sensor has a task of its own: a slow or failing one delays nobody. Samples fall on multiples of sample_s (of row_s and the hour while the
profile rests, and out of turn when it hurries), rows on multiples of row_s and are stamped with their end. A sensor that fails is counted, backed off and reported; its columns
become gaps. The path from a sample to the batch allocates nothing but the coroutine of the driver.
"""

import asyncio
import gc
from array import array

from micropython import const
from mote import log, nobody
from mote.hal import clock as board_clock
from mote.stats import Stats
from motewire.batch import MAX_VALUE

_FAULT_AFTER = const(3)  # failures in a row before an alarm
_SKIP_MAX = const(32)  # slots left out at most between two tries
_GRACE_S = const(20)  # a row waits so long for slow sensors
_LOW = const(8192)  # bytes
_LATE_S = const(60)  # a slot or row that a deep sleep overslept by less is still taken
_CHUNK_S = const(3600)  # asyncio.sleep() overflows at 6.2 days
_LAPS = const(59)
_LAP_SHIFT = const(10)


def heap_is_low():
    """True when there is hardly any memory left."""
    gc.collect()
    return gc.mem_free() < _LOW


class Sensor:
    """A driver as the sampler sees it.

    driver: read_into(out), optional start() and stop(); CHANNELS unless `channels` is given. lead_s: how long before the
    slot a reading must begin (warm-up, listening window). deadline_s: after that it hangs.
    """

    def __init__(self, name, driver, channels=None, lead_s=0, deadline_s=15):
        self.name, self.driver, self.lead_s, self.deadline_s = name, driver, lead_s, deadline_s
        self.channels = tuple(channels or driver.CHANNELS)
        self.out = array("i", bytes(4 * len(self.channels)))
        self.columns = ()  # per channel: its column, or -1
        self.slot = 0  # last slot that was tried
        self.due = 0  # when the next reading begins, by the clock
        self.began = -1  # uptime at which the reading under way began
        self.failures = 0  # in a row
        self.faults = 0  # since boot
        self.skip = 0
        self.shed = False
        self.works = False  # has been read since boot
        self.beyond = 0  # bit per channel: its value was more than a row can hold
        self.task = None


class Sampler:
    """Rows from sensors.

    ids, hows: quantity ids and statistics (mote.stats) of the columns. sensors: list of Sensor. profile: derive(values,
    present) -> present. clock: mote.clock.Clock. sink: object with take_row(t, values, present), check(t, values, present) for alarms,
    fault(sensor, t, active) and entered(index). laps: what set_back() returned last, 0: never.
    """

    def __init__(self, ids, keys, hows, sensors, profile, clock, sink, laps=0):
        self._n = len(ids)
        self._sensors, self._profile, self._clock, self._sink = sensors, profile, clock, sink
        self._stats = Stats(hows)
        self._row = array("i", bytes(4 * self._n))
        self._values = array("i", bytes(4 * self._n))  # of one sample
        self._last = array("i", bytes(4 * self._n))  # event rows: what was said last
        self._said = 0
        self._last_t = laps >> 6 << _LAP_SHIFT  # event rows: of the last one; else the highest one yet
        self._aside_t = 0  # of the last row out of turn
        self._lap = laps & 63  # how often the clock was set back
        self._stepped = False
        self._tasks = []
        self._scales = None
        self.next_look = (
            nobody  # function(t) -> the slot behind t, where the profile has others than every sample_s (mote.rest)
        )
        self.row_s = 0
        self.samples = 0
        self.empty_rows = 0
        self.busy_ms = 0  # sensors at work since boot
        self.row_t = 0  # last row, or the one that is awaited
        self._row_due = 0
        for s in sensors:
            s.columns = tuple([keys.index(c) if c in keys else -1 for c in s.channels])

    def weigh(self, scales):
        """Put every reading on these mote.leak.Scales: the boot before ended badly."""
        self._scales = scales

    def start(self, sample_s, row_s, heartbeat_s, woke=False):
        """Begin to sample, or begin anew with another rhythm. row_s 0: a row per change, and one every heartbeat_s.

        woke: go on after a deep sleep with what load() brought. After stepped() the samples at hand go on into the next row.
        """
        self.stop()
        self.sample_s, self.row_s, self._heartbeat_s = sample_s, row_s, heartbeat_s
        self._late_s = min(_LATE_S, sample_s - 1) if woke else 0
        if not woke:
            if not self._stepped:
                self._stats.clear()
            self._stepped = False
            self.row_t = 0
        for i in range(len(self._sensors)):
            if not self._sensors[i].shed:
                self._spawn(i)
        if row_s:
            self._tasks.append(asyncio.create_task(self._rows()))

    def _spawn(self, i, at_once=False):
        s = self._sensors[i]
        s.began = -1
        s.task = asyncio.create_task(self._poll(s, i, at_once))

    def stop(self):
        """End all tasks; readings under way are lost."""
        for s in self._sensors:
            if s.task is not None:
                s.task.cancel()
                s.task = None
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def _until(self, t):
        while True:
            left = t - self._clock.now()
            if left <= 0:
                return
            await asyncio.sleep_ms(1000 * min(left, _CHUNK_S))

    async def _poll(self, s, index, at_once):
        try:
            await self._poll_for_ever(s, index, at_once)
        except Exception as e:
            self._sink.broken(e)  # not the driver's fault: a bug of ours, or the flash

    async def _poll_for_ever(self, s, index, at_once):
        driver = s.driver
        late_s = self._late_s
        slot = s.slot if late_s else 0
        while True:
            now = self._clock.now()
            if at_once:
                at_once, slot = False, now
            else:
                # the first slot whose lead lies ahead, never one twice
                slot = max(slot, now + s.lead_s - late_s)
                slot = self.next_look(slot) or slot // self.sample_s * self.sample_s + self.sample_s
                s.due = slot - s.lead_s
                late_s = 0
                await self._until(s.due)
                if s.skip:
                    s.skip -= 1
                    s.slot = slot
                    continue
            s.began = board_clock.uptime_s()
            began = board_clock.awake_ms()
            if s.faults or not s.slot:
                self._sink.entered(index)
            try:
                if self._scales is None:
                    await driver.read_into(s.out)
                else:
                    await self._scales.read(index, s)
            except Exception as e:
                if isinstance(e, MemoryError) and heap_is_low():
                    raise e  # no single greedy request: only a restart helps
                self._failed(s, slot, e)
            else:
                if s.failures or not s.works:
                    self._recovered(s, slot)
                self._took(s, slot)
            self.busy_ms += board_clock.awake_ms() - began
            s.began = -1
            s.slot = slot

    def _failed(self, s, slot, error):
        s.failures += 1
        s.faults += 1
        if not getattr(error, "world", False):
            s.skip = min(1 << min(s.failures, 6) >> 1, _SKIP_MAX) - 1
        log.warning("%s: %s", s.name, repr(error))
        if s.failures == _FAULT_AFTER:
            self._sink.fault(s, slot, True)

    def _recovered(self, s, slot):
        if s.failures >= _FAULT_AFTER or not s.works:
            self._sink.fault(s, slot, False)
            s.beyond = 0  # reported again with this reading, if it is so
        s.failures = 0
        s.works = True

    def _took(self, s, slot):
        """A reading is in s.out: to statistics, alarms and event rows. Allocates nothing."""
        values, columns, out = self._values, s.columns, s.out
        present = beyond = 0
        for i in range(len(columns)):
            c = columns[i]
            if c >= 0:
                v = out[i]
                if -MAX_VALUE <= v <= MAX_VALUE:
                    values[c] = v
                    present |= 1 << c
                else:
                    beyond |= 1 << i
        if beyond != s.beyond:
            if not beyond or not s.beyond:  # a register that has outgrown the wire is a gap from here on: say so once
                self._sink.fault(s, slot, beyond != 0)
            s.beyond = beyond
        present = self._profile.derive(values, present)
        self.samples += 1
        self._sink.check(slot, values, present)
        if not self.row_s:
            self._event(values, present)
            return
        stats = self._stats
        for c in range(self._n):
            if present >> c & 1:
                stats.add(c, values[c])

    def _event(self, values, present):
        if not present:
            return
        last = self._last
        new = present & ~self._said
        for c in range(self._n):
            if present >> c & 1 and values[c] != last[c]:
                new = 1
        t = self._clock.now()
        if not new and t - self._last_t < self._heartbeat_s:
            return
        t = max(t, self._last_t + 1)  # rows of a node are told apart by their time
        for c in range(self._n):
            if present >> c & 1:
                last[c] = values[c]
        self._said |= present
        self._last_t = t
        self._sink.take_row(t, last, present)

    async def _rows(self):
        late_s = self._late_s
        try:
            while True:
                now = self._clock.now() - late_s
                self._row_due = t = max(self.row_t, now) // self.row_s * self.row_s + self.row_s
                late_s = 0
                await self._until(t)
                grace = min(_GRACE_S, self.sample_s - 1)
                while self._waiting(t) and self._clock.now() - t < grace:
                    await asyncio.sleep_ms(500)
                self.row_t = t
                self.finish_row(t)
        except Exception as e:
            self._sink.broken(e)

    def _waiting(self, t):
        """True while a sensor is still at work on slot t."""
        for s in self._sensors:
            if not s.shed and s.slot < t and (s.began >= 0 or s.skip == 0) and s.failures < _FAULT_AFTER:
                return True
        return False

    def finish_row(self, t):
        """Close the row at t and hand it over."""
        row = self._row
        present = self._stats.row_into(row)
        self._stats.clear()
        present = self._profile.row(t, row, present)
        if not present:
            self.empty_rows += 1
            return
        if t > self._last_t:
            self._last_t = t
        else:  # the clock was set back, and rows are told apart by their time: this one is so many seconds beside the grid
            t += self._lap
        self._sink.take_row(t, row, present)

    def due(self):
        """When the next reading or row begins, by the clock; 0 while one is under way."""
        now = self._clock.now()
        at = self._row_due if self.row_s else now + 0xFFFFFFF
        for s in self._sensors:
            if s.shed:
                continue
            if s.began >= 0 or s.due <= now:
                return 0
            at = min(at, s.due)
        return at if at > now else 0

    def save(self, put):
        """Tell put(int) what load() needs to go on after a deep sleep."""
        put(self._last_t)
        put(self.row_t)
        put(self._lap)
        for s in self._sensors:
            for n in (s.slot, s.failures, min(s.faults, 0x3FFFFFFF), s.skip, int(s.works) | s.beyond << 1):
                put(n)
        self._stats.save(put)

    def load(self, get):
        """Go on after a deep sleep; start(..., woke=True) follows."""
        self._last_t, self.row_t, self._lap = get() & 0xFFFFFFFF, get() & 0xFFFFFFFF, get()
        for s in self._sensors:
            s.slot, s.failures, s.faults, s.skip, works = get() & 0xFFFFFFFF, get(), get(), get(), get()
            s.works, s.beyond = bool(works & 1), works >> 1
        self._stats.load(get)

    def stepped(self, step_s):
        """The clock jumped: the grid is laid anew by the start() that follows. No sample and no row is lost by it: after a step back rows have
        their own time, but for some seconds that tell them from those that have been there (set_back()), and events exactly theirs."""
        self._stepped = True
        self.row_t = 0
        for s in self._sensors:
            s.slot = 0  # one of the future would be waited for after the next sleep
        if not self.row_s:
            self._last_t += step_s

    def set_back(self, highest, row_s):
        """It is earlier than `highest`, up to which rows have been: those up to there lie some seconds beside the grid, others than before.
        Returns what a sampler of a later boot needs to know of it (28 bits)."""
        self._last_t = highest = max(self._last_t, highest)
        self._lap = self._lap % min(_LAPS, row_s - 1) + 1 if row_s > 1 else 0
        return (highest >> _LAP_SHIFT) + 1 << 6 | self._lap

    def check_hangs(self):
        """End readings that are past their deadline; call now and then."""
        now = board_clock.uptime_s()
        for i in range(len(self._sensors)):
            s = self._sensors[i]
            if s.began >= 0 and now - s.began > s.deadline_s and not s.shed:
                s.task.cancel()
                self._failed(s, self._clock.now(), RuntimeError("hangs"))
                s.slot = self._clock.now()
                self._spawn(i)

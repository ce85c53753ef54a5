"""Keeps the node's tasks going, and the watchdog fed by their progress only. What the end of a boot means: mote.supervisor."""

import asyncio

from micropython import const
from mote import log, supervisor
from mote.hal import clock

_TICK_S = const(20)


class Supervisor:
    """Keeps the node's tasks going and the watchdog quiet as long as every one of them makes progress."""

    def __init__(self, watchdog):
        """watchdog: object with feed(), or None."""
        self._watchdog = watchdog
        self._marks = {}  # name -> [uptime of the last progress, longest silence in s]
        self._tasks = []
        self._failed = asyncio.Event()
        self._error = RuntimeError("no task")
        self._seen = clock.uptime_s()
        self.restarts = 0
        self.checks = []  # functions() called at every tick

    def woke(self):
        """Uptime jumped: the boot goes on from one that slept."""
        self._seen = clock.uptime_s()

    def watch(self, name, silence_s):
        """Expect progress(name) at least every silence_s seconds from now on."""
        self._marks[name] = [clock.uptime_s(), silence_s]

    def progress(self, name):
        """Task `name` did something useful."""
        self._marks[name][0] = clock.uptime_s()

    def keep(self, name, start):
        """Run coroutine function `start` for ever: OSError (bus, link) restarts it after 1, 2, 4 .. 60 s, anything else is a bug."""
        task = asyncio.create_task(self._keep(name, start))
        self._tasks.append(task)
        return task

    async def _keep(self, name, start):
        pause = 1
        while True:
            began = clock.uptime_s()
            try:
                await start()
                raise RuntimeError(name + " ended")
            except OSError as e:
                log.warning("%s: %s", name, e)
            except Exception as e:
                self.fail(e)
                return
            self.restarts += 1
            if clock.uptime_s() - began > 300:
                pause = 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60)

    def fail(self, error):
        """End run() with this error."""
        self._error = error
        self._failed.set()

    async def run(self):
        """Feed the watchdog while all goes well; raises the error of the first task that had a bug."""
        tick = asyncio.create_task(self._tick())
        try:
            await self._failed.wait()
        finally:
            tick.cancel()
        raise self._error

    async def _tick(self):
        while True:
            try:
                self._step()
            except Exception as e:
                self.fail(e)
                return
            await asyncio.sleep(_TICK_S)

    def _step(self):
        now = clock.uptime_s()
        passed, self._seen = now - self._seen, now
        if supervisor.trial_overdue(now):
            raise RuntimeError("no answer on trial")
        for check in self.checks:
            check()
        for name in self._marks:
            mark = self._marks[name]
            if now - mark[0] > mark[1]:
                log.error("%s stands still", name)
                return
        if self._watchdog is not None:
            self._watchdog.feed()
        if supervisor.rtc is not None:
            supervisor.worked(passed, now)

"""`select` whose poll() waits on the virtual clock; the frozen asyncio runs on it unchanged.

Streams are Python objects with ioctl(3, events) (UART, I2S, sockets, ThreadSafeFlag). One that becomes ready by time
passing offers sim_next() -> us when it is worth asking again, or None.

Every turn of a node's loop comes through here: functions of few variables (frames of more than eleven words lie on the heap), and
bound methods and results that are made once, leave the collector what it has on a board.
"""

import sim_clock as _c

POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16
PASS_US = 100  # what a scheduler pass costs; lets `while True: await sleep_ms(0)` see time pass


class _Entry:
    def __init__(self, obj, events):
        self.obj, self.events = obj, events
        self.ear = getattr(obj, "sim_ear", None)  # it may hear the world
        self.next = getattr(obj, "sim_next", None)
        self.result = (obj, 0)

    def look(self, ready):
        """Append (object, events) to `ready` if there are some."""
        got = self.obj.ioctl(3, self.events)
        if got > 0:
            if self.result[1] != got:
                self.result = (self.obj, got)
            ready.append(self.result)

    def sooner(self, t):
        """t, or when it is worth asking this one again if that is sooner."""
        if self.next is None or not self.events & POLLIN:
            return t
        own = self.next()
        return t if own is None or own > t else own


class poll:
    def __init__(self):
        self._entries = []
        self._ready = []
        self._ears = 0  # how many of them may hear the world
        self._again = self._scan

    def _find(self, obj):
        for e in self._entries:
            if e.obj is obj:
                return e
        return None

    def register(self, obj, events=POLLIN | POLLOUT):
        if not hasattr(obj, "ioctl"):
            raise OSError(9)  # EBADF: real descriptors do not mix with virtual time
        e = self._find(obj)
        if e is not None:
            e.events = events
            return
        self._entries.append(_Entry(obj, events))
        self._ears += hasattr(obj, "sim_ear")

    def modify(self, obj, events):
        e = self._find(obj)
        if e is None:
            raise OSError(2)
        e.events = events

    def unregister(self, obj):
        e = self._find(obj)
        if e is not None:
            self._entries.remove(e)
            self._ears -= e.ear is not None

    def _scan(self):
        self._ready.clear()
        for e in self._entries:
            e.look(self._ready)
        return len(self._ready) > 0

    def poll(self, timeout=-1, flags=0):
        _c.advance(_c.now + PASS_US)
        if not self._entries:
            return self._sleep(timeout)
        if self._ears:
            return self._listen(timeout)
        return self._ready if self._scan() or timeout == 0 else self._wait(timeout)

    def _sleep(self, timeout):
        if timeout < 0:
            if _c.idle():
                raise _c.Deadlock("poll() for ever and nothing scheduled")
            timeout = 1 << 40
        if timeout:
            _c.advance(_c.now + timeout * 1000)
        return ()

    def _listen(self, timeout):
        ears = 0
        for e in self._entries:
            if e.ear is not None and e.ear():
                ears += 1
                _c.ear(True)
        try:
            if ears:
                _c.sync()
            return self._ready if self._scan() or timeout == 0 else self._wait(timeout)
        finally:
            while ears:
                ears -= 1
                _c.ear(False)

    def _wait(self, timeout):
        end = _c.NEVER - 1 if timeout < 0 else _c.now + timeout * 1000
        while _c.now < end:
            if _c.advance(self._next(end), self._again) or self._scan():
                break
        return self._ready

    def _next(self, t):
        """When to look again, t at the latest."""
        for e in self._entries:
            t = e.sooner(t)
        if t == _c.NEVER - 1 and _c.idle():
            raise _c.Deadlock("poll() for ever and nothing scheduled")
        return t if t > _c.now else _c.now + PASS_US

    def ipoll(self, timeout=-1, flags=0):
        return iter(self.poll(timeout))


def select(rlist, wlist, xlist, timeout=None):
    p = poll()
    for o in rlist:
        p.register(o, POLLIN)
    for o in wlist:
        p.register(o, POLLOUT)
    got = list(p.poll(-1 if timeout is None else int(timeout * 1000)))
    return [o for o, e in got if e & 1], [o for o, e in got if e & 4], []

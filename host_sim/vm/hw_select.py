"""`select` whose poll() waits on the virtual clock; the frozen asyncio runs on it unchanged.

Streams are Python objects with ioctl(3, events) (UART, I2S, sockets, ThreadSafeFlag). One that becomes ready by time
passing offers sim_next() -> us when it is worth asking again, or None.
"""

import sim_clock as _c

POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16
PASS_US = 100  # what a scheduler pass costs; lets `while True: await sleep_ms(0)` see time pass


class poll:
    def __init__(self):
        self._entries = []  # [object, events]
        self._ready = []
        self._ears = 0  # how many of them may hear the world

    def register(self, obj, events=POLLIN | POLLOUT):
        if not hasattr(obj, "ioctl"):
            raise OSError(9)  # EBADF: real descriptors do not mix with virtual time
        for e in self._entries:
            if e[0] is obj:
                e[1] = events
                return
        self._entries.append([obj, events])
        self._ears += hasattr(obj, "sim_ear")

    def modify(self, obj, events):
        for e in self._entries:
            if e[0] is obj:
                e[1] = events
                return
        raise OSError(2)

    def unregister(self, obj):
        for e in self._entries:
            if e[0] is obj:
                self._entries.remove(e)
                self._ears -= hasattr(obj, "sim_ear")
                return

    def _scan(self):
        ready = self._ready
        ready.clear()
        for e in self._entries:
            got = e[0].ioctl(3, e[1])
            if got > 0:
                ready.append((e[0], got))
        return len(ready) > 0

    def poll(self, timeout=-1, flags=0):
        _c.advance(_c.now + PASS_US)
        if not self._entries:
            if timeout < 0:
                if _c.idle():
                    raise _c.Deadlock("poll() for ever and nothing scheduled")
                timeout = 1 << 40
            if timeout:
                _c.advance(_c.now + timeout * 1000)
            return ()
        if self._ears:
            return self._listen(timeout)
        return self._ready if self._scan() or timeout == 0 else self._wait(timeout)

    def _listen(self, timeout):
        ears = 0
        for e in self._entries:
            if hasattr(e[0], "sim_ear") and e[0].sim_ear():
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
            nxt = end
            for e in self._entries:
                hint = getattr(e[0], "sim_next", None)
                if hint is not None and e[1] & POLLIN:
                    t = hint()
                    if t is not None and t < nxt:
                        nxt = t
            if nxt == _c.NEVER - 1 and _c.idle():
                raise _c.Deadlock("poll() for ever and nothing scheduled")
            if nxt <= _c.now:
                nxt = _c.now + PASS_US
            if _c.advance(nxt, self._scan) or self._scan():
                break
        return self._ready

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

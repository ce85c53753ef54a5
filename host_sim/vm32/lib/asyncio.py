"""asyncio of the 32-bit VM: as much of MicroPython's interface as the firmware uses, on select.poll(), which keeps virtual time.

The VM's own module runs on JavaScript's event loop and has no run(). Tasks are served in the order of their times, first come first
served among equals; a pass of the loop serves one task and asks the streams once. Nothing allocates in sleep_ms().
"""

import errno
import io
import select
import sys
from time import ticks_add, ticks_diff, ticks_ms

_IN, _OUT = select.POLLIN, select.POLLOUT


class CancelledError(BaseException):
    pass


class TimeoutError(Exception):
    pass


class Task:
    """A coroutine on its way. `await task` gives its result or raises its error."""

    def __init__(self, coro):
        self.coro = coro
        self.when = 0  # ticks at which it is to be served, while it is in the loop's queue
        self.place = None  # the list it waits in: the loop's queue, an event's, a task's, a stream's
        self.on = None  # the task it waits for
        self.throw = None
        self.value = self.error = None
        self.over = self.heard = False
        self.waiting = []

    def done(self):
        return self.over

    def cancel(self):
        """Raise CancelledError where it waits, or where the task waits that it waits for; False when it has ended."""
        if self.over:
            return False
        task = self
        while task.on is not None and not task.on.over:
            task = task.on
        if task is _now[0]:
            raise RuntimeError("can't cancel self")
        if task.place is not None:
            task.place.remove(task)
        task.on, task.throw = None, CancelledError()
        _queue(task, ticks_ms())
        return True

    def __iter__(self):
        return _Waiter(self)


class _Waiter:
    def __init__(self, task):
        self.task = task

    def __iter__(self):
        return self

    def __next__(self):
        task, me = self.task, _now[0]
        task.heard = True
        me.on = None
        if task.over:
            if task.error is not None:
                raise task.error
            raise StopIteration(task.value)
        me.on, me.place = task, task.waiting
        task.waiting.append(me)


class _Nap:
    """What sleep_ms() returns: one for all, since it is awaited on the spot."""

    def __init__(self):
        self.until = None
        self.end = StopIteration()

    def __iter__(self):
        return self

    def __next__(self):
        if self.until is None:
            self.end.__traceback__ = None  # else it grows with every raise
            raise self.end
        until, self.until = self.until, None
        _queue(_now[0], until)


_nap = _Nap()
_now = [None]  # the task that is being served
_ready = []  # tasks in the order of their times
_streams = {}  # id -> [stream, tasks that want to read, tasks that want to write]
_failed = []  # tasks whose error nobody has heard of yet
_poll = select.poll()


def _queue(task, when):
    task.when, task.place = when, _ready
    i = len(_ready)
    while i and ticks_diff(_ready[i - 1].when, when) > 0:
        i -= 1
    _ready.insert(i, task)


def _wake(tasks):
    while tasks:
        _queue(tasks.pop(0), ticks_ms())


def sleep_ms(ms):
    _nap.until = ticks_add(ticks_ms(), max(0, ms))
    return _nap


def sleep(s):
    return sleep_ms(int(s * 1000))


def current_task():
    if _now[0] is None:
        raise RuntimeError("no running event loop")
    return _now[0]


def create_task(coro):
    if not hasattr(coro, "send"):
        raise TypeError("coroutine expected")
    task = Task(coro)
    _queue(task, ticks_ms())
    return task


async def _expire(task, ms, late):
    await sleep_ms(ms)
    late.append(True)
    task.cancel()


async def wait_for_ms(aw, ms):
    """Wait for an awaitable, at most so long: then it is cancelled. Raises TimeoutError."""
    task = aw if isinstance(aw, Task) else create_task(aw)
    late = []
    timer = create_task(_expire(task, ms, late))
    try:
        return await task
    except CancelledError:
        if late:
            raise TimeoutError
        raise
    finally:
        timer.cancel()


def wait_for(aw, s):
    return wait_for_ms(aw, 1 << 29 if s is None else int(s * 1000))


class Event:
    def __init__(self):
        self._set, self._tasks = False, []

    def is_set(self):
        return self._set

    def set(self):
        self._set = True
        _wake(self._tasks)

    def clear(self):
        self._set = False

    def wait(self):
        if not self._set:
            me = _now[0]
            me.place = self._tasks
            self._tasks.append(me)
            yield
        return True


class Lock:
    """`async with lock`: one task at a time, in the order in which they came."""

    def __init__(self):
        self._held, self._tasks = False, []

    def locked(self):
        return self._held

    async def acquire(self):
        while self._held:
            me = _now[0]
            me.place = self._tasks
            self._tasks.append(me)
            await _pause()
        self._held = True
        return True

    def release(self):
        self._held = False
        if self._tasks:
            _queue(self._tasks.pop(0), ticks_ms())

    async def __aenter__(self):
        return await self.acquire()

    async def __aexit__(self, *error):
        self.release()


class ThreadSafeFlag(io.IOBase):
    """For interrupt handlers: a stream that is readable while the flag is set; waiting clears it."""

    def __init__(self):
        self._set = False

    def ioctl(self, request, flags):
        return self._set * flags & _IN if request == 3 else -1

    def set(self):
        self._set = True

    def clear(self):
        self._set = False

    async def wait(self):
        if not self._set:
            await _until(self, _IN)
        self._set = False


def _pause():
    yield


def _until(stream, event):
    """Wait until a stream is ready to be read (_IN) or written (_OUT)."""
    entry = _streams.setdefault(id(stream), [stream, [], []])
    tasks = entry[1] if event == _IN else entry[2]
    me = _now[0]
    me.place = tasks
    tasks.append(me)
    _interest(entry)
    yield


def _interest(entry):
    events = (_IN if entry[1] else 0) | (_OUT if entry[2] else 0)
    if events:
        _poll.register(entry[0], events)
    else:
        _poll.unregister(entry[0])
        del _streams[id(entry[0])]


def _ask_streams(ms):
    for entry in list(_streams.values()):
        if not entry[1] and not entry[2]:  # who waited was cancelled
            _interest(entry)
    for stream, events in _poll.ipoll(ms):
        entry = _streams[id(stream)]
        if events & ~_OUT:
            _wake(entry[1])
        if events & ~_IN:
            _wake(entry[2])
        _interest(entry)


class Stream:
    def __init__(self, s, e={}):
        self.s, self.e, self._out = s, e, b""

    def get_extra_info(self, name):
        return self.e[name]

    def close(self):
        pass

    async def wait_closed(self):
        self.s.close()

    async def read(self, n=-1):
        whole = b""
        while True:
            await _until(self.s, _IN)
            some = self.s.read(n)
            if some is None:
                continue
            whole += some
            if n >= 0 or not some:
                return whole

    async def readinto(self, buf):
        await _until(self.s, _IN)
        return self.s.readinto(buf)

    async def readexactly(self, n):
        whole = b""
        while len(whole) < n:
            await _until(self.s, _IN)
            some = self.s.read(n - len(whole))
            if some is None:
                continue
            if not some:
                raise EOFError
            whole += some
        return whole

    async def readline(self):
        line = b""
        while True:
            await _until(self.s, _IN)
            some = self.s.readline()
            if some is None:
                continue
            line += some
            if not some or line[-1:] == b"\n":
                return line

    def write(self, buf):
        if not self._out:
            sent = self.s.write(buf) or 0
            buf = buf[sent:]
        if buf:
            self._out += buf

    async def drain(self):
        while self._out:
            await _until(self.s, _OUT)
            self._out = self._out[self.s.write(self._out) or 0 :]


StreamReader = StreamWriter = Stream


async def open_connection(host, port, ssl=None):
    """Return (reader, writer). No TLS here. Raises OSError."""
    import socket

    if ssl:
        raise NotImplementedError("TLS on the 32-bit VM")
    family, kind, proto, _, address = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
    s = socket.socket(family, kind, proto)
    s.setblocking(False)
    try:
        s.connect(address)
    except OSError as e:
        if e.errno != errno.EINPROGRESS:
            raise
    stream = Stream(s)
    await _until(s, _OUT)
    return stream, stream


def _serve(task):
    """Run a task to the next point where it waits."""
    _now[0], task.place = task, None
    try:
        if task.throw is None:
            task.coro.send(None)
        else:
            error, task.throw = task.throw, None
            task.coro.throw(error)
    except StopIteration as e:
        task.value, task.over = e.value, True
    except (CancelledError, Exception) as e:
        task.error, task.over = e, True
    finally:
        _now[0] = None
    if task.over:
        _wake(task.waiting)
        if task.error is not None and not isinstance(task.error, CancelledError):
            _failed.append(task)


class Loop:
    """The one event loop; its methods are the module's."""

    _handler = None

    def create_task(self, coro):
        return create_task(coro)

    def set_exception_handler(self, handler):
        Loop._handler = handler

    def default_exception_handler(self, context):
        print(context["message"], file=sys.stderr)
        sys.print_exception(context["exception"], sys.stderr)

    def call_exception_handler(self, context):
        (Loop._handler or Loop.default_exception_handler)(self, context)

    def run_until_complete(self, aw):
        main = aw if isinstance(aw, Task) else create_task(aw)
        main.heard = True
        while not main.over:
            wait = max(0, ticks_diff(_ready[0].when, ticks_ms())) if _ready else -1
            if wait < 0 and not _streams:
                return None  # nobody will ever wake it
            _ask_streams(wait)
            told = _failed[:]
            if _ready and ticks_diff(_ready[0].when, ticks_ms()) <= 0:
                _serve(_ready.pop(0))
            for task in told:  # a pass later, so that who awaits it may hear it first
                _failed.remove(task)
                if not task.heard:
                    self.call_exception_handler(
                        {"message": "Task exception wasn't retrieved", "exception": task.error, "future": task}
                    )
        if main in _failed:
            _failed.remove(main)
        if main.error is not None:
            raise main.error
        return main.value

    def run_forever(self):
        self.run_until_complete(Event().wait())

    def close(self):
        pass


_loop = Loop()


def get_event_loop(runq_len=0, waitq_len=0):
    return _loop


def new_event_loop():
    """Forget every task."""
    global _poll
    _ready.clear()
    _streams.clear()
    _failed.clear()
    _poll = select.poll()
    Loop._handler = None
    return _loop


def run(coro):
    return _loop.run_until_complete(create_task(coro))

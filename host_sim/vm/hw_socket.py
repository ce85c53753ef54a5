"""`socket`: TCP streams whose bytes go to the world process at their virtual time."""

import errno
import io

import sim_clock as _c
import sim_link as _link
from hw_network import WLAN

AF_INET, SOCK_STREAM, SOCK_DGRAM, IPPROTO_TCP, SOL_SOCKET, SO_REUSEADDR, TCP_NODELAY = 2, 1, 2, 6, 4095, 4, 1
_EAGAIN, _ECONNRESET, _ENOTCONN = errno.EAGAIN, errno.ECONNRESET, getattr(errno, "ENOTCONN", 107)
_ETIMEDOUT, _EHOSTUNREACH, _EINPROGRESS = errno.ETIMEDOUT, getattr(errno, "EHOSTUNREACH", 113), errno.EINPROGRESS
_POLL, _RD, _WR, _ERR, _HUP = 3, 1, 4, 8, 16
_open = {}
_next = [0]
CONNECTED, DATA, CLOSED = 4, 5, 6  # delivery kinds of the world


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    if not WLAN().isconnected():
        raise OSError(-202)
    _c.spend(2000)
    return [(AF_INET, SOCK_STREAM, 0, "", (host, port))]


class socket(io.IOBase):
    """A TCP socket. Numbers as in this VM's `errno` (the esp32's differ); a socket without timeout blocks for ever, as on the board."""

    def __init__(self, af=AF_INET, type=SOCK_STREAM, proto=0):
        if type != SOCK_STREAM:
            raise OSError(93)
        self._sid = None
        self._rx = b""
        self._state = 0  # 0 new, 1 connecting, 2 connected, 3 closed by the peer, 4 refused
        self._timeout = None

    def settimeout(self, seconds):
        self._timeout = seconds

    def setblocking(self, flag):
        self._timeout = None if flag else 0

    def setsockopt(self, level, option, value):
        pass

    def connect(self, address):
        if not WLAN().isconnected():
            raise OSError(_EHOSTUNREACH)
        for other in list(_open.values()):
            if (
                other._state == 1
            ):  # given up by asyncio.open_connection() without closing: on a board its finaliser does
                other.close()
        _next[0] += 1
        self._sid = _next[0]
        _open[self._sid] = self
        self._state = 1
        _link.speak("O", "%d %s %d" % (self._sid, address[0], address[1]))
        if self._timeout == 0:
            raise OSError(_EINPROGRESS)
        self._wait(lambda: self._state != 1)
        if self._state != 2:
            raise OSError(_ECONNRESET)

    def _wait(self, done):
        _c.ear(True)
        try:
            _c.sync()
            if done():
                return
            if self._timeout == 0:
                raise OSError(_EAGAIN)
            end = _c.NEVER - 1 if self._timeout is None else _c.now + int(self._timeout * 1000000)
            while not _c.advance(end, done):
                if _c.now >= end:
                    raise OSError(_ETIMEDOUT)
        finally:
            _c.ear(False)

    def _take(self, n):
        if not self._rx and self._state == 2:
            self._wait(lambda: self._rx or self._state != 2)
        elif self._state == 0:
            raise OSError(_ENOTCONN)
        if not self._rx and self._state == 4:
            raise OSError(_ECONNRESET)
        data, self._rx = self._rx[:n], self._rx[n:]
        return data

    def recv(self, n):
        return self._take(n)

    def _or_none(self, n):
        try:
            return self._take(n)
        except OSError as e:
            if e.errno == _EAGAIN:
                return None
            raise

    def read(self, n=-1):
        if self._timeout == 0:
            return self._or_none(1 << 20 if n < 0 else n)
        out = b""
        while n < 0 or len(out) < n:
            data = self._take(1 << 20 if n < 0 else n - len(out))
            if not data:
                break
            out += data
        return out

    def readinto(self, buf, n=None):
        data = self.read(len(buf) if n is None else n)
        if data is None:
            return None
        buf[: len(data)] = data
        return len(data)

    def readline(self):
        out = b""
        while not out.endswith(b"\n"):
            data = self._or_none(1)
            if not data:
                return out or data
            out += data
        return out

    def write(self, data, n=None):
        if self._state != 2 or not WLAN().isconnected():
            raise OSError(_ECONNRESET if self._state > 2 else _ENOTCONN)
        data = bytes(data if n is None else data[:n])
        _c.spend(200)
        if data:
            _link.speak("W", "%d %s" % (self._sid, data.hex()))
        return len(data)

    def send(self, data):
        return self.write(data)

    def sendall(self, data):
        self.write(data)

    def makefile(self, *args):
        return self

    def close(self):
        if self._sid is not None and self._sid in _open:
            del _open[self._sid]
            _link.speak("C", self._sid)
        self._state = 3

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def ioctl(self, op, arg):
        if op == _POLL:
            got = 0
            if self._rx or self._state > 2:
                got |= _RD
            if self._state == 2:
                got |= _WR
            return got & arg | (_HUP | _ERR if self._state == 4 else 0)
        if op == 4:
            self.close()
            return 0
        return -1

    def sim_ear(self):
        """poll() keeps an ear open while it waits for this socket."""
        return self._state in (1, 2)


def _connected(data):
    s = _open.get(data[0])
    if s is not None:
        s._state = 2 if data[1] else 4


def _data(data):
    s = _open.get(data[0])
    if s is not None:
        s._rx += data[1:]


def _closed(data):
    s = _open.get(data[0])
    if s is not None:
        s._state = 3


_link.handlers[CONNECTED] = _connected
_link.handlers[DATA] = _data
_link.handlers[CLOSED] = _closed

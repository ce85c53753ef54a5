"""The line to the world process: lines out, granted horizons and deliveries in.

Out: "<op> <now_us> ...\\n". In, only as the answer to an `A` line: <grant_us int64, length uint32> then `length` bytes of
deliveries, each <kind uint8, t_us int64, length uint16> + data. See host_sim/protocol.py, which states every op.
"""

import struct

import sim_clock as _c

_file = None
_head = bytearray(12)
handlers = {}  # delivery kind -> function(data: bytes)
keep = None  # function(kind): a reset or deep sleep comes; what must outlive it is sent now


class Reset(BaseException):
    """machine.reset(), deepsleep() or a watchdog bite in a VM without a world: `kind`, `arg`."""

    def __init__(self, kind, arg):
        super().__init__(kind, arg)
        self.kind, self.arg = kind, arg


def connect(fd):
    """Take the inherited descriptor `fd` as the line; the clock asks through it from now on."""
    global _file
    _file = open(fd, "r+b")
    _c.ask = ask
    _c.horizon = _c.free_horizon = _c.ear_horizon = _c.now
    _c.on_beat = lambda: send("B", "")
    _c.beat = _c.now + _c.BEAT_US


def there():
    """True when there is a world on the line."""
    return _file is not None


def send(op, rest):
    """Tell the world; nothing happens in a VM without one."""
    if _file is not None:
        _file.write("%s %d %s\n" % (op, _c.now, rest))


def send_hex(op, data):
    """Tell the world bytes, in pieces: what a stand-in says must not need a stretch of the firmware's heap."""
    if _file is None:
        return
    _file.write("%s %d " % (op, _c.now))
    for i in range(0, len(data), 32):
        _file.write(data[i : i + 32].hex())
    _file.write("\n" if data else "-\n")


def speak(op, rest):
    """Tell the world something that may be answered."""
    _c.spoke()
    send(op, rest)


def ask(target):
    """Block until the world lets this VM run on, at most to `target`; what it delivers becomes events."""
    _file.write("A %d %d %d\n" % (_c.now, target, _c.listening))
    _file.readinto(_head)
    t, n = struct.unpack("<qI", _head)
    _c.granted(t)
    if not n:
        return
    data = _file.read(n)
    at = 0
    while at < n:
        kind, t, size = struct.unpack_from("<BqH", data, at)
        at += 11
        _c.at(t, handlers[kind], data[at : at + size])
        at += size


def final(kind, arg):
    """Say the last word of this boot and never return: the world kills the process here."""
    if keep is not None and kind in "RZ":
        keep(kind)
    if _file is None:
        raise Reset(kind, arg)
    send(kind, arg)
    while True:
        if not _file.read(1):
            raise SystemExit


_c.final = final

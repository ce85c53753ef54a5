"""Torture in the VM: tells the world every operation of flash and NVS before it happens, and what the firmware was about.

Messages (host_sim/torture_line.py reads them): J <label> p <block> <offset> <hex>, J <label> e <block>, J <label> n (an NVS commit follows as N),
P as in sim_boot.py, but of rows without a time, too, S <epoch> <counter> <hex> a frame was sealed, V <counters> an eviction begins, D <depth> of the outbox when it changed.
`label` names the innermost of LABELS at work. The boot file's "torture": {"record": bool, "acts": [[us, label, code], ...]}; an act is
what a technician's laptop or an update over the air does to the node at that time.
"""

import gc
import sys

import hw_esp32
import sim_clock as _c
import sim_flash
import sim_link
from micropython import heap_lock, heap_unlock
from sim_link import send

# (module, class or "", function, label)
LABELS = (
    ("slots", "", "begin", "slot"),
    ("slots", "", "prove", "slot"),
    ("slots", "", "stage", "slot"),
    ("slots", "", "switch", "slot"),
    ("mote.staging", "Staging", "add", "append"),
    ("mote.batcher", "Batcher", "close", "close"),
    ("mote.batcher", "Batcher", "recover", "recover"),
    ("mote.batcher", "Batcher", "date", "date"),
    ("mote.outbox", "Outbox", "ack", "ack"),
    ("mote.outbox", "Outbox", "_evict", "evict"),
    ("mote.counter", "Counter", "take", "counter"),
    ("mote.identity", "Identity", "offer", "rekey"),
    ("mote.identity", "Identity", "change", "rekey"),
    ("mote.identity", "Identity", "_follow", "rekey"),
    ("mote.config", "Config", "proven", "config"),
    ("mote.config", "Config", "change", "config"),
    ("mote.downlink", "Downlink", "_raise_floor", "floor"),
    ("mote.app", "Node", "raise_alarm", "alarm"),
    ("mote.health", "Health", "send", "status"),
    ("mote.supervisor", "", "failed", "crash"),
)
_stack = [b"other"]
_HEX = b"0123456789abcdef"
_depth = -1


class SteadyGc:
    """`gc` for mote.health: what is free differs by some blocks with the host's stack, and cut points shall keep their numbers."""

    collect = gc.collect

    @staticmethod
    def mem_free():
        return 60000


class Recorder(sim_flash.Flash):
    """The flash chip; every program and erase is told first. Silent while `recording` is off.

    It is called inside littlefs, which holds objects by pointers that the collector does not follow: a collection there would free a file
    that is being opened (seen: the VM crashes later). So nothing here allocates, and the locked heap proves it.
    """

    recording = False

    def __init__(self, file, size):
        super().__init__(file, size)
        self._line = bytearray(2 * sim_flash.BLOCK + 80)

    def _begin(self):
        if _c.cut_at - _c.now < 50000:  # the life's own cut falls between operations: the journal knows no half ones
            _c.now = _c.cut_at
            _c.final("X", 0)
        heap_lock()

    def _number(self, at, n):
        line, ten = self._line, 1
        while ten * 10 <= n:
            ten *= 10
        while ten:
            line[at] = 48 + n // ten % 10
            at += 1
            ten //= 10
        line[at] = 32
        return at + 1

    def _head(self, kind, block):
        line = self._line
        line[0], line[1] = 74, 32
        at = self._number(2, _c.now)
        label = _stack[-1]
        for i in range(len(label)):
            line[at] = label[i]
            at += 1
        line[at], line[at + 1], line[at + 2] = 32, kind, 32
        return self._number(at + 3, block)

    def _tell(self, at):
        self._line[at] = 10
        sim_link._file.write(self._line, at + 1)

    def writeblocks(self, block, buf, off=0):
        if not self.recording:
            return super().writeblocks(block, buf, off)
        self._begin()
        line = self._line
        at = self._number(self._head(112, block), off)
        for i in range(len(buf)):
            b = buf[i]
            line[at] = _HEX[b >> 4]
            line[at + 1] = _HEX[b & 15]
            at += 2
        self._tell(at)
        super().writeblocks(block, buf, off)
        heap_unlock()

    def ioctl(self, op, arg):
        if op != 6 or not self.recording:
            return super().ioctl(op, arg)
        self._begin()
        self._tell(self._head(101, arg) - 1)
        super().ioctl(op, arg)
        heap_unlock()
        return 0


def _commits():
    commit = hw_esp32.NVS.commit

    def told(self):
        send("J", _stack[-1].decode() + " n")
        commit(self)

    hw_esp32.NVS.commit = told


def _labelled(call, label):
    label = label.encode()

    def wrapped(*args):
        _stack.append(label)
        try:
            return call(*args)
        finally:
            _stack.pop()

    return wrapped


def _label(modules):
    for module, cls, name, label in LABELS:
        if module in modules:
            owner = sys.modules[module]
            owner = getattr(owner, cls) if cls else owner
            setattr(owner, name, _labelled(getattr(owner, name), label))


def start(config, flash):
    """Before boot.py: begin to record, plan the acts."""
    if config["record"]:
        flash.recording = True
        _commits()
        import slots

        assert slots  # boot.py gets the same module
        _label(("slots",))
    for t, label, code in config["acts"]:
        _c.at(t, _act, (label, code))


def _act(what):
    _stack.append(what[0].encode())
    exec(what[1], {})
    _stack.pop()


def watch(record):
    """Between boot.py, which chose the slot, and main.py: look into the application. What cannot be imported main.py will meet itself."""
    try:
        for module, _, _, _ in LABELS:
            __import__(module)
        from mote import batcher, health, outbox, sealer
    except Exception as e:
        sys.print_exception(e)
        return
    health.gc = SteadyGc
    _watch_batcher(batcher.Batcher)
    _watch_sealer(sealer.Sealer)
    _watch_outbox(outbox.Outbox)
    if record:
        outbox.Outbox._write = _rollover(outbox.Outbox._write)
        _label([m for m, _, _, _ in LABELS if m != "slots"])


def _watch_batcher(cls):
    append = cls.append

    def told(self, t, values, present):
        append(self, t, values, present)
        ids = self.ids
        send("P", "%d %s" % (t, ",".join(["%d:%d" % (ids[c], values[c]) for c in range(len(ids)) if present >> c & 1])))

    cls.append = told


def _watch_sealer(cls):
    finish = cls.finish

    def told(self, end):
        n = finish(self, end)
        send("S", "%d %d %s" % (self._epoch, self.counter, bytes(self.buf[:n]).hex()))
        return n

    cls.finish = told


def _watch_outbox(cls):
    evict, scan, append, ack, drop = cls._evict, cls._scan, cls.append, cls.ack, cls.drop

    def told_evict(self):
        i = 0
        for j in range(self.depth):
            if self.kinds[j] != 1:
                i = j
                break
        gone = [self.counters[j] for j in range(self.depth) if self._segment[j] == self._segment[i]]
        send("V", ",".join([str(c) for c in gone]))
        evict(self)

    def depth(call):
        def wrapped(self, *args):
            global _depth
            try:
                return call(self, *args)
            finally:
                if self.depth != _depth:
                    _depth = self.depth
                    send("D", _depth)

        return wrapped

    cls._evict = told_evict
    cls._scan, cls.append, cls.ack, cls.drop = depth(scan), depth(append), depth(ack), depth(drop)


def _rollover(write):
    """_write() with its label: "rollover" when the frame does not fit the open segment any more."""

    def wrapped(self, alarm, kind, counter, buf, n, rows, stage, upto):
        current = self._open[alarm]
        full = current is not None and self._used.get(current[0], 0) + 16 + n + 4 > 4096
        _stack.append(b"rollover" if full else _stack[-1])
        try:
            return write(self, alarm, kind, counter, buf, n, rows, stage, upto)
        finally:
            _stack.pop()

    return wrapped

"""Helpers for tests of the engine: a gateway that fits in the VM, a scripted link, a RAM flash whose power can be cut."""

import asyncio
import gc
import json
import os
import random

import esp32
import sim_clock
import sim_hw
import vfs
from cryptolib import aes
from mote import log
from motewire import cbor, messages
from motewire.ccm import Ccm
from motewire.errors import BadTag
from motewire.frame import DOWN, DOWNLINK, UP, parse_header, put_header, put_nonce

log.echo = None
KEY = bytes(range(16))
NODE = 0x0107
UNIX = 1767225600  # 2026-01-01T00:00:00Z


class Cut(BaseException):
    """The power is gone."""


class RamFlash:
    """A littlefs block device in RAM that stops after `budget` writes and erases; with `tear` half of the last write still happens.

    `old` devices belong to boots that are over: files of theirs, closed late by the garbage collector, change nothing.
    """

    def __init__(self, data, size):
        self.data, self.size = data, size
        self.budget = -1
        self.ops = 0
        self.tear = self.dead = self.old = False

    def _cut(self):
        if self.dead:
            raise Cut
        if self.budget == 0:
            self.dead = True
            return True
        self.budget -= 1
        self.ops += 1
        return False

    def readblocks(self, block, buf, off=0):
        if self.old:
            return
        at = block * self.size + off
        buf[:] = self.data[at : at + len(buf)]

    def writeblocks(self, block, buf, off=0):
        if self.old:
            return
        at = block * self.size + off
        if self._cut():
            if self.tear:
                half = len(buf) // 2
                self.data[at : at + half] = buf[:half]
            raise Cut
        self.data[at : at + len(buf)] = buf

    def ioctl(self, op, arg):
        if self.old:
            return 0
        if op == 4:
            return len(self.data) // self.size
        if op == 5:
            return self.size
        if op == 6:
            if self._cut():
                raise Cut
            at = arg * self.size
            self.data[at : at + self.size] = b"\xff" * self.size
        return 0


class Disk:
    """A flash chip mounted at /d. mount() is "power on": nothing of the boot before may still be referenced by the test."""

    def __init__(self, blocks=48, size=512):
        try:
            vfs.umount("/d")  # of a test that failed
        except OSError:
            pass
        # one stretch of the heap: a second one for what it is filled with is not always there
        self.data = bytearray(blocks * size)
        for i in range(blocks):
            self.data[i * size : (i + 1) * size] = b"\xff" * size
        self._size = size
        vfs.VfsLfs2.mkfs(RamFlash(self.data, size), progsize=32, readsize=32, lookahead=32)
        self.flash = self._fs = None

    def mount(self):
        self.umount()
        self.flash = RamFlash(self.data, self._size)
        self._fs = vfs.VfsLfs2(self.flash, progsize=32, readsize=32, lookahead=32)
        vfs.mount(self._fs, "/d")

    def umount(self):
        if self.flash is not None:
            self.flash.old = True
            vfs.umount("/d")
            gc.collect()  # its files are finalised while their file system still exists
            self.flash = self._fs = None


class Folder:
    """Disk's face on a VM without littlefs: a folder of the file system there is. Its power cannot be cut, and it is never full."""

    def __init__(self, blocks=48, size=512):
        try:
            os.mkdir("/d")
        except OSError:
            _empty("/d")

    def mount(self):
        gc.collect()

    umount = mount


def _empty(folder):
    for entry in list(os.ilistdir(folder)):
        name = folder + "/" + entry[0]
        if entry[1] == 0x4000:
            _empty(name)
            os.rmdir(name)
        else:
            os.remove(name)


if not hasattr(vfs, "VfsLfs2"):
    Disk = Folder


class Store:
    """An NVS in RAM with mote.hal.nvs.Nvs's face; `budget` counts commits before the power goes."""

    def __init__(self, **values):
        self.values = dict(values)
        self.budget = -1

    def get(self, key):
        return self.values.get(key)

    def put(self, key, value):
        if self.budget == 0:
            raise Cut
        self.budget -= 1
        self.values[key] = value

    def get_blob(self, key, size):
        return self.values.get(key)

    put_blob = put


class Gateway:
    """Opens what nodes send and answers as the contract says. frames: {counter: (kind, plaintext)}."""

    def __init__(self, key=KEY, node=NODE, epoch=0):
        self.key, self.node, self.epoch = key, node, epoch
        self.ccm = Ccm(aes(key, 1))
        self.frames = {}
        self.copies = {}
        self.down = 0
        self.clock = None
        self.extra = {}
        self.ack_all = False
        self.last = 0

    def take(self, frame):
        """Return (kind, counter, payload object) of a frame; keeps its plaintext."""
        kind, node, counter, is_long, slot, at = parse_header(frame)
        assert node == self.node and slot == self.epoch & 3
        top = max(self.frames) if self.frames else 0
        if not is_long:
            base = max(0, top - 64)
            counter |= base & ~0xFFFF
            if counter < base:
                counter += 0x10000
        try:
            body, end = self._open(frame, at, node, counter)
        except BadTag:  # a frame of earlier boots, which newer ones have overtaken
            counter &= 0xFFFF
            body, end = self._open(frame, at, node, counter)
        plain = bytes(body[at:end])
        if counter in self.frames:
            assert self.frames[counter] == (kind, plain), "a counter sealed two plaintexts"
        self.frames[counter] = (kind, plain)
        self.copies[counter] = self.copies.get(counter, 0) + 1
        self.last = counter
        return kind, counter, cbor.read(plain, 0, len(plain))

    def _open(self, frame, at, node, counter):
        nonce = bytearray(13)
        put_nonce(nonce, UP, node, self.epoch, counter)
        body = bytearray(frame)
        return body, self.ccm.open(body, at, len(body), nonce)

    def seal(self, payload, counter=None, node=None, long_counter=True):
        """Return a sealed downlink frame with this map."""
        if counter is None:
            self.down += 1
            counter = self.down
        buf = bytearray(600)
        at = put_header(buf, DOWNLINK, node or self.node, counter, self.epoch & 3, long_counter)
        nonce = bytearray(13)
        put_nonce(nonce, DOWN, node or self.node, self.epoch, counter)
        end = self.ccm.seal(buf, at, cbor.put_any(buf, at, payload), nonce)
        return buf[:end]

    def ack(self):
        """The downlink that says what has arrived."""
        top = max(self.frames)
        bits = bytearray(8)
        since = max(0, top + 1 - 64)
        for i in range(64):
            c = top - i
            if c > 0 and c not in self.frames:
                bits[i >> 3] |= 0x80 >> (i & 7)
        payload = {1: top + 1}
        used = len(bytes(bits).rstrip(b"\0"))
        if used:
            payload[2] = bytes(bits[:used])
        if self.last < since:  # history: the answer speaks of this counter alone
            payload = {1: self.last + 1, 8: self.last}
        elif since:
            payload[8] = since
        if self.clock is not None:
            payload[3] = self.clock()
        payload.update(self.extra)
        self.extra = {}
        return self.seal(payload)

    def frames_of(self, kind):
        """Payloads of one kind, by counter."""
        plain = [self.frames[c][1] for c in sorted(self.frames) if self.frames[c][0] == kind]
        return [cbor.read(p, 0, len(p)) for p in plain]

    def up(self):
        """What is up for whoever has these alarms: {(quantity, code)}. A clear ends every one of its quantity."""
        out = set()
        for code, _, quantity in [p[:3] for p in self.frames_of(1)]:
            out = {a for a in out if a[0] != quantity} if code == 1 else out | {(quantity, code)}
        return out

    def rows(self):
        """Every row of every report: [(t2000, {id: value})], decoded by tests/vm's own reader."""
        out = []
        for counter in sorted(self.frames):
            kind, plain = self.frames[counter]
            if kind == 0:
                out.extend(unpack(cbor.read(plain, 0, len(plain))))
        return out


class Bits:
    def __init__(self, data):
        self.data, self.at = data, 0

    def get(self, n):
        v = 0
        for _ in range(n):
            v = v << 1 | self.data[self.at >> 3] >> 7 - (self.at & 7) & 1
            self.at += 1
        return v

    def eg(self, m):
        n = 0
        while not self.get(1):
            n += 1
        w = 1 << n | self.get(n)
        return w - 1 << m | self.get(m)

    def rice(self, k):
        q = 0
        while q < 8 and self.get(1):
            q += 1
        return q << k | self.get(k) if q < 8 else (8 << k) + self.eg(k)


def unzig(u):
    return u >> 1 if not u & 1 else -(u + 1 >> 1)


def unpack(report):
    """Rows of a packed report by the letter of WIRE.md section 3: [(t2000, {id: value})]."""
    from motewire.interval import seconds_of
    from motewire.schemas import SCHEMAS

    schema, stamp, code, rows, data = report[:5]
    ids = schema if isinstance(schema, list) else SCHEMAS[schema]
    bits = Bits(data)
    times = [stamp - 946684800]
    if code > 0:
        times += [times[0] + i * seconds_of(code) for i in range(1, rows)]
    elif rows > 1:
        nominal = -1 - code if code else 0
        k = bits.get(4)
        for _ in range(1, rows):
            u = 0 if k == 15 else bits.rice(k)
            times.append(times[-1] + (nominal + unzig(u) if nominal else u))
    out = [(t, {}) for t in times]
    for q in ids:
        gaps = bits.get(1)
        there = [i for i in range(rows) if not gaps or bits.get(1)]
        if not there:
            continue
        v = unzig(bits.eg(6))
        k = bits.get(4) if len(there) > 1 else 15
        out[there[0]][1][q] = v
        for i in there[1:]:
            if k != 15:
                v += unzig(bits.rice(k))
            out[i][1][q] = v
    return out


class Link:
    """The bearer between a node and a Gateway. up_loss, down_loss: chances in percent; quiet: the gateway is away."""

    def __init__(self, gateway, max_frame=222, acks_all=False):
        self.gateway, self.max_frame, self.acks_all = gateway, max_frame, acks_all
        self.ack_wait_ms = self.answer_ms = self.radio_ms = 0
        self.up = True
        self.on_frame = self.on_up = None
        self.up_loss = self.down_loss = 0
        self.quiet = False
        self.log = []  # (ms, kind, counter, listen)

    def ready_in_ms(self, n, alarm):
        return 0

    async def run(self):
        while True:
            await asyncio.sleep(3600)

    async def send(self, buf, n, kind, listen):
        await asyncio.sleep_ms(60)
        frame = bytes(buf[:n])
        lost = self.quiet or random.randint(0, 99) < self.up_loss
        if lost:
            self.log.append((sim_clock.now // 1000, kind, -1, listen))
        else:
            kind, counter, _ = self.gateway.take(frame)
            self.log.append((sim_clock.now // 1000, kind, counter, listen))
        if listen:
            await asyncio.sleep_ms(1000)
            if not lost and random.randint(0, 99) >= self.down_loss:
                self.on_frame(self.gateway.ack(), -90, 20)


class Scripted:
    """A sensor that says what `value(slot)` says; raises what `error` holds."""

    def __init__(self, channels, value):
        self.CHANNELS, self.value = channels, value
        self.error = None
        self.reads = 0

    async def read_into(self, out):
        self.reads += 1
        if self.error is not None:
            raise self.error
        await asyncio.sleep_ms(20)
        v = self.value()
        for i in range(len(self.CHANNELS)):
            out[i] = v + i


def clean():
    """A factory-new flash at / and empty NVS and RTC memory."""
    import machine

    for name in os.listdir("/"):
        try:
            os.remove("/" + name)
        except OSError:
            pass
    for folder in ("/out", "/stage"):
        try:
            for name in os.listdir(folder):
                os.remove(folder + "/" + name)
        except OSError:
            pass
    machine.fill_rtc(b"")
    esp32._store.clear()
    esp32._store["citymote"] = {"key": KEY.hex(), "epoch": 0, "ceiling": 0}
    sim_hw.i2c.clear()
    sim_hw.uart.clear()


def known_time(unix=UNIX):
    """Set the board's clock."""
    sim_clock.rtc_off = (unix - 946684800) * 1000000 - sim_clock.now


def unix_now():
    return (sim_clock.now + sim_clock.rtc_off) // 1000000 + 946684800


_node = []  # the last one made


def _forget():
    """A reset takes the open files of the boot before; in one VM somebody has to."""
    while _node:
        old = _node.pop()
        for current in old.outbox._open:
            if current is not None and current[1] is not None:
                current[1].close()
        old.outbox._open = [None, None]


def make_node(link, sensors=None, profile="air_quality", written=None, **config):
    """Return a Node on `link`; sensors: list of mote.sampler.Sensor in place of the profile's chips. written: the configuration
    is on flash already."""
    from mote import supervisor
    from mote.app import Node
    from mote.config import Config
    from mote.hal.board import Board
    from mote.hal.nvs import Nvs
    from mote.identity import Identity

    values = {"node": NODE, "profile": profile, "hello_s": 2, "jitter_s": 5, "wdt_s": 0, "log": 2}
    values.update(config)
    if written is None:
        with open("/config.json", "w") as f:
            json.dump(values, f)
    if sensors is not None:
        from mote.profiles.opening import open_profile

        cls = open_profile(profile)
        cls.build = lambda self, board, config, keep: sensors
    _forget()
    supervisor.begin()
    log.level = 2
    nvs = Nvs()
    identity = Identity(nvs)
    board = Board({"i2c": {"0": {"scl": 22, "sda": 21}}, "uart": {"2": {"tx": 17, "rx": 16}}, "i2s": {"0": {"sck": 1, "ws": 2, "sd": 3}},
                   "pulse": {"0": {"pin": 34}}})  # fmt: skip
    node = Node(Config(rtc=supervisor.rtc, nvs=nvs), board, nvs, identity, link, aes(identity.key, 1))
    _node.append(node)
    return node


async def run_for(node, seconds):
    """Run a node for so many virtual seconds; what ends it before that is raised."""
    task = asyncio.create_task(node.run())
    for _ in range(seconds // 3600):
        await asyncio.sleep(3600)
        if task.done():
            await task
    await asyncio.sleep(seconds % 3600)
    if task.done():
        await task
    task.cancel()
    node.sampler.stop()
    for t in node.supervisor._tasks:
        t.cancel()
    await asyncio.sleep_ms(0)


__all__ = ("messages",)

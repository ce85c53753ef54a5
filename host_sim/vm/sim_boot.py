"""Runs first in every simulated boot: mounts the flash, loads the stand-ins, hands over to boot.py and main.py.

argv[1] is the boot file (JSON, written by host_sim/vm/run.py or the fleet; keys in host_sim/protocol.py).
"""

# ruff: noqa: E402
import gc
import io
import json
import os
import sys
import vfs

with open(sys.argv[1]) as _f:
    _cfg = json.load(_f)
_lib = sys.argv[1][: sys.argv[1].rfind("/")] if "lib" not in _cfg else _cfg["lib"]
_mapped = _cfg.get("standins")
if _mapped:  # their bytecode stays where it is: the heap does not hold it, nor does the collector look at it
    import uctypes

    vfs.mount(vfs.VfsRom(uctypes.bytearray_at(_mapped["at"], _mapped["size"])), "/sim")
sys.path[:] = ["/sim", ".frozen"] if _mapped else [_lib, _cfg["chips"], ".frozen"]

import sim_clock
import sim_flash
import sim_hw
import sim_link
import sim_standins

sim_standins.load(_cfg)
_torture = _cfg.get("torture")
if _torture:
    import sim_torture
_fresh = False
if _cfg.get("image"):
    try:
        _img = open(_cfg["image"], "r+b")
    except OSError:
        _fresh = True
        with open(_cfg["image"], "wb") as _img:
            for _ in range(_cfg["flash"] // 4096):
                _img.write(sim_flash.ERASED)
        _img = open(_cfg["image"], "r+b")
    sim_hw.flash = (sim_torture.Recorder if _torture else sim_flash.Flash)(_img, _cfg["flash"])
    if _fresh:
        vfs.VfsLfs2.mkfs(sim_hw.flash)
    _root = vfs.VfsLfs2(sim_hw.flash, readsize=_cfg.get("readsize", 32), mtime=_cfg.get("mtime", True))
else:
    _root = vfs.VfsPosix(_cfg["folder"])
_files = {}
if _fresh:
    for _name in _cfg.get("files", ()):
        with open(_cfg["files"][_name], "rb") as _f:
            _files[_name] = _f.read()
_rom = vfs.VfsPosix(_cfg["rom"]) if _cfg.get("rom") else None
_extra = [vfs.VfsPosix(p) for p in _cfg.get("path", ())]
_chips = vfs.VfsPosix(_cfg["chips"]) if _cfg.get("keep_chips") else None
_script = _cfg.get("script")
_code = None
if _script:
    with open(_script) as _f:
        _code = _f.read()
if _cfg.get("fd") is not None:
    sim_link.connect(_cfg["fd"])
vfs.umount("/")
if _mapped:
    vfs.umount("/sim")  # what was imported stays
vfs.mount(_root, "/")
sys.path[:] = ["", ".frozen", "/lib"]
if _rom:
    vfs.mount(_rom, "/root", readonly=True)
    sys.path.insert(1, "/root")
for _i, _x in enumerate(_extra):
    vfs.mount(_x, "/host%d" % _i, readonly=True)
    sys.path.append("/host%d" % _i)
if _chips:
    vfs.mount(_chips, "/chips_parent", readonly=True)
    sys.path.append("/chips_parent")
if _cfg.get("romfs"):
    sys.modules["sim_rom"].mount()
os.chdir("/")
for _name in _files:
    for _i in range(1, len(_name)):
        if _name[_i] == "/":
            try:
                os.mkdir(_name[:_i])
            except OSError:
                pass  # made for the file before
    with open(_name, "wb") as _f:
        _f.write(_files[_name])
sim_clock.now = sim_clock.boot  # formatting and provisioning happened at the factory
if _cfg.get("image") and _cfg.get("fd") is not None:
    sim_hw.flash.erases = 0

    def _tell():
        """The beat: erases if there were any, else that this VM is still here."""
        if not sim_hw.flash.tell(sim_link.send):
            sim_link.send("B", "")

    def _last(kind, arg, final=sim_link.final):
        sim_hw.flash.tell(sim_link.send)
        final(kind, arg)

    sim_clock.on_beat = _tell
    sim_link.final = sim_clock.final = _last
    del _tell, _last
_argv = _cfg.get("argv", [])
_want = _cfg["heap"]
_probing = _cfg.get("probe")
_takes = _cfg.get("python_us")
del _cfg, _mapped, _f, _root, _files, _rom, _extra, _chips, _fresh, sim_standins
sys.modules.pop("sim_standins")
gc.collect()
_used = gc.mem_alloc()
if gc.mem_free() < _want:
    raise MemoryError("the stand-ins leave less heap than promised: %d bytes short" % (_want - gc.mem_free()))
# in small pieces: they fill the holes start-up left at the bottom, and the firmware gets the whole stretch above
sim_hw.ballast = []
while (
    gc.mem_free() > _want + 2048
):  # asking walks the heap: many pieces between two questions while there is much to fill
    for _ in range(max(1, (gc.mem_free() - _want - 2048) // 1024)):
        sim_hw.ballast.append(bytes(440))
sim_link.send("H", "%d %d" % (_used, gc.mem_free()))
del _used, _want


def _run(name):
    """Run a start-up file as the port does: exec in __main__; from the flash, else from /rom."""
    for path in (name, "/root/" + name):
        try:
            with open(path) as f:
                source = f.read()
        except OSError:
            continue
        exec(compile(source, name, "exec"), globals())
        return


def _probe(modules):
    """modules: {name: (class, function)}. Call function(module) as soon as the firmware has imported it: what it does not import costs it nothing.
    An application that lacks one will meet that itself."""
    import builtins

    inside, loaded, names = builtins.__import__, sys.modules, list(modules)

    def watching(*args):
        module = inside(*args)
        for name in names:
            if name in loaded and hasattr(loaded[name], modules[name][0]):  # and not half of it
                modules[name][1](loaded[name])
                names.remove(name)
                break  # the others with the next import
        return module

    builtins.__import__ = watching


def _taking(us):
    """The clock stands while the VM computes: what this module's part of a start takes a board passes when it has been imported."""

    def passes(_module):
        sim_clock.advance(sim_clock.now + us)

    return "__name__", passes


_held = []  # not empty: the world knows of rows that a power cut would take


def _taken(first, t, ids, values, present, held, send=sim_link.send, waiting=_held):
    """A row was taken; one without a time (seconds since power-on, below `first`) is reported when it gets one. held: a power cut would take it."""
    if t >= first:
        row = ",".join(["%d:%d" % (ids[c], values[c]) for c in range(len(ids)) if present >> c & 1])
        send("G" if held else "P", "%d %s" % (t, row))
        if held and not waiting:
            waiting.append(t)


def _on_flash(send=sim_link.send, waiting=_held):
    """What was held is persisted."""
    if waiting:
        waiting.clear()
        send("Y", 0)


def _probe_batcher(module, say=_taken, on_flash=_on_flash):
    """Tell the world which rows were taken, and when those that wait are on flash: mote.staging brings `stage_every` at a time there."""
    append, first = module.Batcher.append, getattr(module, "FIRST", 0)
    close = getattr(module.Batcher, "close", None)  # not every application has one

    def appended(self, t, values, present):
        result = append(self, t, values, present)
        held = getattr(getattr(self, "_staging", None), "_waiting", 0) > 0
        if not held:
            on_flash()
        say(first, t, self.ids, values, present, held)
        return result

    def closed(self):
        result = close(self)
        on_flash()  # sealed, or parked
        return result

    module.Batcher.append = appended
    if close:
        module.Batcher.close = closed


def _probe_staging(module, say=_taken, memory=io.BytesIO):
    next_row, first = module.Staged.next_row, getattr(module, "FIRST", 0)

    def wrapped(self):
        there = next_row(self)
        if there:
            say(first, self.t, self.ids, self.values, self.present, isinstance(self._f, memory))
        return there

    module.Staged.next_row = wrapped


def _probe_outbox(module, send=sim_link.send):
    """Tell the world how deep the outbox is, whenever that changes."""

    def deep(change, seen):
        def wrapped(self, *args):
            result = change(self, *args)
            if self.depth != seen[0]:
                seen[0] = self.depth
                send("D", self.depth)
            return result

        return wrapped

    seen = [0]
    for name in ("_scan", "append", "ack", "drop"):
        setattr(module.Outbox, name, deep(getattr(module.Outbox, name), seen))


if _code is not None:
    sys.argv[:] = _argv
    _compiled = compile(_code, _script, "exec")
    del _code
    exec(_compiled, globals())
else:
    del _code, _script, _argv
    if _torture:
        sys.modules["sim_torture"].start(_torture, sim_hw.flash)
    try:
        _run("boot.py")
        _watched = {}
        if _probing:
            _watched["mote.batcher"] = ("Batcher", _probe_batcher)
            _watched["mote.staging"] = ("Staged", _probe_staging)
            _watched["mote.outbox"] = ("Outbox", _probe_outbox)
        for _name in _takes or ():
            _watched[_name] = _taking(_takes[_name])
        if _watched:
            _probe(_watched)
        if _torture:
            sys.modules["sim_torture"].watch(_torture["record"])
        _run("main.py")
        sim_link.final("E", "main.py ended")
    except SystemExit:
        sim_link.final("R", "soft")
    except sim_link.Reset:
        raise
    except BaseException as e:  # what would end at the REPL on a board
        import io

        sys.print_exception(e)
        _text = io.StringIO()
        sys.print_exception(e, _text)
        sim_link.final("E", _text.getvalue().replace("\n", "|"))

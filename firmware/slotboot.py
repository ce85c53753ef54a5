"""What slots.py does once a boot, and only then in memory: choose the slot, compare the SHA-256 of an image, mount it.

Lives in the flash root beside slots.py and is never updated itself.
"""

import os
import sys
from binascii import crc32

import slots

_WDT_MS = 300000  # an update that hangs on import is bitten; the application sets its own timeout
_FOR_MPY, _FOR_IMAGE = 4, 40  # bytes of /a/ok
_RTC_MAGIC = 0xC1  # as mote/hal/rtc.py writes it
_ASLEEP = 7
_VISIT_S = 30  # how long a board without an application waits for a technician
_LOST_MS = 3600000


def begin():
    """slots.begin()."""
    _leave_ports_mount()
    proven, trying, tries = state()
    asleep = _slept()
    if trying:
        if mark(trying) and (asleep or tries and _kept(proven, trying, tries - 1)):
            _guard()
            if not _enter(trying, asleep):
                slots.trial = trying
                return
        slots.rolled_back = True
        _kept(proven, "", 0)
    others = ("a", "b") if not proven else ("b", "") if proven == "a" else ("a", "")
    why = []
    for slot in (proven,) + others:
        wrong = _enter(slot, asleep)
        if not wrong:
            break
        why.append("slot %s: %s" % (slot or "/", wrong))
    else:
        slots.problem = "no application; " + "; ".join(why)
        return
    slots.stray = slot != proven
    if slots.stray and proven:
        _guard()


def lost():
    """slots.lost()."""
    import machine
    import time

    print("error:", slots.problem)
    print("next: ctrl-C now, then write an image into a slot (slotwork.Writer), and reset")
    time.sleep(_VISIT_S)
    machine.deepsleep(_LOST_MS)


def half(slot):
    """Return the memoryview of this slot's half of the partition "romfs". Raises ValueError: the board has none."""
    try:
        import vfs

        rom = memoryview(vfs.rom_ioctl(2, 0))
    except (ImportError, AttributeError, TypeError, OSError):  # no ROMFS in this MicroPython; no such partition
        raise ValueError("no partition romfs")
    size = len(rom) // 8192 * 4096
    return rom[:size] if slot == "a" else rom[size : 2 * size]


def whole(rom, size, sha256):
    """True when the first `size` bytes of memoryview `rom` have this SHA-256."""
    from hashlib import sha256 as new

    return 0 < size <= len(rom) and new(rom[:size]).digest() == sha256


def _enter(slot, asleep):
    """Put the slot first on sys.path; return what is wrong with it, or ""."""
    if slot:
        found = mark(slot)
        if not found:
            return "not staged"
        where = "/" + slot
        if len(found) == _FOR_IMAGE:
            where = "/rom_" + slot
            wrong = _mount(slot, where, found, asleep)
            if wrong:
                return wrong
        sys.path.insert(0, where)
        slots.name, slots.path = slot, where
        return ""
    try:
        __import__("mote")
    except (KeyboardInterrupt, Exception) as e:
        sys.modules.pop("mote", None)
        return repr(e)
    return ""


def _mount(slot, where, found, asleep):
    import vfs

    try:
        rom = half(slot)
    except ValueError as e:
        return str(e)
    try:
        if not asleep and not whole(rom, int.from_bytes(found[4:8], "big"), found[8:]):
            raise OSError("SHA-256 differs")
        vfs.mount(vfs.VfsRom(rom), where)  # pyright: ignore[reportAttributeAccessIssue]  (the stubs do not know it)
        return ""
    except OSError as e:
        wrong = str(e)
    try:  # once, not at every wake
        os.remove("/" + slot + "/ok")
        with open("/problem.txt", "w") as f:  # for the status frame of this boot (mote/config.py, problem())
            f.write("slot %s: %s" % (slot, wrong))
    except OSError as e:
        sys.print_exception(e)
    return wrong


def _leave_ports_mount():
    """The port mounts whatever lies at the start of the partition at /rom and puts it on sys.path, unchecked."""
    for entry in ("/rom", "/rom/lib"):
        if entry in sys.path:
            sys.path.remove(entry)
    try:
        import vfs

        vfs.umount("/rom")
    except (ImportError, OSError):
        pass  # there was none


def mark(slot):
    """Return what /a/ok holds when the manifest is still the one that was checked, else b""."""
    try:
        with open("/" + slot + "/ok", "rb") as f:
            found = f.read(_FOR_IMAGE + 1)
        if len(found) in (_FOR_MPY, _FOR_IMAGE) and found[:4] == crc("/" + slot + "/manifest.json").to_bytes(4, "big"):
            return found
    except OSError:
        pass  # never staged
    return b""


def state():
    """Return (proven, trial, boots left), whatever the flash holds."""
    now, proof = _read("/slot"), _read("/slot.ok")
    sure = proof[0] if proof else ""
    if now is None or now[1] and now[1] == sure:  # unreadable, or the power went inside prove()
        return sure, "", 0
    return now


def _read(file):
    try:
        with open(file, "rb") as f:
            d = f.read(12)
    except OSError:
        return None
    if len(d) != 11 or d[:4] != b"slot" or crc32(d[:7]) != int.from_bytes(d[7:], "big") or d[4] > 2 or d[5] > 2:
        return None
    return slots.NAMES[d[4]], slots.NAMES[d[5]], d[6]


def _kept(proven, trying, tries):
    """Store the state at boot; False when the flash refuses: what cannot be counted down is not tried."""
    try:
        slots.put("/slot", proven, trying, tries)
    except OSError as e:
        sys.print_exception(e)
        return False
    return True


def _slept():
    """True when this boot goes on from a deep sleep that the application chose (mote/hal/rtc.py, bytes 0 and 7): its try has not ended.

    Else a node that sleeps between samples would use up its tries before it ever sends.
    """
    import machine

    if machine.reset_cause() != machine.DEEPSLEEP_RESET:
        return False
    kept = machine.RTC().memory()
    return len(kept) > _ASLEEP and kept[0] == _RTC_MAGIC and kept[_ASLEEP] == 1


def _guard():
    from machine import WDT

    WDT(timeout=_WDT_MS)


def crc(file):
    """CRC-32 of a file. Raises OSError."""
    found = 0
    buf = bytearray(256)
    view = memoryview(buf)
    with open(file, "rb") as f:
        while True:
            n = f.readinto(buf)
            if not n:
                return found
            found = crc32(view[:n], found)

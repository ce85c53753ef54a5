"""Update slots: which folder the application is imported from, and the way back to the last proven one when an update fails.

Lives in the flash root beside boot.py and is never updated itself, so it needs nothing of ours. A slot is the folder /a or /b; ""
is the root, where the factory put the application. An update goes into the slot that is neither proven nor on trial, is checked
once by stage(), then tried: switch() and a reset. Every boot on trial, but for wakes from a sleep it chose, is counted down before the application is imported; prove()
(the gateway answered) makes it the proven one. Tries used up: back to the proven one, which nothing here ever writes to.

/slot: "slot", proven, trial (0 none, 1 a, 2 b), boots left, CRC-32; replaced in one step. /slot.ok: the same as of the last proof, for when
/slot cannot be read. /a/manifest.json: {"version": text, "files": {name: [size, CRC-32]}}. /a/ok: CRC-32 of the manifest, once all of it was checked.
"""

import os
import sys
from binascii import crc32
from json import load

TRIES = 5
TRIAL_S = 3600  # a boot on trial that lives so long without an answer has failed, too
_WDT_MS = 300000  # an update that hangs on import is bitten; the application sets its own timeout
_STATE = "/slot"
_PROOF = "/slot.ok"
_NAMES = ("", "a", "b")
_DIR = 0x4000
_RTC_MAGIC = 0xC1  # as mote/hal/rtc.py writes it
_ASLEEP = 7

path = ""  # folder this boot runs from, "" is the root
trial = ""  # slot this boot tries
rolled_back = False  # this boot ended a trial


def begin():
    """Choose the slot of this boot and put it first on sys.path; a trial is counted down before that. Raises nothing but bugs."""
    global path, trial, rolled_back
    name, trying, tries = _state()
    if trying:
        if eligible(trying) and (_slept() or tries and _kept(name, trying, tries - 1)):
            name = trial = trying
            _guard()
        else:
            rolled_back = True
            _kept(name, "", 0)
    if name and eligible(name):
        path = "/" + name
        sys.path.insert(0, path)


def prove():
    """The gateway answered: the slot on trial is the proven one from now on. Costs nothing when there is no trial. Raises OSError."""
    global trial
    if trial:
        _put(_PROOF, trial, "", 0)  # a cut behind this line: _state() takes the proof as given
        _put(_STATE, trial, "", 0)
        trial = ""


def overdue(uptime_s):
    """True when this boot is on trial and has been up so long without an answer that the next boot should have its turn."""
    return bool(trial) and uptime_s >= TRIAL_S


def stage(name):
    """Check every file of slot `name` against its manifest and mark the slot as whole; return its version.

    Raises ValueError (what is wrong), OSError. The proven slot and the one on trial are refused: they are in use.
    """
    proven, trying, _ = _state()
    if name not in ("a", "b") or name in (proven, trying):
        raise ValueError("slot " + str(name))
    folder = "/" + name
    try:
        os.remove(folder + "/ok")
    except OSError:
        pass  # it was not staged before
    with open(folder + "/manifest.json") as f:
        manifest = load(f)
    try:
        version, files = manifest["version"], manifest["files"]
        for file in files:
            size, crc = files[file]
            if (
                file[0] == "/"
                or ".." in file
                or os.stat(folder + "/" + file)[6] != size
                or _crc(folder + "/" + file) != crc
            ):
                raise ValueError("differs: " + file)
    except (KeyError, TypeError, IndexError):
        raise ValueError("manifest")
    if not isinstance(version, str) or not ("mote/main.mpy" in files or "mote/main.py" in files):
        raise ValueError("no application")
    for file in _walk(folder, ""):  # a stray x.py would be imported in place of x.mpy
        if file not in files and file != "manifest.json":
            raise ValueError("not in the manifest: " + file)
    with open(folder + "/ok.new", "wb") as f:
        f.write(_crc(folder + "/manifest.json").to_bytes(4, "big"))
    os.rename(folder + "/ok.new", folder + "/ok")
    return version


def switch(name, tries=TRIES):
    """Try slot `name` (staged before) for at most `tries` boots from the next reset on. Raises ValueError, OSError."""
    proven = _state()[0]
    if name == proven or name not in ("a", "b") or not eligible(name) or not 0 < tries < 256:
        raise ValueError("slot " + str(name))
    _put(_STATE, proven, name, tries)


def eligible(name):
    """True when slot `name` was staged and its manifest is still the one that was checked."""
    try:
        with open("/" + name + "/ok", "rb") as f:
            mark = f.read(5)
        return mark == _crc("/" + name + "/manifest.json").to_bytes(4, "big")
    except OSError:
        return False


def _state():
    """Return (proven, trial, boots left), whatever the flash holds."""
    state, proof = _read(_STATE), _read(_PROOF)
    sure = proof[0] if proof else ""
    if state is None or state[1] and state[1] == sure:  # unreadable, or the power went inside prove()
        return sure, "", 0
    return state


def _read(file):
    try:
        with open(file, "rb") as f:
            d = f.read(12)
    except OSError:
        return None
    if len(d) != 11 or d[:4] != b"slot" or crc32(d[:7]) != int.from_bytes(d[7:], "big") or d[4] > 2 or d[5] > 2:
        return None
    return _NAMES[d[4]], _NAMES[d[5]], d[6]


def _put(file, proven, trying, tries):
    d = b"slot" + bytes((_NAMES.index(proven), _NAMES.index(trying), tries))
    with open(file + ".new", "wb") as f:
        f.write(d + crc32(d).to_bytes(4, "big"))
    os.rename(file + ".new", file)


def _kept(proven, trying, tries):
    """Store the state at boot; False when the flash refuses: what cannot be counted down is not tried."""
    try:
        _put(_STATE, proven, trying, tries)
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


def _crc(file):
    crc = 0
    buf = bytearray(256)
    view = memoryview(buf)
    with open(file, "rb") as f:
        while True:
            n = f.readinto(buf)
            if not n:
                return crc
            crc = crc32(view[:n], crc)


def _walk(folder, below):
    for entry in os.ilistdir(folder + "/" + below if below else folder):
        name = below + "/" + entry[0] if below else entry[0]
        if entry[1] & _DIR:
            yield from _walk(folder, name)
        else:
            yield name

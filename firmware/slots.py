"""Update slots: where the application is imported from, and the way back to the last proven one when an update fails or an image has rotted.

Lives in the flash root beside boot.py and is never updated itself, so it needs nothing of ours. This file stays in memory; what is done once a boot is in
slotboot.py, what is done to a slot in slotwork.py. A slot is "a" or "b"; "" is the root, where an
application of .mpy files may have been put by the factory. What a slot holds is either .mpy files in the folder /a, or an image in its half of the
partition "romfs" (a the first, b the second), which is mounted at /rom_a and runs from there: bytecode and names take no RAM. An update goes
into the slot that is neither proven nor on trial, is checked once by stage() (slotwork.py), then tried: switch() and a reset. Every boot on trial, but for wakes
from a sleep it chose, is counted down before the application is imported; prove() (the gateway answered) makes it the proven one. Tries used
up: back to the proven one, which nothing here ever writes to. A corrupt image mounts without an error, so its SHA-256 is compared at every boot but a
wake: differs, the other slot runs, or the root.

/slot: "slot", proven, trial (0 none, 1 a, 2 b), boots left, CRC-32; replaced in one step. /slot.ok: the same as of the last proof, for when
/slot cannot be read. /a/manifest.json: {"version": text, "files": {name: [size, CRC-32]}} or {"version": text, "image": [size, SHA-256 in hex]}.
/a/ok, once all of it was checked: CRC-32 of the manifest; of an image also its size (u32) and SHA-256.
"""

import os
import sys
from binascii import crc32

TRIES = 5
TRIAL_S = 3600  # a boot on trial that lives so long without an answer has failed, too
NAMES = ("", "a", "b")

name = ""  # slot this boot runs from, "" is the root
path = ""  # what was put on sys.path for it
trial = ""  # slot this boot tries
rolled_back = False  # this boot ended a trial
stray = False  # the slot this boot runs from is not the proven one, which does not run
problem = ""  # why there is no application to run


def begin():
    """Choose the slot of this boot and put it first on sys.path; a trial is counted down before that. Raises nothing but bugs."""
    _borrow("slotboot", "begin")


def prove():
    """The gateway answered: the slot this boot runs from is the proven one from now on. Costs nothing when it is already. Raises OSError."""
    global trial, stray
    if trial or stray:
        put("/slot.ok", name, "", 0)  # a cut behind this line: slotboot.state() takes the proof as given
        put("/slot", name, "", 0)
        trial, stray = "", False


def overdue(uptime_s):
    """True when this boot is on trial and has been up so long without an answer that the next boot should have its turn."""
    return bool(trial) and uptime_s >= TRIAL_S


def eligible(slot):
    """True when slot `slot` was staged and its manifest is still the one that was checked."""
    return bool(_borrow("slotboot", "mark", slot))


def stage(slot):
    """Check all that was put into a slot that is not in use and mark it as whole; return its version. Raises ValueError, OSError."""
    return _borrow("slotwork", "stage", slot)


def switch(slot, tries=TRIES):
    """Try slot `slot` (staged before) for at most `tries` boots from the next reset on. Raises ValueError, OSError."""
    _borrow("slotwork", "switch", slot, tries)


def lost():
    """There is no application (`problem` says why): say so, wait for a technician, sleep for an hour. ctrl-C meanwhile ends at the REPL."""
    _borrow("slotboot", "lost")


def put(file, proven, trying, tries):
    """Replace /slot or /slot.ok. Raises OSError."""
    d = b"slot" + bytes((NAMES.index(proven), NAMES.index(trying), tries))
    with open(file + ".new", "wb") as f:
        f.write(d + crc32(d).to_bytes(4, "big"))
    os.rename(file + ".new", file)


def _borrow(module, what, *args):
    try:
        return getattr(__import__(module), what)(*args)
    finally:
        sys.modules.pop("slotwork", None)
        sys.modules.pop("slotboot", None)

"""The partition "romfs": memory outside the VM's heap, which the host has mapped or placed there; cf. mapped.py and vm32/run.mjs.

As on the esp32 port: `vfs.rom_ioctl(2, 0)` is what can be mapped, `esp32.Partition` of that label what can be written. NOR flash: erased bytes are
0xff, programming clears bits and sets none, and what is cut by the power is done up to where there was time for (typical times, see sim_flash.py).
The port's Partition is both at once; here the mapped one is a bytearray, because a class of Python cannot hand out a buffer.
"""

import sim_clock as _c

BLOCK = 4096
LABEL = "romfs"
TYPE, SUBTYPE = 1, 0x8F
memory = None  # bytearray over the mapping, or None: a board whose image has no ROMFS, or no such partition
enabled = False  # the image has MICROPY_VFS_ROM
writable = False


def attach(cfg):
    """cfg: {"at": address or 0 (no such partition), "size": bytes, "writable": bool} of the boot file."""
    global memory, enabled, writable
    import uctypes

    enabled = True
    writable = bool(cfg.get("writable"))
    if cfg["at"]:
        memory = uctypes.bytearray_at(cfg["at"], cfg["size"])


def rom_ioctl(op, *args):
    """As esp32_partition.c: 1 is how many segments there are, 2 the segment. What it cannot do is the number -EINVAL, not an exception."""
    if op == 1:
        return 0 if memory is None else 1
    if op == 2 and memory is not None:
        return memory
    return -22


def _spend(at, n, us, put):
    """Do put(at, n bytes of it), which takes us; as much as there was time for when the power goes meanwhile."""
    if not writable:
        raise RuntimeError("simulator: this run's ROMFS is shared by all nodes and cannot be written")
    left = max(0, _c.cut_at - _c.now)
    if left <= us:
        put(at, n * left // us)
    _c.spend(us)
    put(at, n)


def erase(block):
    def put(at, n):
        for i in range(at, at + n):
            memory[i] = 0xFF

    _spend(block * BLOCK, BLOCK, 45000, put)


def program(at, data):
    def put(at, n):
        for i in range(n):
            memory[at + i] &= data[i]

    _spend(at, len(data), 20 + len(data) * 400 // 256, put)


def mount():
    """What mp_vfs_mount_romfs_protected() does at every start: the first image of the partition at /rom, unchecked."""
    import sys
    import vfs

    if memory is None:
        return
    try:
        vfs.mount(vfs.VfsRom(memory), "/rom")
    except OSError:
        return
    at = sys.path.index(".frozen") + 1
    sys.path[at:at] = ["/rom", "/rom/lib"]

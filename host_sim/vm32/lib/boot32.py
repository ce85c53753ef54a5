"""Runs first in the 32-bit VM: loads the stand-ins, puts a fresh flash folder at /, hands over to the script; cf. vm/sim_boot.py.

/vm32.json is the boot file of host_sim/vm32/run.py. No littlefs here (the VM's file systems are in memory, without power cuts), no world,
no heap of a board's size: this VM collects only when Python has ended, and takes more memory instead. gc.mem_alloc() is right.
"""

# ruff: noqa: E402
import gc
import json
import sys
import vfs

if sys.maxsize >> 1 >= 1 << 30:
    raise SystemExit("not the 32-bit VM")
with open("/vm32.json") as _f:
    _cfg = json.load(_f)
sys.path[:] = ["/v/lib32", "/v/lib", "/v", ".frozen"]

import sim_errno
import sim_flash
import sim_standins

# asyncio first needs the stand-ins that it keeps time by
sys.modules["time"] = __import__("hw_time")
sys.modules["select"] = __import__("hw_select")
import asyncio
import binascii  # Python here, C on a board: not the firmware's
import cryptolib

sim_standins.load(_cfg)
_mounts = [("/root", vfs.VfsPosix("/v/root"))] if _cfg["rom"] else []
_i = 0
for _i in range(_cfg["paths"]):
    _mounts.append(("/host%d" % _i, vfs.VfsPosix("/v/host%d" % _i)))
_mounts.append(("/chips_parent", vfs.VfsPosix("/v")))
_root = sim_errno.Ported(vfs.VfsPosix("/v/flash"))
with open("/v/script.py") as _f:
    _script = _f.read()
vfs.umount("/")
vfs.mount(_root, "/")
sys.path[:] = [""]
for _n, _fs in _mounts:
    vfs.mount(_fs, _n, readonly=True)
    sys.path.append(_n)
sys.path[2:2] = [".frozen", "/lib"]
if _cfg.get("romfs"):
    sys.modules["sim_rom"].mount()
sys.modules["os"].chdir("/")
sys.argv[:] = _cfg["argv"]
for _n in ("sim_standins", "boot32"):
    sys.modules.pop(_n, None)
del _cfg, _f, _n, _i, _fs, _mounts, _root, sim_errno, sim_flash, sim_standins, asyncio, binascii, cryptolib, vfs
gc.collect()

"""`vfs` of an image with MICROPY_VFS_ROM: the VM's own, with the board's rom_ioctl(). An image without it has the VM's own and nothing of this."""

import vfs as _b

for _n in dir(_b):
    if _n[0] != "_":
        globals()[_n] = getattr(_b, _n)

from sim_rom import rom_ioctl  # noqa: E402, F401

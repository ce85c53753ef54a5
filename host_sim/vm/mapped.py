"""Start a VM with a file in its memory, outside its heap: what a board's mapped flash is to MicroPython (CPython side).

The VM's collector neither scans nor counts it, and VMs that read the same file share its pages. The address is the same in every run: a VM's heap
must not differ by it.
`python mapped.py FILE r|w micropython ARGS...` maps FILE and becomes the VM; `w`: what the VM writes goes to the file.
"""

from __future__ import annotations

import ctypes
import os
import sys

ADDRESS = 0x5A00_0000_0000  # far from what Linux hands out by itself on x86-64
STANDINS = 0x5B00_0000_0000  # the stand-ins' own image, when a VM has one
_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_FIXED_NOREPLACE = 1, 0x100000


def map_file(path: str, writable: bool, address: int = ADDRESS) -> tuple[int, int]:
    """Map the whole of `path` at `address`; return (address, bytes). OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        protection = _PROT_READ | (_PROT_WRITE if writable else 0)
        at = libc.mmap(address, size, protection, _MAP_SHARED | _MAP_FIXED_NOREPLACE, fd, 0)
        if at != address:
            raise OSError(ctypes.get_errno(), f"cannot map {path} at {address:#x}")
        return address, size
    finally:
        os.close(fd)


def main() -> int:
    path, mode, *argv = sys.argv[1:]
    map_file(path, mode == "w")
    from micropython_run import run_main

    return run_main(argv) or 0


if __name__ == "__main__":
    sys.exit(main())

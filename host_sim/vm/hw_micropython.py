"""`micropython` whose kbd_intr() is remembered, not done: the unix port's kbd_intr(-1) makes SIGINT fatal.

`interrupt_char` is what the firmware asked for; a board with a terminal maps it to that (platform notes, A1).
"""

# ruff: noqa: E402
import sys

_path = sys.path[:]
sys.path.clear()
import micropython as _b

sys.path[:] = _path
for _n in dir(_b):
    if _n[0] != "_":
        globals()[_n] = getattr(_b, _n)

interrupt_char = 3


def kbd_intr(char):
    global interrupt_char
    interrupt_char = char

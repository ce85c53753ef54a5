"""mote: the node. app.Node ties it together; only mote.hal touches the hardware.

RAM is what an ESP32 has least of: code that runs rarely is borrowed from flash for the time of a call.
"""

import sys

VERSION = "0.1.0"


def nobody(*args):
    """Stands for a callback that nobody has set yet."""


def let_go(name):
    """Forget module `name` (dotted); its package names it, too, so sys.modules alone would keep it in the heap."""
    sys.modules.pop(name, None)
    package, _, last = name.rpartition(".")
    holder = sys.modules.get(package)
    if holder is not None and hasattr(holder, last):
        delattr(holder, last)


def borrow(name, what, *args):
    """Call function `what` of module `name`, which is in memory for that long only."""
    try:  # an import that fails half-way leaves a half module behind
        return getattr(__import__(name, None, None, (what,)), what)(*args)
    finally:
        let_go(name)

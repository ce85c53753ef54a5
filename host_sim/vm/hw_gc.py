"""`gc` whose threshold means what it means on a board.

It counts bytes that were allocated. On a 64-bit VM objects are twice as large, and more than half of what is allocated between two collections is
the stand-ins' (measured in turns of the noise node: 57 %), so that without this a node would collect four times as often as its board does.
The VMs of a fleet have it. Those that measure (heap, instructions of a wake) collect as they are told.
"""

import gc as _gc
from gc import *  # noqa: F403

_SHARE = 4


def threshold(n=None):
    """As gc.threshold(), in bytes of a 32-bit VM."""
    if n is None:
        n = _gc.threshold()
        return n // _SHARE if n > 0 else n
    _gc.threshold(n * _SHARE if n > 0 else n)

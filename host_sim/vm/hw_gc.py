"""`gc` whose threshold means what it means on a board.

It counts bytes that were allocated. On a 64-bit VM objects are twice as large, so that without this a node would collect twice as often as its board does; it still
does more often, for what the stand-ins allocate counts, too. To count less would scatter what lives long over
more of the heap than on a board. The VMs of a fleet have it. Those that measure (heap, instructions of a wake) collect at the threshold that was set.
"""

import gc as _gc
from gc import *  # noqa: F403

_SHARE = 2


def threshold(n=None):
    """As gc.threshold(), in bytes of a 32-bit VM."""
    if n is None:
        n = _gc.threshold()
        return n // _SHARE if n > 0 else n
    _gc.threshold(n * _SHARE if n > 0 else n)

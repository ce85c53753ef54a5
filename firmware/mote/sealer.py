"""Seals frames with the node's key, one counter each, and opens downlinks. One buffer, no allocation per frame."""

from micropython import const
from motewire.ccm import Ccm
from motewire.errors import BadTag, WireError
from motewire.frame import DOWN, DOWNLINK, NONCE, TAG, UP, parse_header, put_header, put_nonce

_RESYNC_FRAMES = const(3)  # the first frames after a boot carry the whole counter
_RESYNC_EVERY = const(63)  # and every 64th (mask)


class Foreign(WireError):
    """A frame for another node, or not a downlink: nothing is wrong with it, it is just not ours."""

    reason = "foreign"


class Replayed(WireError):
    """A downlink whose counter was used before."""

    reason = "replayed"


class Sealer:
    """begin() a frame in `buf`, write the payload, finish() it.

    aes: block cipher with encrypt(src16, dst16). node, epoch: of the nonce. counter: mote.counter.Counter.
    max_frame: longest frame of the link in bytes; `room` is where a payload must end at the latest.
    """

    def __init__(self, aes, node, epoch, counter, max_frame):
        self._ccm = Ccm(aes)
        self._node, self._epoch, self._counter = node, epoch, counter
        self._boot_frames = 0
        self._nonce = bytearray(NONCE)
        self._head = 0
        self.head_max = 9 if node > 0xFFFF else 7
        self.room = max_frame - TAG
        self.buf = bytearray(max_frame + 8)
        self.counter = 0

    def save(self, put):
        """Tell put(int) what load() needs after a deep sleep."""
        put(self._boot_frames)
        put(self._counter.next)

    def load(self, get):
        """Go on counting after a deep sleep, inside the block that is reserved; anything else starts at the ceiling."""
        self._boot_frames = get()
        self._counter.go_on(get())

    def rekey(self, aes, epoch, counter):
        """Seal and open with another key from now on; the next frames carry the whole counter, as after a boot."""
        self._head = 0  # a frame that was begun under the old key cannot be finished
        self._ccm = Ccm(aes)
        self._epoch, self._counter = epoch, counter
        self._boot_frames = 0

    def begin(self, kind):
        """Take a counter and write the header; return where the payload begins. Raises OSError, NeedsKey.

        The counter is spent from here on, whatever happens to the frame.
        """
        c = self.counter = self._counter.take()
        full = self._boot_frames < _RESYNC_FRAMES or not c & _RESYNC_EVERY
        self._boot_frames += 1
        self._head = put_header(self.buf, kind, self._node, c, self._epoch & 3, full)
        return self._head

    def ours(self, frame):
        """True when this uplink frame names the key epoch in use (its slot, epoch mod 4)."""
        return frame[0] & 3 == self._epoch & 3

    def finish(self, end):
        """Seal buf[0:end]; return the length of the frame."""
        if not self._head:
            raise WireError  # a second finish() would repeat the nonce
        put_nonce(self._nonce, UP, self._node, self._epoch, self.counter)
        end = self._ccm.seal(self.buf, self._head, end, self._nonce)
        self._head = 0
        return end

    def open(self, frame, floor):
        """Authenticate a downlink, decrypting `frame` (a bytearray) in place; return (counter, at, end) of its payload.

        floor: lowest counter not yet seen. Only 16 bits of it travel unless the C bit is set: the candidate is the first
        one at or above the floor. Raises Foreign, Replayed (an authentic old frame cannot be told from a forged one when
        the counter is short: BadTag), BadTag, Truncated, BadVersion.
        """
        kind, node, counter, is_long, slot, at = parse_header(frame)
        if kind != DOWNLINK or node != self._node:
            raise Foreign
        if slot != self._epoch & 3:
            raise BadTag
        if is_long:
            if counter < floor:
                raise Replayed
        else:
            counter |= floor & ~0xFFFF
            if counter < floor:
                counter += 0x10000
        put_nonce(self._nonce, DOWN, self._node, self._epoch, counter)
        return counter, at, self._ccm.open(frame, at, len(frame), self._nonce)

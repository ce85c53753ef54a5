"""Status frames: at boot, every health_s and on occasion; split by key so that each fits the smallest frame. mote.status says what is in them."""

from micropython import const
from mote import borrow, config, supervisor
from mote.hal import clock as board_clock
from motewire import messages
from motewire.frame import STATUS

_WORDS = const(28)  # bytes of a text: place and beginning; the rest is in the log
_LIST = const(16)
_DAY_S = const(86400)
_FRAME = const(51)
_TAG = const(8)


def clipped(text, most):
    """Return text cut to `most` bytes of UTF-8, between characters."""
    data = text.encode()
    if len(data) <= most:
        return text
    while most and data[most] & 0xC0 == 0x80:
        most -= 1
    return data[:most].decode()


class Health:
    """Seals status frames. node: an app.Node or a safe one, whose parts are asked."""

    def __init__(self, node):
        self._node = node
        self._scratch = bytearray(96)
        self._said = {}  # key -> value of the last report
        self._whole_at = -_DAY_S
        self._last = board_clock.uptime_s()

    def _items(self, what, *args):
        return borrow("mote.status", what, self._node, *args)

    def boot(self):
        """Queue the hello and what follows it; the notes of the boot before are forgotten once they are queued. Raises OSError, NeedsKey."""
        self.send(self._items("boot_items"))
        borrow("mote.words", "forget")
        config.forget_problem()
        if supervisor.level or supervisor.returned:
            supervisor.climb("told")

    def due_in(self):
        """Seconds until the next report: health_s after the last one, or the boot; sooner when the gateway is to be asked for the time."""
        node = self._node
        return min(self._last + node.config["health_s"] - board_clock.uptime_s(), node.clock.asks_in())

    def save(self, put):
        """Tell put(int) what load() needs after a deep sleep."""
        put(self._last)
        put(self._whole_at)

    def load(self, get):
        """Go on after a deep sleep; what was said before it is not known any more."""
        self._last, self._whole_at = get(), get()

    def report(self):
        """Queue what is worth saying now: everything once a day, in between what moved and what is always said. Raises OSError, NeedsKey."""
        self._node.clock.asked()
        now = self._last = board_clock.uptime_s()
        whole = now - self._whole_at >= _DAY_S
        if whole:
            self._whole_at = now
        items = self._items("worth_saying", self._said, whole)
        for key, value in items:
            self._said[key] = value
        self.send(items)

    def send(self, items):
        """Put items (key, value) into as few status frames as they need, in the outbox; lists and texts are cut to what a frame takes.

        Raises OSError, NeedsKey.
        """
        s = self._node.sealer
        room = min(s.room, _FRAME - _TAG) - s.head_max
        part = []
        for item in items:
            item = self._fitting(item, room)
            if item is None:
                continue
            part.append(item)
            if self._size(part) > room:
                part.pop()
                self._seal(part)
                part = [item]
        if part:
            self._seal(part)

    def _size(self, part):
        return messages.put_map(self._scratch, 0, part)

    def _fitting(self, item, room):
        """Return the item, cut so that a frame takes it; None when that is not possible (a schema of many columns)."""
        key, value = item
        if isinstance(value, str):
            return key, clipped(value, _WORDS)
        if isinstance(value, dict):
            columns = sum([len(ids) for ids in value.values()])
            return item if columns <= _LIST and self._size([item]) <= room else None
        if isinstance(value, list):
            value = value[:_LIST]
            while self._size([(key, value)]) > room:
                value.pop()
        return key, value

    def _seal(self, part):
        node, s = self._node, self._node.sealer
        at = s.begin(STATUS)
        n = s.finish(messages.put_map(s.buf, at, part))
        node.outbox.append(STATUS, s.counter, s.buf, n)

"""How the node is: status frames at boot and every few hours, split by key so that each fits the smallest frame."""

import gc

from mote import VERSION, supervisor
from mote.hal import clock as board_clock
from mote.hal import reset
from motewire import messages
from motewire.codes import (
    STATUS_BATTERY, STATUS_BOOTS, STATUS_CLOCK, STATUS_CONFIG, STATUS_EXCEPTION, STATUS_FIRMWARE, STATUS_HEAP_FREE, STATUS_OUTBOX,
    STATUS_RESET_CAUSE, STATUS_ROWS_LOST, STATUS_RSSI, STATUS_SCHEMA, STATUS_SENSOR_FAULTS, STATUS_SNR, STATUS_UPTIME_S,
)  # fmt: skip
from motewire.errors import Full
from motewire.frame import STATUS

_WORDS = 24  # bytes of an exception text: the rest is in the log


class Health:
    """Builds status frames. node: the app.Node, whose parts are asked; boots: count of starts."""

    def __init__(self, node, boots, sealer, outbox):
        self._node, self._boots, self._sealer, self._outbox = node, boots, sealer, outbox
        self._scratch = bytearray(96)

    def boot_items(self, words):
        """What is new after a boot: most important first; the first frame is the hello."""
        node = self._node
        items = [
            (STATUS_UPTIME_S, board_clock.uptime_s()), (STATUS_RESET_CAUSE, reset.cause()), (STATUS_BOOTS, self._boots),
            (STATUS_FIRMWARE, VERSION), (STATUS_CLOCK, node.clock.quality), (STATUS_CONFIG, node.config["version"]),
            (STATUS_OUTBOX, self._outbox.depth),
        ]  # fmt: skip
        if words:
            items.append((STATUS_EXCEPTION, words[:_WORDS]))
        if node.profile.SCHEMA is not None:
            items.append((STATUS_SCHEMA, {node.profile.SCHEMA: list(node.ids)}))
        return items

    def items(self):
        """The regular report."""
        node = self._node
        gc.collect()
        items = [
            (STATUS_UPTIME_S, board_clock.uptime_s()), (STATUS_HEAP_FREE, gc.mem_free()), (STATUS_OUTBOX, self._outbox.depth),
            (STATUS_CLOCK, node.clock.quality), (STATUS_SENSOR_FAULTS, node.faulty_ids()), (STATUS_ROWS_LOST, node.rows_lost),
            (STATUS_BOOTS, self._boots),
        ]  # fmt: skip
        heard = node.downlink
        if heard.rssi is not None:
            items.append((STATUS_RSSI, heard.rssi))
        if heard.snr is not None:
            items.append((STATUS_SNR, heard.snr))
        mv = node.board.battery_mv()
        if mv is not None:
            items.append((STATUS_BATTERY, (mv + 5) // 10))
        return items

    def send(self, items):
        """Put items into as few status frames as they need, in the outbox. Raises OSError, NeedsKey, Full (one item too long)."""
        room = min(self._sealer.room, 51 - 8) - self._sealer.head_max
        part = []
        for item in items:
            part.append(item)
            if messages.put_map(self._scratch, 0, part) > room:
                part.pop()
                if not part:
                    raise Full
                self._seal(part)
                part = [item]
        if part:
            self._seal(part)

    def _seal(self, part):
        s = self._sealer
        at = s.begin(STATUS)
        n = s.finish(messages.put_map(s.buf, at, part))
        self._outbox.append(STATUS, s.counter, s.buf, n)

    def boot(self):
        """Queue the hello and what follows it; the last words of the boot before are forgotten once they are queued."""
        words = supervisor.last_words()
        self.send(self.boot_items(words))
        if words:
            supervisor.forget_words()

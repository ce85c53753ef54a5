"""What there is to say about a node, and what of it is worth saying. Loaded while a report is made.

At boot everything that a boot can change. Then every health_s what has changed since it was last said and, always, the few numbers that tell
that the node is well; once a day all of it.
"""

from micropython import const
import gc

from mote import VERSION, config, supervisor
from mote.hal import clock as board_clock
from mote.hal import reset
from mote.power import NOT_THERE_MV
from mote.words import last

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_LADDER_ALL = const(3)
_STATUS_BATTERY = const(12)
_STATUS_BOOTS = const(3)
_STATUS_CLOCK = const(8)
_STATUS_CONFIG = const(15)
_STATUS_DRIFT = const(18)
_STATUS_EXCEPTION = const(14)
_STATUS_FIRMWARE = const(5)
_STATUS_HEAP_FREE = const(6)
_STATUS_LADDER = const(19)
_STATUS_OUTBOX = const(7)
_STATUS_POWER = const(16)
_STATUS_PROBLEM = const(22)
_STATUS_RESET_CAUSE = const(2)
_STATUS_ROWS_LOST = const(13)
_STATUS_RSSI = const(9)
_STATUS_SCHEMA = const(4)
_STATUS_SENSOR_FAULTS = const(11)
_STATUS_SLOT = const(21)
_STATUS_SNR = const(10)
_STATUS_TEMPERATURE = const(17)
_STATUS_UPTIME_S = const(1)
_STATUS_WRITES = const(23)

# key -> how far it must move to be worth saying before the day is over; None: always said. Others: whenever they differ
_ENOUGH = {
    _STATUS_UPTIME_S: None, _STATUS_OUTBOX: None, _STATUS_BATTERY: None, _STATUS_HEAP_FREE: 4096, _STATUS_RSSI: 10, _STATUS_SNR: 24,
    _STATUS_TEMPERATURE: 10, _STATUS_DRIFT: 5, _STATUS_POWER: 86400,
}  # fmt: skip


def measured(node):
    """Return the items of the power states and, once it was measured, of the clock's drift."""
    items = [(_STATUS_POWER, list(node.power.seconds()))]
    if node.clock.drift_ppm:
        items.append((_STATUS_DRIFT, node.clock.drift_ppm))
    return items


def faulty_ids(node):
    """Return quantity ids without a working sensor, or with a value that a row cannot hold."""
    out = []
    if supervisor.level >= _LADDER_ALL:
        return list(_left_out(node))
    for s in node.sampler._sensors:
        failing = -1 if s.shed or s.failures else s.beyond
        out.extend([node.ids[s.columns[i]] for i in range(len(s.columns)) if failing >> i & 1 and s.columns[i] >= 0])
    return out


def _left_out(node):
    """Quantity ids that the ladder leaves out; a safe node does not know what its sensors measure."""
    if supervisor.level >= _LADDER_ALL:
        return getattr(node, "ids", ())
    out = []
    for s in node.profile.sensors:
        if s.shed:
            out.extend([node.ids[c] for c in s.columns if c >= 0])
    return out


def _ladder(node):
    """[level, quantity ids left out ...] of this boot."""
    value = [supervisor.level]
    value.extend(_left_out(node))
    return value


def _slot(node, items):
    if node.slot:
        items.append((_STATUS_SLOT, node.slot))


def boot_items(node):
    """What is new after a boot: most important first; the first frame is the hello."""
    items = [
        (_STATUS_UPTIME_S, board_clock.uptime_s()), (_STATUS_RESET_CAUSE, reset.cause()), (_STATUS_BOOTS, node.boots),
        (_STATUS_FIRMWARE, VERSION), (_STATUS_CLOCK, node.clock.quality), (_STATUS_CONFIG, node.config["version"]),
        (_STATUS_OUTBOX, node.outbox.depth),
    ]  # fmt: skip
    if supervisor.level or supervisor.returned:
        items.append((_STATUS_LADDER, _ladder(node)))
    words, problem = last(), config.problem() or node.power.unwatched()
    if words:
        items.append((_STATUS_EXCEPTION, words))
    if problem:
        items.append((_STATUS_PROBLEM, problem))
    _slot(node, items)
    if node.schema is not None:
        items.append((_STATUS_SCHEMA, {node.schema: list(node.ids)}))
    return items


def items(node):
    """All there is to say about a running node."""
    gc.collect()
    items = [
        (_STATUS_UPTIME_S, board_clock.uptime_s()), (_STATUS_HEAP_FREE, gc.mem_free()), (_STATUS_OUTBOX, node.outbox.depth),
        (_STATUS_CLOCK, node.clock.quality), (_STATUS_SENSOR_FAULTS, faulty_ids(node)), (_STATUS_ROWS_LOST, node.rows_lost),
        (_STATUS_BOOTS, node.boots), (_STATUS_RESET_CAUSE, reset.cause()), (_STATUS_FIRMWARE, VERSION),
        (_STATUS_CONFIG, node.config["version"]), (_STATUS_WRITES, node.power.refused),
    ]  # fmt: skip
    heard = node.downlink
    if heard.rssi is not None:
        items.append((_STATUS_RSSI, heard.rssi))
    if heard.snr is not None:
        items.append((_STATUS_SNR, heard.snr))
    mv = node.board.battery_mv()
    if mv is not None and mv >= NOT_THERE_MV:
        items.append((_STATUS_BATTERY, (mv + 5) // 10))
    celsius = node.board.temperature()
    if celsius is not None:
        items.append((_STATUS_TEMPERATURE, celsius))
    if supervisor.level:
        items.append((_STATUS_LADDER, _ladder(node)))
    _slot(node, items)
    items.extend(measured(node))
    return items


def worth_saying(node, said, whole):
    """Return the items that moved far enough from what was `said` {key: value}, and those that are always said; all when `whole`.

    After a deep sleep nobody knows what was said: then what is wrong is said, and the rest waits for the day's report.
    """
    return [item for item in items(node) if whole or _moved(item[0], item[1], said.get(item[0]), node.woke)]


def _moved(key, now, before, woke):
    far = _ENOUGH.get(key, 0)
    if far is None:
        return True
    if before is None:
        return not woke or key in (_STATUS_SENSOR_FAULTS, _STATUS_LADDER) and now
    if not far:
        return now != before
    if isinstance(now, list):
        now, before = now[0], before[0]
    return abs(now - before) >= far

"""What the boot after a sleep needs in order to add a row without building the node (mote.nap); borrowed when the node goes to sleep.

Only a node that is well in every way naps: nothing left out, no trial, no probation, a clock that knows the time, sensors without a fault,
no rule running. Whatever is due next but rows ends it, for the node must be built then.
"""

import sys

from micropython import const
from mote import supervisor
from mote.hal import clock as board_clock
from mote.rest import sure

_SLACK = const(10)  # mote.alarms
_LATE_S = const(60)  # a slot overslept by less is taken (mote.sampler)


def plan(node, places):
    """Return the numbers behind the node's parts in the image, () when the next boot must build the node. places: of the parts, in the order of
    Node._go_on()."""
    if not _well(node):
        return ()
    config, sampler, profile = node.config, node.sampler, node.profile
    row_s = sampler.row_s
    for rule in node.alarms.rules:
        if (
            max(1, rule.hold // _SLACK) * config["sample_s"] > row_s
        ):  # so much may come as one sample, and no more is told by a row without a look
            return ()
    for sensor in profile.sensors:
        if sensor.failures or sensor.faults or sensor.shed or not sensor.works or sensor.slot != sampler.row_t:
            return ()
    what = profile.naps()
    batch = node.batcher._batch
    rows = min(batch.rows_max - batch.rows, node.batcher._staging.ready())
    if rows < 1 or not sampler.row_t or sampler.row_t % row_s or row_s <= _LATE_S:
        return ()
    uptime = board_clock.uptime_s()
    until = min(node.uplink.due_s, uptime + node.health.due_in(), uptime + 0xFFFFFFF)
    limits, battery = node.board.limits, node.board._spec.get("battery")
    hold = node.link.hold_pin
    return (
        until, row_s, config["report_s"], rows, int(sure(node.clock)), config["wdt_s"], limits.get("bench_pin", -1),
        battery["pin"] if battery else -1, int(battery["divider"] * 1000 + 0.5) if battery else 0, limits.get("flash_write_min_mv", 0), -1 if hold is None else hold,
        places[_SAMPLER], places[_BATCHER], places[_PROFILE],
    ) + what  # fmt: skip


_SAMPLER, _BATCHER, _PROFILE = 3, 5, 8


def _well(node):
    """True when nothing but the usual is going on."""
    s, config, control = supervisor, node.config, node.control
    slots = sys.modules.get("slots")
    return not (
        s.level or s.rung or s.trial or s.chance_due or s.suspicious or s.kept >> 16
        or slots is not None and (slots.trial or slots.stray)
        or config.probation or config.fallback or config["repl"] or supervisor.bench
        or control.busy or control.raised or control.until > board_clock.uptime_s()
        or not node.clock.quality or any(node.sampler._stats._n)
    )  # fmt: skip

"""What is up and would never be ended: alarms of another profile than today's, of rules and sensors that were taken out. Borrowed at every start but a wake,
and when rules change.

Whatever way the configuration changed (a command, by cable, given up), the marks in NVS say what was up, by quantity and direction, and under which profile.
"""

from micropython import const
from mote import let_go, supervisor
from mote.alarms import label_of, tag_of

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_CLEARED = const(1)
_LADDER_ALL = const(3)

_PROFILE = const(64)  # tags, see mote.app
_METER = "water_meter"
_VOLUME = const(14)  # of motewire.quantities


def clear(node):
    """Tell the gateway that it is over, then forget the marks. Raises OSError, NeedsKey."""
    t = node.clock.now()
    limits, faults, nvs = node.alarms._active, node._faults, node.nvs
    node.alarms.end(t)
    if supervisor.level < _LADDER_ALL:
        read = [node.first_column(s) for s in node.profile.sensors]
        for c in range(len(node.ids)):
            if faults.has(c) and c not in read:
                node.raise_alarm(_ALARM_CLEARED, t, node.ids[c], None, None, node.ids[c] & 63)
                faults.set(c, False)
    if limits.former & 0x7FFF:
        ids = _ids(limits.former)
        for bit in range(min(15, 2 * len(ids))):
            if limits.former >> bit & 1:
                node.raise_alarm(_ALARM_CLEARED, t, ids[bit >> 1], None, None, tag_of(ids[bit >> 1], bit & 1))
        limits.keep()
    if faults.former & 0x7FFF:
        ids = _ids(faults.former)
        for c in range(len(ids)):
            if faults.former >> c & 1:
                node.raise_alarm(_ALARM_CLEARED, t, ids[c], None, None, ids[c] & 63)
        faults.keep()
    if (nvs.get("leak") or 0) & 1 and node.config["profile"] != _METER:
        node.raise_alarm(_ALARM_CLEARED, t, _VOLUME, None, None, _PROFILE | _VOLUME)
        nvs.put("leak", 0)


def _ids(kept):
    """Return the quantity ids of the profile under whose label a mask was kept, () when this firmware has none such."""
    from mote.profiles.opening import PROFILES, open_profile
    from motewire.quantities import ids_of

    ids = ()
    for name in PROFILES:
        if label_of(name) == kept >> 15:
            ids = ids_of(open_profile(name).KEYS)
            let_go("mote.profiles." + PROFILES[name].split(":")[0])
    let_go("mote.profiles.opening")
    let_go("motewire.quantities")
    return ids


def replace(alarms, rules, t):
    """Continue with other rules. What was up stays up under a rule of the same quantity and direction, and is reported
    again when its limit changed; what has none any more is cleared. Raises OSError."""
    alarms.end(t)
    for old in alarms.rules:
        if not old.active:
            continue
        for rule in rules:
            if rule.quantity == old.quantity and rule.up == old.up and not rule.active:
                rule.active, rule.told, rule.told_t, rule.changed_t = True, old.told, old.told_t, old.changed_t
                if rule.limit != old.limit:
                    alarms._say(rule, t)
                break
        else:
            alarms._gone.append((old.quantity, old.bit, old.limit))
    alarms.rules = rules
    alarms.end(t)
    alarms._look()

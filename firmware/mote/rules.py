"""Alarm rules from configuration entries. Loaded at start and when the configuration changes."""

from micropython import const
from mote.alarms import UPDATE_S, Rule
from mote.errors import BadConfig

_MAX_RULES = const(15)


def raw_of(key, physical, difference=False):
    """Return the raw integer of a physical value (config numbers are in the quantity's unit), or of a difference. Raises BadConfig."""
    from motewire.quantities import EXPONENT, KEY, OFFSET, QUANTITIES

    for q in QUANTITIES:
        if q[KEY] == key:
            if isinstance(physical, bool) or not isinstance(physical, (int, float)):
                raise BadConfig("alarms: no number for " + key)
            v = physical * 10 ** -int(q[EXPONENT])
            return (int(v + 0.5) if v >= 0 else -int(0.5 - v)) - (0 if difference else int(q[OFFSET]))
    raise BadConfig("alarms: unknown quantity " + str(key))


def rules_from(specs, ids):
    """Build rules from config entries {"q", "above" | "below", "clear", "hold", "step", "update_s", "boost"} for the columns `ids`.

    Raises BadConfig.
    """
    from motewire.quantities import ID, KEY, QUANTITIES

    rules = []
    if len(specs) > _MAX_RULES:
        raise BadConfig("alarms: more than %d" % _MAX_RULES)
    for spec in specs:
        key = spec.get("q")
        quantity = 0
        for q in QUANTITIES:
            if q[KEY] == key:
                quantity = q[ID]
        if quantity not in ids:
            raise BadConfig("alarms: this profile has no " + str(key))
        up = "above" in spec
        if up == ("below" in spec):
            raise BadConfig("alarms: one of above, below for " + key)
        limit = raw_of(key, spec["above" if up else "below"])
        clear = raw_of(key, spec["clear"]) if "clear" in spec else limit
        if clear > limit if up else clear < limit:
            raise BadConfig("alarms: clear on the wrong side for " + key)
        hold = spec.get("hold", 1)
        if not isinstance(hold, int) or not 1 <= hold <= 1000:
            raise BadConfig("alarms: hold 1..1000 for " + key)
        update_s = spec.get("update_s", UPDATE_S)
        if not isinstance(update_s, int) or not 1 <= update_s <= 86400:
            raise BadConfig("alarms: update_s 1..86400 for " + key)
        worse = raw_of(key, spec["step"], True) if "step" in spec else 0
        if "step" in spec and worse < 1:
            raise BadConfig("alarms: step is too small for " + key)
        rules.append(
            Rule(ids.index(quantity), quantity, up, limit, clear, hold, worse, update_s, bool(spec.get("boost")))
        )
    return rules

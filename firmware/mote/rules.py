"""Alarm rules from configuration entries. Loaded at start and when the configuration changes."""

from micropython import const
from mote import log
from mote.alarms import UPDATE_S, Rule
from mote.config import note_problem
from mote.errors import BadConfig
from mote.files import read_json

_MAX_RULES = const(15)
_LEAST_S = const(900)
_LARGEST = const(0x3FFFFFFF)  # a small int of the ESP32
# how far a value must come back before an alarm ends, where the rule does not say: what the sensor's noise and the world's do not exceed; else a
# tenth of the limit
_BACK = {
    "temperature": 0.5, "humidity": 2, "pressure": 1, "laeq": 2, "lafmax": 3, "la10": 2, "la50": 2, "la90": 2, "water_volume": 0, "occupied": 0,
    "fill_level": 3, "tilt": 3, "battery_voltage": 0.05, "toggle": 0, "count": 0, "confidence": 5, "lid_opens": 0, "rssi": 3, "snr": 2,
}  # fmt: skip


def _back(q, limit, up):
    """Return where an alarm ends by default: on the way back from the limit, within the range of the quantity."""
    from motewire.quantities import KEY

    back = _BACK.get(q[KEY], abs(limit) / 10)
    return limit - min(back, max(0, limit - q[5]) / 2) if up else limit + min(back, max(0, q[6] - limit) / 2)


def raw_of(key, physical, difference=False):
    """Return the raw integer of a physical value (config numbers are in the quantity's unit), or of a difference. Raises BadConfig."""
    from motewire.quantities import EXPONENT, KEY, OFFSET, QUANTITIES

    for q in QUANTITIES:
        if q[KEY] == key:
            if isinstance(physical, bool) or not isinstance(physical, (int, float)):
                raise BadConfig("alarms: no number for " + key)
            v = physical * 10 ** -int(q[EXPONENT])
            if not abs(v) < _LARGEST:  # inf and nan, too
                raise BadConfig("alarms: too large for " + key)
            return (int(v + 0.5) if v >= 0 else -int(0.5 - v)) - (0 if difference else int(q[OFFSET]))
    raise BadConfig("alarms: unknown quantity " + str(key))


def rules_of(profile, config):
    """Build the rules of a configuration (mote.config.Config) for a profile; without its own, where one of them is wrong: the node measures all the same, and says so. Raises
    BadConfig: there is a good configuration to go back to."""
    try:
        return rules_from(profile.alarm_specs(config), profile.ids)
    except BadConfig as e:
        if config.probation and read_json(config.good) is not None:
            raise
        log.error("%s", e)
        note_problem(str(e))
        return rules_from(list(profile.ALARMS), profile.ids)


_KEYS = ("q", "above", "below", "clear", "hold", "step", "update_s", "least_s", "boost")


def known(specs):
    """Raise BadConfig for a key that no rule has: a misspelt one would leave its default in force. Of new rules; stored ones are taken as they are."""
    for spec in specs:
        for key in spec:
            if key not in _KEYS:
                raise BadConfig("alarms: no key %s for %s" % (key, spec.get("q")))


def rules_from(specs, ids):
    """Build rules from config entries {"q", "above" | "below", "clear", "hold", "step", "update_s", "least_s", "boost"} for the columns `ids`.

    Raises BadConfig.
    """
    from motewire.quantities import ID, KEY, QUANTITIES

    rules = []
    if len(specs) > _MAX_RULES:
        raise BadConfig("alarms: more than %d" % _MAX_RULES)
    for spec in specs:
        key = spec.get("q")
        quantity, row = 0, None
        for q in QUANTITIES:
            if q[KEY] == key:
                quantity, row = q[ID], q
        if quantity not in ids:
            raise BadConfig("alarms: no %s here" % key)
        up = "above" in spec
        if up == ("below" in spec):
            raise BadConfig("alarms: one of above, below for " + key)
        limit = raw_of(key, spec["above" if up else "below"])
        clear = raw_of(key, spec["clear"] if "clear" in spec else _back(row, spec["above" if up else "below"], up))
        if clear > limit if up else clear < limit:
            raise BadConfig("alarms: clear on the wrong side for " + key)
        hold = spec.get("hold", 1)
        if not isinstance(hold, int) or not 1 <= hold <= 1000:
            raise BadConfig("alarms: hold 1..1000 for " + key)
        update_s = spec.get("update_s", UPDATE_S)
        if not isinstance(update_s, int) or not 1 <= update_s <= 86400:
            raise BadConfig("alarms: update_s 1..86400 for " + key)
        least_s = spec.get("least_s", _LEAST_S)
        if not isinstance(least_s, int) or not 0 <= least_s <= 86400:
            raise BadConfig("alarms: least_s 0..86400 for " + key)
        worse = raw_of(key, spec["step"], True) if "step" in spec else 0
        if "step" in spec and worse < 1:
            raise BadConfig("alarms: step is too small for " + key)
        rules.append(
            Rule(
                ids.index(quantity), quantity, up, limit, clear, hold, worse, update_s, bool(spec.get("boost")), least_s
            )
        )
    return rules

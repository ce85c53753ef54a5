"""Edge rules with hysteresis: an alarm is raised once, cleared once, and never flutters between.

A rule watches one column. `above`: raised when the value exceeds the limit for `hold` samples in a row, cleared when it
is at or under `clear`; `below` the other way round. Checking allocates nothing; only an edge does.
"""

from micropython import const
from mote.crc import crc16
from mote.errors import BadConfig
from motewire.codes import ALARM_ABOVE, ALARM_BELOW, ALARM_CLEARED

_MAX_RULES = const(15)


class Rule:
    """One limit on one quantity, in raw units. `up`: True for above, False for below."""

    def __init__(self, column, quantity, up, limit, clear, hold):
        self.column, self.quantity, self.up = column, quantity, up
        self.limit, self.clear, self.hold = limit, clear, hold
        self.active = False
        self.run = 0

    def step(self, v):
        """Take a value; return ALARM_ABOVE, ALARM_BELOW, ALARM_CLEARED or 0 (nothing new)."""
        if self.active:
            if v <= self.clear if self.up else v >= self.clear:
                self.active, self.run = False, 0
                return ALARM_CLEARED
            return 0
        if v > self.limit if self.up else v < self.limit:
            self.run += 1
            if self.run >= self.hold:
                self.active = True
                return ALARM_ABOVE if self.up else ALARM_BELOW
        else:
            self.run = 0
        return 0


class Mask:
    """A set of small numbers (0..14) that survives a power cut, in one NVS int; another `label` is another set."""

    def __init__(self, nvs, key, label):
        data = label.encode()
        self._nvs, self._key, self._label = nvs, key, crc16(data, len(data)) & 0x7FFF
        v = nvs.get(key) or 0
        self._bits = v & 0x7FFF if v >> 15 == self._label else 0

    def has(self, n):
        return bool(self._bits >> n & 1)

    def set(self, n, on):
        """Put n in or take it out; flash is written only when that changes anything. Raises OSError."""
        bits = self._bits | 1 << n if on else self._bits & ~(1 << n)
        if bits != self._bits:
            self._bits = bits
            self._nvs.put(self._key, self._label << 15 | bits)


class Alarms:
    """The limit rules of a node. raised: function(code, t2000, quantity id, value, limit) called on every edge.

    active: a Mask of the rules that are up, so that an alarm raised before a power cut is cleared after it.
    """

    def __init__(self, rules, raised, active):
        self.rules = rules
        self._raised, self._active = raised, active
        for i in range(len(rules)):
            rules[i].active = active.has(i)

    def check(self, t, values, present):
        """Step every rule whose column has a value."""
        rules = self.rules
        for i in range(len(rules)):
            rule = rules[i]
            if present >> rule.column & 1:
                code = rule.step(values[rule.column])
                if code:
                    self._raised(code, t, rule.quantity, values[rule.column], rule.limit)
                    self._active.set(i, rule.active)

    def save(self, put):
        """Tell put(int) how long each rule's limit has been exceeded."""
        for rule in self.rules:
            put(rule.run)

    def load(self, get):
        """Go on after a deep sleep."""
        for rule in self.rules:
            rule.run = get()

    def say_again(self, t, quantity):
        """Raise what is still up on this quantity: a clear of its fault has ended every rule of it at the gateway."""
        for rule in self.rules:
            if rule.active and rule.quantity == quantity:
                self._raised(ALARM_ABOVE if rule.up else ALARM_BELOW, t, quantity, None, rule.limit)


def raw_of(key, physical):
    """Return the raw integer of a physical value (config numbers are in the quantity's unit). Raises BadConfig."""
    from motewire.quantities import EXPONENT, KEY, OFFSET, QUANTITIES

    for q in QUANTITIES:
        if q[KEY] == key:
            v = physical * 10 ** -int(q[EXPONENT])
            return (int(v + 0.5) if v >= 0 else -int(0.5 - v)) - int(q[OFFSET])
    raise BadConfig("alarms: unknown quantity " + str(key))


def rules_from(specs, ids):
    """Build rules from config entries {"q", "above" | "below", "clear", "hold"} for the columns `ids`. Raises BadConfig."""
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
        rules.append(Rule(ids.index(quantity), quantity, up, limit, clear, hold))
    return rules

"""Edge rules with hysteresis: an alarm is raised once, updated when it gets worse, cleared once, and never flutters between.

A rule watches one column. `above`: raised when the value exceeds the limit for `hold` samples in a row, cleared when it
is at or under `clear`; `below` the other way round. While it is up and the value has become worse by `step` since it was told, it is
told again, at most every `update_s`. Checking allocates nothing; only what is told does.
"""

from micropython import const
from mote.crc import crc16

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_ABOVE = const(2)
_ALARM_BELOW = const(3)
_ALARM_CLEARED = const(1)

UPDATE_S = const(600)


class Rule:
    """One limit on one quantity, in raw units. `up`: True for above, False for below. boost: rates are raised while it is active."""

    def __init__(self, column, quantity, up, limit, clear, hold, worse=0, update_s=UPDATE_S, boost=False):
        self.column, self.quantity, self.up = column, quantity, up
        self.limit, self.clear, self.hold = limit, clear, hold
        self.worse = worse or max(abs(limit) // 10, abs(limit - clear), 1)
        self.update_s, self.boost = update_s, boost
        self.active = False
        self.run = 0
        self.told, self.told_t = limit, 0

    def step(self, v, t):
        """Take a value at t2000; return _ALARM_ABOVE, _ALARM_BELOW (raised or worse), _ALARM_CLEARED or 0 (nothing new)."""
        if self.active:
            if v <= self.clear if self.up else v >= self.clear:
                self.active, self.run = False, 0
                return _ALARM_CLEARED
            if (v - self.told if self.up else self.told - v) < self.worse or 0 <= t - self.told_t < self.update_s:
                return 0
        elif v > self.limit if self.up else v < self.limit:
            self.run += 1
            if self.run < self.hold:
                return 0
            self.active = True
        else:
            self.run = 0
            return 0
        self.told, self.told_t = v, t
        return _ALARM_ABOVE if self.up else _ALARM_BELOW


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
    """The limit rules of a node. raised: function(code, t2000, quantity id, value, limit) called whenever there is something to tell.

    active: a Mask of the rules that are up, so that an alarm raised before a power cut is cleared after it. boosting: True while
    a rule with `boost` is up.
    """

    def __init__(self, rules, raised, active):
        self.rules = rules
        self._raised, self._active = raised, active
        for i in range(len(rules)):
            rules[i].active = active.has(i)
        self._look()

    def _look(self):
        boosting = False
        for rule in self.rules:
            if rule.active and rule.boost:
                boosting = True
        self.boosting = boosting

    def check(self, t, values, present):
        """Step every rule whose column has a value."""
        rules = self.rules
        for i in range(len(rules)):
            rule = rules[i]
            if present >> rule.column & 1:
                code = rule.step(values[rule.column], t)
                if code:
                    self._raised(code, t, rule.quantity, values[rule.column], rule.limit)
                    self._active.set(i, rule.active)
                    self._look()

    def replace(self, rules, active, t):
        """Go on with other rules and their Mask. What was up stays up under a rule of the same quantity and direction, and is told
        again when its limit changed; what has none any more is cleared. Raises OSError."""
        gone = []
        for old in self.rules:
            if not old.active:
                continue
            for rule in rules:
                if rule.quantity == old.quantity and rule.up == old.up and not rule.active:
                    rule.active, rule.told, rule.told_t = True, old.told, old.told_t
                    if rule.limit != old.limit:
                        self._raised(_ALARM_ABOVE if rule.up else _ALARM_BELOW, t, rule.quantity, None, rule.limit)
                    break
            else:
                gone.append(old)
        self.rules, self._active = rules, active
        for i in range(len(rules)):
            active.set(i, rules[i].active)
        for old in gone:
            self._raised(_ALARM_CLEARED, t, old.quantity, None, old.limit)
            self.say_again(t, old.quantity)
        self._look()

    def save(self, put):
        """Tell put(int) how long each rule's limit has been exceeded, and what was told of one that is up."""
        for rule in self.rules:
            put(rule.run)
            if rule.active:
                put(rule.told)
                put(rule.told_t)

    def load(self, get):
        """Go on after a deep sleep."""
        for rule in self.rules:
            rule.run = get()
            if rule.active:
                rule.told, rule.told_t = get(), get() & 0xFFFFFFFF

    def say_again(self, t, quantity):
        """Raise what is still up on this quantity: a clear of its fault has ended every rule of it at the gateway."""
        for rule in self.rules:
            if rule.active and rule.quantity == quantity:
                self._raised(_ALARM_ABOVE if rule.up else _ALARM_BELOW, t, quantity, None, rule.limit)

"""Edge rules with hysteresis: an alarm is raised once, updated when it gets worse, cleared once, and never flutters between.

A rule watches one column. `above`: raised when the value exceeds the limit for `hold` samples in a row, cleared when it
is at or under `clear`; `below` the other way round. While it is up and the value has become worse by `step` since it was told, it is
told again, at most every `update_s`. Between two changes of its state lie at least `least_s`. Checking allocates nothing; only what is told does.
"""

from micropython import const
from mote import nobody
from mote.crc import crc16

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_ABOVE = const(2)
_ALARM_BELOW = const(3)
_ALARM_CLEARED = const(1)

UPDATE_S = const(600)
_SLACK = const(10)  # a tenth of `hold` may come as one sample (mote.rest)


def tag_of(quantity, up):
    """What frames of this quantity and direction are known by in the outbox."""
    return quantity & 63 | (192 if up else 128)


class Rule:
    """One limit on one quantity, in raw units. `up`: True for above, False for below. boost: rates are raised while it is active."""

    def __init__(self, column, quantity, up, limit, clear, hold, worse=0, update_s=UPDATE_S, boost=False, least_s=0):
        self.column, self.quantity, self.up = column, quantity, up
        self.limit, self.clear, self.hold = limit, clear, hold
        self.worse = worse or max(abs(limit) // 10, abs(limit - clear), 1)
        self.update_s, self.boost, self.least_s = update_s, boost, least_s
        self.changed_t = 0  # when its state changed last; 0: not since boot
        self.active = False
        self.run = 0
        self.told, self.told_t = limit, 0

    @property
    def bit(self):
        """Its place in the Mask: what is up is known by quantity and direction, which a restart under other rules leaves as they are."""
        return 2 * self.column + self.up

    @property
    def tag(self):
        """What its frames are known by in the outbox, which outlives these rules."""
        return tag_of(self.quantity, self.up)

    def step(self, v, t, samples=1):
        """Take a value at t2000, the mean of so many samples; return _ALARM_ABOVE, _ALARM_BELOW (raised or worse), _ALARM_CLEARED or 0 (nothing new)."""
        if self.active:
            if v <= self.clear if self.up else v >= self.clear:
                if self.changed_t and 0 <= t - self.changed_t < self.least_s:
                    return 0
                self.active, self.run, self.changed_t = False, 0, t
                return _ALARM_CLEARED
            if (v - self.told if self.up else self.told - v) < self.worse or 0 <= t - self.told_t < self.update_s:
                return 0
        elif v > self.limit if self.up else v < self.limit:
            self.run += min(samples, max(1, self.hold // _SLACK))
            if self.run < self.hold or self.changed_t and 0 <= t - self.changed_t < self.least_s:
                return 0
            self.active, self.changed_t = True, t
        else:
            self.run = 0
            return 0
        self.told, self.told_t = v, t
        return _ALARM_ABOVE if self.up else _ALARM_BELOW


def label_of(name):
    """Return what stands for a name in a Mask."""
    data = name.encode()
    return crc16(data, len(data)) & 0x7FFF


class Mask:
    """A set of small numbers (0..14) that survives a power cut, in one NVS int; another `label` is another set. former: what was kept under another one, until
    keep() or set()."""

    def __init__(self, nvs, key, label):
        self._nvs, self._key, self._label = nvs, key, label_of(label)
        v = nvs.get(key) or 0
        same = v >> 15 == self._label
        self._bits = v & 0x7FFF if same else 0
        self.former = 0 if same else v

    def has(self, n):
        return bool(self._bits >> n & 1)

    def set(self, n, on):
        """Put n in or take it out; flash is written only when that changes anything. Raises OSError."""
        bits = self._bits | 1 << n if on else self._bits & ~(1 << n)
        if bits != self._bits:
            self._bits = bits
            self.keep()

    def keep(self):
        """Write it. Raises OSError."""
        self._nvs.put(self._key, self._label << 15 | self._bits)
        self.former = 0


class Alarms:
    """The limit rules of a node. raised: function(code, t2000, quantity id, value, limit, tag) called whenever there is something to tell, which sees to
    say_again() after a clear. The tag (128..255) is that of a quantity and a direction, whatever rules there are. ids: of the columns.

    active: a Mask of what is up, so that an alarm raised before a power cut or under other rules is cleared after it; it changes once raised() has
    stored the frame. waits: function(-tag), true when the last frame of this tag that was stored before this boot is a raise: the power went
    before the Mask knew, and it is cleared, too. boosting: True while a rule with `boost` is up.
    """

    def __init__(self, rules, raised, active, ids, waits=nobody):
        self.rules = rules
        self._raised, self._active = raised, active
        self._gone = []  # (quantity, bit, limit) of what has to be cleared: no rule of today has it up
        for bit in range(min(15, 2 * len(ids))):
            marked = active.has(bit)
            if marked or waits(-tag_of(ids[bit >> 1], bit & 1)):
                rule = self._easiest(bit) if marked else None
                if rule is None:
                    self._gone.append((ids[bit >> 1], bit, None))
                else:
                    rule.active = True
        self._look()

    def _easiest(self, bit):
        """The rule of this place whose limit is exceeded first, or None."""
        found = None
        for rule in self.rules:
            if rule.bit == bit and (found is None or (rule.limit < found.limit) == bool(rule.up)):
                found = rule
        return found

    def _keep(self, bit):
        up = False
        for rule in self.rules:
            if rule.bit == bit and rule.active:
                up = True
        self._active.set(bit, up)

    def _look(self):
        boosting = False
        for rule in self.rules:
            if rule.active and rule.boost:
                boosting = True
        self.boosting = boosting

    def check(self, t, values, present, samples=1):
        """Step every rule whose column has a value; samples: how many it is the mean of."""
        if self._gone:
            self.end(t)
        rules = self.rules
        for i in range(len(rules)):
            rule = rules[i]
            if present >> rule.column & 1:
                code = rule.step(values[rule.column], t, samples)
                if code:
                    self._raised(code, t, rule.quantity, values[rule.column], rule.limit, rule.tag)
                    self._keep(rule.bit)
                    self._look()

    def end(self, t):
        """Clear what has no rule any more."""
        while self._gone:
            quantity, bit, limit = self._gone[-1]
            self._raised(_ALARM_CLEARED, t, quantity, None, limit, tag_of(quantity, bit & 1))
            self._keep(bit)
            self._gone.pop()

    def save(self, put):
        """Tell put(int) how long each rule's limit has been exceeded, whether it is up, and what was told of one that is."""
        for rule in self.rules:
            put(rule.run << 1 | rule.active)
            put(rule.changed_t)
            if rule.active:
                put(rule.told)
                put(rule.told_t)

    def load(self, get):
        """Go on after a deep sleep. Which rules are up is in the image: of several of one place the Mask cannot tell."""
        for rule in self.rules:
            run, rule.changed_t = get(), get() & 0xFFFFFFFF
            rule.run, rule.active = run >> 1, bool(run & 1)
            if rule.active:
                rule.told, rule.told_t = get(), get() & 0xFFFFFFFF
        self._look()

    def say_again(self, t, quantity):
        """Raise what is still up on this quantity: a clear has ended every alarm of it at the gateway."""
        for rule in self.rules:
            if rule.active and rule.quantity == quantity:
                self._say(rule, t)

    def _say(self, rule, t):
        self._raised(_ALARM_ABOVE if rule.up else _ALARM_BELOW, t, rule.quantity, None, rule.limit, rule.tag)

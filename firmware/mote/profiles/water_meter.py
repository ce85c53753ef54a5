"""Water meter: the register (cumulative volume, monotonic for ever) and the flow, from the meter's pulses.

The register is kept in NVS (every ten pulses) and, there and on flash, before anything with it leaves the node: a row, a reading out of turn, an
alarm. In mode `sleep` the ULP coprocessor counts, asleep and through every reset but a power cut; RTC memory says how much of its count is in the register.
The node then wakes for rows only, and when as much has flowed as a rule's limit allows within sample_s (a tenth of its `hold`, if that is more): it
looks at once, and while a rule is exceeded at every sample_s. The flow of a row is what the register gained since the row before.
Rows fall on wall-clock boundaries, so that the meters of a zone can be balanced. Options: sensors.pulse = the driver's,
sensors.leak = {"hours", "litres"}: a leak is reported when no hour of the last `hours` (255 at most) used `litres` or less. That is judged at
the first look of each hour, whatever the rhythm of samples and rows: awake it is looked at every 20 s, and from sleep the node wakes at every hour.
"""

from struct import pack_into, unpack_from

from micropython import const
from mote import supervisor
from mote.hal import clock
from mote.hal.clock import FIRST
from mote.hal.rtc import PULSES_AT
from mote.profiles import Profile, chip
from mote.sampler import Sensor
from motewire.batch import MAX_VALUE

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_ABOVE = const(2)
_ALARM_CLEARED = const(1)

_VOLUME = const(0)
_FLOW = const(1)
_MOST_PULSES = const(16000)  # mote.hal.ulp
_NO_LIMIT = const(0x3FFFFFFF)
_MOST_S = const(86400)  # rows further apart have the mean of their samples
_FINE_MS = const(3600000)  # no flow needs longer
_EVERY = const(10)  # pulses
_HOUR = const(3600)
_LEAST = const(3000)  # of an hour that is judged: looks may be beside its ends
_UNSEEN = const(3)  # hours
_MOST_HOURS = const(255)  # NVS keeps no more


def _restless(column):
    """Stands for mote.rest.calm() until there is one."""
    return -1


class WaterMeter(Profile):
    SCHEMA = 4
    KEYS = ("water_volume", "water_flow")
    HOWS = {"water_volume": "last"}
    # burst: 0.8 Q3 of a Q3 = 2.5 m3/h meter for 30 minutes of one-minute samples (reference values: OIML R 49)
    ALARMS = ({"q": "water_flow", "above": 2000, "clear": 1000, "hold": 30},)

    def build(self, board, config, keep):
        self._config = config
        self._asleep = config["mode"] == "sleep"
        self._meter = chip("pulse", lambda unit: board.pulse(unit, self._asleep, supervisor.rtc.woke), config)
        self.calm = _restless
        self._looked = 0  # pulses at the last sample
        self._ahead = 0  # pulses behind it at which the node looks before the next one; 0: at none
        self._limit = _NO_LIMIT  # the flow, over one sample, that such a look is about
        self._row_t = self._row_volume = 0
        self._sample_s = config["sample_s"]
        self._most = _NO_LIMIT  # no rule tells flows above this from one another
        self._counted = 0  # samples of the flow under way that rules have had already
        self._store = keep("pulses")
        self._saved = self._stored = self._store.get() or 0
        rtc = supervisor.rtc
        if not self._asleep or rtc.fresh or not self._meter.resume(*unpack_from(">II", rtc.buf, PULSES_AT)):
            self._meter.restore(self._saved)
        self._remember()
        leak = config["sensors"].get("leak") or {}
        self._leak_hours, self._leak_limit = (
            min(leak.get("hours", 24), _MOST_HOURS),
            int(10 * leak.get("litres", 1) + 0.5),
        )
        kept = supervisor.nvs.get("leak") or 0  # hour, busy hours, leaking
        self._hour, self._busy_s, self._leaking = kept >> 9, _HOUR * (kept >> 1 & 255), bool(kept & 1)
        self._since = self._since_volume = 0  # from when on the hour is judged, 0: it is not; and the register then
        self._least = 0
        return [Sensor("pulse", self._meter)]

    def rhythm(self, config):
        """Also: over how long a flow is measured under these rules. A constant flow must not be over a limit in one sample and back in the next, for
        pulses fall as they do: in fine_ms one pulse is no more than what lies between a rule's limit and its end, and `enough` of them are as good."""
        sample_s, row_s = super().rhythm(config)
        if not self.sensors or config is not self._config or not self.alarms:
            return sample_s, row_s
        meter = self._meter
        self._sample_s, meter.least_ms = sample_s, 1000 * max(1, sample_s - 2)
        meter.fine_ms = meter.enough = self._most = 0
        for rule in self.alarms.rules:  # pyright: ignore[reportGeneralTypeIssues]  (the node sets it)
            if rule.column == _FLOW:
                apart = max(abs(rule.limit - rule.clear), rule.limit // 10, 1)
                meter.fine_ms = max(meter.fine_ms, min(meter.tenths * 360000 // apart, _FINE_MS))
                meter.enough = max(meter.enough, rule.limit // apart + 1)
                self._most = max(self._most, rule.limit, rule.clear)
        return sample_s, row_s

    def _remember(self):
        """Say in RTC memory how much of the running count is in the total."""
        if self._asleep:
            pack_into(">II", supervisor.rtc.buf, PULSES_AT, *self._meter.state())
            supervisor.rtc.save()

    def rests(self):
        """True while a sample between two rows would tell nothing: the meter counts on, and wakes the node when there is something."""
        return bool(self._asleep) and self.calm(_FLOW) >= 0

    def next_look(self, t):
        """While it sleeps: the next row or, where one would tell something, the next sample; and every hour, for leaks."""
        config = self._config
        step = config["row_s"] if self.rests() else config["sample_s"]
        return min(t // step * step + step, t // _HOUR * _HOUR + _HOUR)

    def hurries(self):
        """True when there is something to tell before the next sample is due."""
        if not self._ahead or not self.rests():
            return False
        self._meter.poll()
        return self._meter.total - self._looked >= self._ahead

    def naps(self):
        """What mote.nap needs to make a row of what was counted: pin, 0.1 l a pulse and at pulse 0, what a flow is measured over."""
        meter = self._meter
        return meter.pin, meter.tenths, meter.start, meter.fine_ms // 1000, meter.enough

    def _look_ahead(self):
        """Work out how many pulses behind the last sample mean that a limit is exceeded: more than it allows within sample_s."""
        limit = self.calm(_FLOW) if self._asleep else -1
        self._ahead, self._limit = 0, _NO_LIMIT
        if limit >= 0:
            self._limit = limit
            self._ahead = min(self._meter.more_than(limit), _MOST_PULSES)

    def poll(self):
        """Take over what was counted, every 20 s while the node is awake (mote.tasks): a PCNT has 16 bits, and a sample may be hours away."""
        self._meter.poll()
        total = self._meter.total
        if total - self._saved >= _EVERY:
            self._store.put_fast(total)
            self._saved = total
        self._leak(self.now(), self._meter.start + total * self._meter.tenths)

    def derive(self, values, present):
        self.poll()
        meter = self._meter
        self._looked = meter.total
        if meter.whole:
            self.samples = max(1, (meter.ms + 2000) // (1000 * self._sample_s) - self._counted)
            self._counted = 0
        elif values[_FLOW] > min(self._limit, self._most):
            self.samples = 1
            self._counted += 1
            self._limit = _NO_LIMIT
        else:  # what flowed at least says nothing of a limit that it does not exceed
            present &= ~(1 << _FLOW)
        return present

    def aside(self, row, present):
        """Its flow: since the last row, where that is as long as a flow needs."""
        self.keep()
        t = self.now()
        known = 1000 * (t - self._row_t) >= max(  # pyright: ignore[reportOperatorIssue]  (the node sets it)
            self._meter.least_ms, self._meter.fine_ms
        ) and self._flow_of(t, row)
        return present & 1 | known << _FLOW

    def keep(self):
        """The register as it is now never falls below this again, whatever happens to power and RTC memory."""
        if self.sensors:
            total = self._meter.total
            if total != self._stored:
                self._store.put(total)
                self._saved = self._stored = total

    def row(self, t, row, present):
        self.keep()
        if present & 1:
            if self._flow_of(t, row):
                present |= 1 << _FLOW
            self._row_t, self._row_volume = t, row[_VOLUME]
        return present

    def _flow_of(self, t, row):
        """The flow of a row, l/h, rounded: what the register gained since the one before. False when there is none."""
        passed, volume = t - self._row_t, row[_VOLUME] - self._row_volume
        if not 0 < passed <= _MOST_S or volume < 0:
            return False
        row[_FLOW] = min((volume * 360 + passed // 2) // passed, MAX_VALUE)
        return True

    def save(self, put):
        self._remember()
        self._look_ahead()
        meter = self._meter
        if self._asleep:
            ahead = self._looked + self._ahead - meter.total if self._ahead else _MOST_PULSES
            meter.wake_at(max(1, min(ahead, _MOST_PULSES)))
        total, ago_s = meter.measured()
        for n in (
            self._ahead,
            self._limit,
            self._looked,
            total,
            clock.uptime_s() - ago_s,
            self._row_t,
            self._row_volume,
            self._saved,
            self._stored,
            self._hour,
            self._since,
            self._since_volume,
            self._busy_s,
            self._least,
            self._leaking,
            self._counted,
        ):
            put(int(n))

    def load(self, get):
        self._ahead, self._limit, self._looked = get(), get(), get()
        total, since = get(), get()
        self._meter.go_on(total, clock.uptime_s() - since)
        self._row_t, self._row_volume = get() & 0xFFFFFFFF, get()
        self._saved, self._stored, self._hour = get(), get(), get()
        self._since, self._since_volume, self._busy_s = get() & 0xFFFFFFFF, get(), get()
        self._least, self._leaking, self._counted = get(), bool(get()), get()
        if self._stored < 0:  # rows of a nap: before one of them can leave, both copies have its register
            self._store.put(self._saved)
            self._stored = self._saved

    def stepped(self):
        """The clock jumped: the hour continues under another name, and is not judged."""
        self._hour = -1
        self._row_t = self._since = 0

    def _leak(self, t, volume):
        """At the first look of an hour: was (almost) nothing used since the one of the hour before? A night without a pause is a leak. Less than 50 minutes
        go on into the next hour. What no one saw for up to three hours (a start, a step of the clock) is neither; more begins the count
        anew. A leak ends with an hour without one, whatever lies between."""
        hour = t // _HOUR
        if t < FIRST or hour == self._hour and self._since:
            return
        before, self._hour = self._hour, hour
        passed = t - self._since
        if self._since and -_LEAST < passed < _LEAST:  # below 0: the clock is being slewed
            return
        used, since = volume - self._since_volume, self._since
        self._since, self._since_volume = t, volume
        if not since or not 0 < passed <= _UNSEEN * _HOUR:
            if before >= 0 and not 0 <= hour - before <= _UNSEEN:
                self._busy_s = 0
            return
        self._judge(t, used * _HOUR // passed, passed)
        busy = self._busy_hours()
        now = hour << 9 | min(busy, _MOST_HOURS) << 1 | self._leaking if busy > 1 or self._leaking else 0
        if now or supervisor.nvs.get("leak"):
            supervisor.nvs.put("leak", now)

    def _busy_hours(self):
        return (self._busy_s + _HOUR // 2) // _HOUR

    def _judge(self, t, used, passed):
        """used: in an hour of these `passed` seconds."""
        if used <= self._leak_limit:
            self._busy_s = 0
            if self._leaking:
                self._leaking = False
                self.raised(_ALARM_CLEARED, t, self.ids[_VOLUME], used, self._leak_limit)
            return
        self._least = used if not self._busy_s else min(used, self._least)
        self._busy_s += passed
        if self._busy_hours() >= self._leak_hours and not self._leaking:
            self._leaking = True
            self.say_again(t, self.ids[_VOLUME])

    def say_again(self, t, quantity):
        if self._leaking and quantity == self.ids[_VOLUME]:
            self.raised(_ALARM_ABOVE, t, quantity, self._least, self._leak_limit)

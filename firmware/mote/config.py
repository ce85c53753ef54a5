"""The node's configuration: /config.json, checked; /config.good, the last one that reached the gateway; /config.factory.

A configuration that differs from /config.good is on probation: after three boots under it that ended unwanted, or when no ack came
within prove_s, the node goes back to the good one, writes down why (status key 22) and never gives the refused version number again.
Thin: mote.settings, which knows the keys, is in memory only while it is needed. A node that sleeps needs it at no wake: RUN holds what
the proven file came to, and which files that was.
"""

import json
from binascii import crc32

from micropython import const
from mote import borrow, log, nobody
from mote.files import remove
from mote.hal import clock

PATH = "/config.json"
GOOD = "/config.good"
_SCALES = ("pulse", "bin")  # litres of a pulse, the register at its start; millimetres of an empty and of a full bin
FACTORY = "/config.factory"
_PROBLEM = "/problem.txt"
RUN = "/out/config.run"  # beside the outbox: every file in the root makes every look for one there longer, 0.4 M instructions a wake
_TEXT = const(100)
_FRAMES = const(256)


def _settings(what, *args):
    """Call a function of mote.settings."""
    return borrow("mote.settings", what, *args)


class Config:
    """The configuration in force. `values` is complete and checked; `fallback` is True when /config.json was unusable.

    rtc, nvs: where boots on probation are counted (None: not at all). given_up: this boot went back to the good configuration. waits: a restart puts
    the newest values into effect; until then an answer proves what was before them.
    silent_s: seconds without an answer before this boot; a node that sleeps keeps them over the sleep.
    """

    def __init__(self, path=PATH, good=GOOD, rtc=None, nvs=None, factory=FACTORY):
        self.path, self.good, self.factory, self.rtc, self.nvs = path, good, factory, rtc, nvs
        self.fallback = self.given_up = self.probation = self.proved = self.waits = False
        self.source = path
        self.values = {}
        self._over = {}
        self.answered()
        self._load()

    def _load(self):
        if self.rtc is None or not self.rtc.woke or not self._resume():
            _settings("load", self)

    def _resume(self):
        """After a deep sleep: take what was judged before it. False when there is none, or of other files."""
        try:
            with open(RUN, "rb") as f:
                mark, text = int(f.readline()), f.read()
            if mark != mark_of(text, self.path, self.good):
                return False
            self.values = json.loads(text)
        except (OSError, ValueError):
            return False
        return True

    def __getitem__(self, key):
        over = self._over
        return over[key] if key in over else self.values[key]

    def answered(self):
        """An ack came: the clock of prove_s begins anew; what caused it may still be no proof (see proven)."""
        self._since = clock.uptime_s()
        self.silent_s = 0

    def proven(self):
        """The gateway answered under this configuration: keep it as the last good one (written only when it is new). Raises OSError."""
        self.answered()
        if not self.proved and not self.fallback and not self.waits:
            borrow("mote.proof", "prove", self)
            self.proved = True

    def unanswered(self, seconds, proved):
        """Before the deep sleep that ended now there had been no answer for so long; proved: it is the good one already."""
        self._since = clock.uptime_s()
        self.silent_s = seconds
        self.proved = proved and not self.probation

    def unanswered_s(self):
        """Seconds since the last answer under this configuration, or since it came."""
        return min(self.silent_s + clock.uptime_s() - self._since, 0x3FFFFFFF)

    def overdue(self):
        """True when a configuration on probation had no answer for prove_s seconds."""
        return self.probation and self.unanswered_s() >= self.values["prove_s"]

    def give_up(self, why):
        """Go back to the last good configuration; False when there is none. Raises OSError."""
        if _settings("give_up", self, why):
            return True
        self.answered()  # nothing to go back to: look again after as long
        return False

    def change(self, updates, judge=nobody):
        """Check and store new values {name: value; None: the default}; return (values before, values now), the same when nothing changes.

        judge: function(values) that may raise BadConfig, too. Nothing is stored when they do not fit together. The node's id is
        not changed this way: it is part of its identity. Raises BadConfig, OSError.
        """
        raw, values = _settings("proposed", self, updates)
        if values is None:
            return self.values, self.values
        judge(values)
        return borrow("mote.proof", "adopt", self, raw, values)

    def rates(self, emergency):
        """Raise sample, row and report rates, or let them return."""
        self._over = _settings("emergency_of", self.values) if emergency else {}

    def strip(self):
        """Run with the profile's own alarms and options, but for those that say what a value means: without them it would be another. What is stored stays."""
        values = self.values
        values["sensors"] = {name: o for name, o in values["sensors"].items() if name in _SCALES}
        values["alarms"] = []
        values["outbox_frames"] = min(values["outbox_frames"], _FRAMES)  # its index is in RAM


def mark_of(values, path, good):
    """Return what tells these values (bytes of JSON), made of a configuration beside the last good one, from any others. Raises OSError."""
    mark = crc32(values)
    for name in (path, good):
        with open(name, "rb") as f:
            mark = crc32(f.read(), mark)
    return mark


def note_problem(why):
    """Write down why a configuration was refused or given up, for the status frames of this or the next boot."""
    try:
        with open(_PROBLEM, "w") as f:
            f.write(why[:_TEXT])
    except OSError as e:
        log.error("problem: %s", e)


def problem():
    """Return what was written down, or ""."""
    try:
        with open(_PROBLEM) as f:
            return f.read(_TEXT)
    except (OSError, ValueError):
        return ""


def forget_problem():
    """The problem is in the outbox: remove the note."""
    remove(_PROBLEM)

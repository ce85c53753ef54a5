"""Decides what goes on the air when: alarms first, jitter, acks by policy, back-off, and the backlog drained within the duty cycle.

The outbox is the queue. After a reset every frame in it counts as not sent; the first ack says which ones the gateway has.
"""

import asyncio
import random

from micropython import const
from mote import log
from mote.errors import Corrupt, LinkDown
from mote.hal import clock as board_clock
from mote.outbox import FRESH, MISSING, SENT
from motewire.frame import ALARM, REPORT, wants_ack

_FIRST_RETRY_S = const(15)
_ALARM_TRIES = const(3)  # so many at 10..60 s, then like everything else
_IDLE_S = const(600)  # look around at least so often
_NEVER_S = const(1 << 28)
_GAP_MS = const(
    1200
)  # between two frames of a backlog, at most, behind the gateway's answer: somebody else may want to speak


class Uplink:
    """Sends what is in the outbox.

    outbox, link: see mote.outbox and mote.links. jitter_s: a fresh batch waits 0..jitter_s. hello_s: the first frame after
    boot waits 0..hello_s. ack_age_s: a frame sent so long ago without an ack is sent again. backoff_s: longest pause.
    progress: function() called at every turn. ours: function(frame) that is False for a frame of a key that is gone.
    """

    def __init__(self, outbox, link, jitter_s, hello_s, ack_age_s, backoff_s, progress, ours):
        self._outbox, self._link = outbox, link
        self.jitter_s, self._ack_age_s, self._backoff_s = jitter_s, ack_age_s, backoff_s
        self._progress, self._ours = progress, ours
        self._buf = bytearray(link.max_frame)
        self._wake = asyncio.Event()
        self._hold = random.randint(0, hello_s)  # uptime before which nothing but alarms is sent
        self._failures = 0
        self._retry_at = 0
        self._probe = 0  # counter whose ack is waited for
        self._alarm_tries = 0
        self.due_s = 0  # uptime at which something may become due by itself; 0: at work
        self.sent = self.resent = self.acked = self.unacked = 0
        self.last_ack_s = -1

    def fresh(self, hurry=False):
        """A frame entered the outbox. hurry: an alarm or event, which waits for nobody's jitter."""
        self.due_s = 0
        if hurry:
            self._hold = min(self._hold, board_clock.uptime_s() + random.randint(0, 3))
        elif self._count(FRESH) <= 1:
            self._hold = max(self._hold, board_clock.uptime_s() + random.randint(0, self.jitter_s))
        self._wake.set()

    def tune(self, jitter_s, ack_age_s, backoff_s):
        """Change the waiting times from now on."""
        self.jitter_s, self._ack_age_s, self._backoff_s = jitter_s, ack_age_s, backoff_s
        self._wake.set()

    def link_up(self):
        """The bearer came back: no need to wait out the pause."""
        self._failures = self.due_s = 0
        self._wake.set()

    @property
    def down(self):
        """True while acks are missing: what is sent now may wait for company."""
        return self._failures > 1 or not self._link.up

    def on_ack(self, ack):
        """The gateway named what it has."""
        gone = self._outbox.ack(ack)
        self.acked += gone
        self.last_ack_s = board_clock.uptime_s()
        self._failures = self._alarm_tries = self.due_s = 0
        self._wake.set()

    def _count(self, state):
        n = 0
        for i in range(self._outbox.depth):
            if self._outbox.states[i] == state:
                n += 1
        return n

    def _pick(self, now):
        """Return the index of the frame to send now, or -1."""
        box = self._outbox
        if not self._link.up:
            return -1
        fresh = lost = aged = status = alarm = -1
        for i in range(box.depth):
            state, kind = box.states[i], box.kinds[i]
            if kind == ALARM:
                # in a pause each is tried once
                if state != SENT and alarm < 0 and not (self._failures and box.times[i]):
                    alarm = i
            elif kind != REPORT and state == FRESH:
                status = i if status < 0 else status
            elif state == FRESH:
                fresh = i if fresh < 0 else fresh
            elif state == MISSING:
                lost = i if lost < 0 else lost
            if state == SENT and aged < 0 and now - box.times[i] > self._ack_age_s:
                aged = i
        if alarm >= 0:
            return alarm
        if self._failures:
            if now < self._retry_at:
                return -1
            i = box.index_of(self._probe)
            if i >= 0:
                return i
            for i in range(box.depth):
                if box.states[i] != FRESH or wants_ack(box.kinds[i], box.counters[i]):
                    return i
        if lost >= 0:
            return lost
        if now < self._hold:
            return -1
        return status if status >= 0 else fresh if fresh >= 0 else aged

    def _due_in(self, now):
        """Seconds until something may become due by itself."""
        box = self._outbox
        if not box.depth or not self._link.up:
            return _NEVER_S
        if self._failures:
            return max(1, self._retry_at - now)
        if self._count(SENT) < box.depth:
            return max(1, self._hold - now)
        at = now + _NEVER_S
        for i in range(box.depth):
            at = min(at, box.times[i] + self._ack_age_s + 1)
        return max(1, max(at, self._hold) - now)

    def save(self, put):
        """Tell put(int) what load() needs after a deep sleep: the pauses, and up to which counter all was sent."""
        box = self._outbox
        below, since = 0x3FFFFFFF, board_clock.uptime_s()
        for i in range(box.depth):
            if box.states[i] != SENT:
                below = min(below, box.counters[i])
            else:
                since = min(since, box.times[i])
        for n in (
            self._hold, self._failures, self._retry_at, self._probe, self._alarm_tries, self.last_ack_s, below, since,
        ):  # fmt: skip
            put(n)

    def load(self, get):
        """Go on after a deep sleep. A frame above the first one that was not sent may be sent once more."""
        self._hold, self._failures, self._retry_at, self._probe = get(), get(), get(), get()
        self._alarm_tries, self.last_ack_s, below, since = get(), get(), get(), get()
        box = self._outbox
        for i in range(box.depth):
            if box.counters[i] < below:
                box.states[i] = SENT
                box.times[i] = since

    async def run(self):
        """Send for ever. Raises OSError when the flash fails."""
        while True:
            self._progress()
            self._wake.clear()
            now = board_clock.uptime_s()
            i = self._pick(now)
            if i < 0:
                await self._rest(now, self._due_in(now))
                continue
            alarm = self._outbox.kinds[i] == ALARM
            try:
                n = self._outbox.read_into(i, self._buf)
            except Corrupt:
                log.error("frame %d is damaged on flash", self._outbox.counters[i])
                self._outbox.drop(i)
                continue
            if not self._ours(self._buf):  # provisioned anew with frames waiting: nobody would take it, ever
                log.error("frame %d is sealed with a key that is gone", self._outbox.counters[i])
                self._outbox.drop(i)
                continue
            wait = self._link.ready_in_ms(n, alarm)
            if wait:
                await self._rest(now, wait // 1000 + 1)
                continue
            await self._send(i, n)

    async def _rest(self, now, seconds):
        """Nothing to do for so long, unless something happens."""
        self.due_s = now + seconds
        await self._sleep(min(seconds, _IDLE_S) * 1000)
        self.due_s = 0

    async def _sleep(self, ms):
        """Wait until something happens, at most ms."""
        try:
            await asyncio.wait_for_ms(self._wake.wait(), ms)
        except asyncio.TimeoutError:
            pass

    async def _send(self, i, n):
        box = self._outbox
        counter, kind, again = box.counters[i], box.kinds[i], box.states[i] != FRESH
        want = again or self._link.acks_all or wants_ack(kind, counter)
        box.states[i] = SENT
        box.times[i] = board_clock.uptime_s()
        self.sent += 1
        if again:
            self.resent += 1
        try:
            await self._link.send(self._buf, n, kind, want)
        except (LinkDown, OSError, asyncio.TimeoutError) as e:
            log.debug("send: %s", repr(e))
            i = box.index_of(counter)
            if i >= 0 and not again:
                box.states[i] = FRESH
            self._missed(counter, kind)
            return
        if want:
            left = self._link.ack_wait_ms
            while left > 0 and box.index_of(counter) >= 0:
                self._wake.clear()
                await self._sleep(min(left, 1000))
                left -= 1000
            if box.index_of(counter) >= 0:
                self.unacked += 1
                self._missed(counter, kind)
                return
        if self._count(FRESH):
            # out of order each frame is answered, whether we listen or not, and while it answers the gateway hears no one
            await asyncio.sleep_ms((0 if want else self._link.answer_ms) + random.randint(100, _GAP_MS))

    def _missed(self, counter, kind):
        """No ack came: wait before the next try, longer every time; alarms are more stubborn."""
        self._failures = min(self._failures + 1, 16)
        self._probe = counter
        if kind == ALARM:
            self._alarm_tries += 1
        if kind == ALARM and self._alarm_tries < _ALARM_TRIES:
            pause = random.randint(10, 60)
        else:
            base = min(_FIRST_RETRY_S << self._failures - 1, self._backoff_s)
            pause = base // 2 + random.randint(0, base)
        self._retry_at = board_clock.uptime_s() + pause

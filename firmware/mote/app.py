"""The node: ties sensors, batches, seals, the outbox and the link together, and keeps them going."""

import asyncio
import gc

from cryptolib import aes
from micropython import const
from mote import borrow, let_go, log, supervisor
from mote.alarms import Alarms, Mask
from mote.batcher import Batcher
from mote.clock import CRYSTAL, RC, Clock
from mote.counter import Counter
from mote.downlink import Downlink
from mote.errors import BadConfig
from mote.hal import clock as board_clock
from mote.hal.clock import FIRST
from mote.health import Health
from mote.outbox import Outbox
from mote.power import Power
from mote.remote import Control
from mote.sampler import Sampler
from mote.sealer import Sealer
from mote.staging import Staging
from mote.tasks import Supervisor
from mote.twice import Twice
from mote.uplink import Uplink
from motewire import cbor, messages
from motewire.frame import ALARM

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_CLEARED = const(1)
_ALARM_FAULT = const(4)
_EXT_TIME = const(1)
_LADDER_ALL = const(3)
_LADDER_ONE = const(1)
_LADDER_OPTIONS = const(2)
_TIME_ESTIMATED = const(1)

_GC_S = const(600)
_LOOK_S = const(60)
_MARK_SHIFT = const(10)
_ROWS_MAX = const(240)
_EVENT_ROWS = const(64)
_FAULT = const(0)  # tags of alarms: what kind, and the quantity id in six bits; rules have 128 and 192 (mote.alarms)
_PROFILE = const(64)
_FEW = const(4)  # frames of one tag that may wait (mote.leaving): with fewer in all there is nothing to thin


class Node:
    """config: mote.config.Config. board, nvs: mote.hal. identity: mote.identity.Identity. link: mote.links. cipher: of identity.key.

    watchdog: object with feed(), or None. Raises BadConfig, NeedsKey, OSError.
    """

    def __init__(self, config, board, nvs, identity, link, cipher, watchdog=None):
        self.config, self.board, self.link = config, board, link
        self._nvs = self.nvs = nvs
        self._identity = identity
        rtc = supervisor.rtc
        self.power = Power(rtc, board, lambda: link.radio_ms, lambda: self.sampler.busy_ms)
        self.power.check()
        sleeps = config["mode"] == "sleep"
        self.woke = sleeps and self._woke(rtc)
        self.clock = Clock(rtc, RC if sleeps else CRYSTAL)
        self.boots = nvs.get("boots") or 0
        self.cycle = nvs.get("cycles") or 0
        if not self.woke:
            self.boots += 1
            nvs.put("boots", self.boots)
        if rtc.fresh or not self.cycle:
            self.cycle += 1
            nvs.put("cycles", self.cycle)
        self.rows_lost = nvs.get("lost") or 0

        self.slot = supervisor.slot()
        if supervisor.level >= _LADDER_OPTIONS:
            config.strip()
        self.profile = borrow("mote.profiles.opening", "open_profile", config["profile"])(
            board, config, self._keep, supervisor.level >= _LADDER_ALL
        )
        self.ids, self.schema = self.profile.ids, self.profile.SCHEMA
        self.profile.raised, self.profile.now = self.raise_alarm, self.clock.now
        sample_s, row_s = self.profile.rhythm(config)
        self.events = row_s == 0
        if sleeps and self.events:
            raise BadConfig("mode sleep: not with event rows")

        self.sealer = Sealer(cipher, config["node"], identity.epoch, Counter(self._keep("ceiling")), link.max_frame)
        self.outbox = Outbox("/out", 1024 * config["outbox_kb"], config["outbox_frames"], self._count_lost)
        self.uplink = Uplink(
            self.outbox, link, config["jitter_s"], config["hello_s"], config["ack_age_s"], config["backoff_s"],
            lambda: self.supervisor.progress("uplink"), self.sealer.ours,
        )  # fmt: skip
        every = 1 if self.events else config["stage_every"]
        if sleeps:
            from mote.held import HeldStaging

            every = _ROWS_MAX if every == 1 else every
            staging = HeldStaging(
                "/stage", self.ids, self.profile.SCHEMA, row_s, self.cycle, every, rtc, self.woke, self.outbox
            )
        else:
            staging = Staging("/stage", self.ids, self.profile.SCHEMA, row_s, self.cycle, every)
        self.batcher = Batcher(
            self.ids, self.profile.SCHEMA, row_s, config["report_s"],
            _EVENT_ROWS if self.events else min(_ROWS_MAX, config["report_s"] // row_s + 4),
            self.sealer, self.outbox, staging, self._closed, self._count_lost,
        )  # fmt: skip
        self.alarms = Alarms(
            borrow("mote.rules", "rules_of", self.profile, config), self.raise_alarm, Mask(nvs, "alarms", config["profile"]),
            self.ids, self.outbox.sealed_rows,
        )  # fmt: skip
        self.profile.alarms = self.alarms
        let_go("motewire.quantities")  # looked up, not needed again: 3 kB
        self._faults = Mask(nvs, "faults", config["profile"])
        self.sampler = Sampler(
            self.ids, self.profile.KEYS, self.profile.hows, self.profile.sensors, self.profile, self.clock, self,
            0 if self.events else nvs.get("laps") or 0,
        )  # fmt: skip
        self.health = Health(self)
        self.supervisor = Supervisor(watchdog)
        self._shed()
        self.control = Control(self)
        self.downlink = Downlink(
            self.sealer, self._keep("down"), self._on_ack, self.clock.set_unix, self.control.on_config, self._on_rekey,
            self.control.on_command,
        )  # fmt: skip
        link.on_frame, link.on_up = self.downlink.handle, self.uplink.link_up
        self.clock.stepped.append(self._stepped)
        self.rows_refused = 0
        self._rows_mark = nvs.get("rows") or 0  # where the newest sealed row lies, in units of 1024 s
        self._sampling = False
        self._sleeper = None
        if sleeps:
            self._go_on(rtc)
        self._error = None
        self._rtc = rtc

    def _keep(self, name):
        """A number kept twice. The counters belong to the key's life, everything else to the board's."""
        mark = self._identity.mark if name in ("ceiling", "down") else b"keep"
        return Twice(self._nvs, name, "/%s.bin" % name, mark)

    # --- deep sleep

    def _woke(self, rtc):
        from mote.sleeper import fits

        return fits(rtc, self.config)

    def _go_on(self, rtc):
        from mote.rest import Rest
        from mote.sleeper import Sleeper

        parts = [
            self.sealer,
            self.downlink,
            self.uplink,
            self.sampler,
            self.alarms,
            self.batcher,
            self.health,
            self.control,
        ]
        if self.profile.sensors:
            parts.append(self.profile)
        rest = self._rest = Rest(self)
        self._sleeper = Sleeper(
            rtc, self.clock, self.power, self.link, parts, self._due_in, rest.look, rest.plan, self.config
        )
        if self.woke:
            self._sleeper.resume()
            self.supervisor.woke()

    def _due_in(self):
        """Seconds until the node has something to do, 0 while it does."""
        at, slot = self.uplink.due_s, self.sampler.due() if self.profile.sensors else -1
        if self.control.busy or self.control.raised or not at or not slot:
            return 0
        left = min(at - board_clock.uptime_s(), self.health.due_in())
        return left if slot < 0 else min(left, slot - self.clock.now())

    # --- what the sampler calls

    def take_row(self, t, values, present):
        """A row: into the batch. A flash that refuses loses the row, and that is counted."""
        try:
            self.batcher.append(t, values, present)
        except OSError as e:
            self.rows_refused += 1
            self._count_lost(1)
            log.error("row refused: %s", e)
            return
        if self.events and not self.uplink.down:
            self._close()

    def _close(self):
        try:
            self.batcher.close()
        except OSError as e:  # they stay staged
            log.error("close: %s", e)

    def check(self, t, values, present):
        """A sample: through the alarm rules."""
        self.alarms.check(t, values, present, self.profile.samples)
        if self.alarms.boosting and not self.control.raised:
            self.control.boost_soon()

    def fault(self, sensor, t, active):
        """A sensor failed for good, or works (again): said once, also when a reset lies between."""
        n = self.first_column(sensor)
        if n < 0 or not active and not self._faults.has(n):
            return
        quantity = self.ids[n]
        if active:  # before it is stored: a power cut between the two must not leave it up
            self._faults.set(n, True)
            self.raise_alarm(_ALARM_FAULT, t, quantity, None, None, _FAULT | quantity & 63)
        else:
            self.raise_alarm(_ALARM_CLEARED, t, quantity, None, None, _FAULT | quantity & 63)
            self._faults.set(n, False)

    def first_column(self, sensor):
        """The column that the sensor's faults are reported on, and kept by; -1: none."""
        for c in sensor.columns:
            if c >= 0:
                return c
        return -1

    def entered(self, index):
        """A sensor that is not proven is about to be read: whoever hangs now is known after the reset."""
        self._rtc.buf[supervisor.ENTERED] = index + 1
        self._rtc.save()

    def broken(self, error):
        """A bug in the sampler, or the flash is gone: end the node, the next boot looks at it."""
        self.supervisor.fail(error)

    # --- alarms, batches, downlinks

    def raise_alarm(self, code, t, quantity, value, limit, tag=0):
        """Seal an alarm at once; it overtakes everything. tag: of whoever raised it (mote.leaving.thin); 0: the profile. At the gateway
        a clear ends every alarm of its quantity, so whatever else is up on it is raised again."""
        tag = tag or _PROFILE | quantity & 63
        self.profile.keep()
        gone = borrow("mote.leaving", "thin", self.outbox, tag) if self.outbox.depth >= _FEW else ()
        s = self.sealer
        at = s.begin(ALARM)
        if t >= FIRST:
            n = messages.put_alarm(s.buf, at, code, t, quantity, value, limit)
        else:  # no time yet: its age, which is right when it gets through at once
            n = messages.put_alarm(
                s.buf, at, code, t, quantity, value, limit, {_EXT_TIME: _TIME_ESTIMATED}, cbor.AGE, self.clock.now()
            )
        n = s.finish(n)
        self.outbox.append(ALARM, s.counter, s.buf, n, tag, 0, code != _ALARM_CLEARED)
        if gone:
            borrow("mote.leaving", "void", self.outbox, gone)
        log.info("alarm %d on q%d", code, quantity)
        self.uplink.fresh(True)
        if code != _ALARM_CLEARED:
            return
        self.alarms.say_again(t, quantity)
        self.profile.say_again(t, quantity)
        for n in range(len(self.ids)):
            if tag >> 6 and self.ids[n] == quantity and self._faults.has(n):
                self.raise_alarm(_ALARM_FAULT, t, quantity, None, None, _FAULT | quantity & 63)

    def _closed(self):
        self.uplink.fresh(self.events)
        t = self.batcher.newest
        if self.events or t < FIRST or t >> _MARK_SHIFT == self._rows_mark:
            return
        self._rows_mark = t >> _MARK_SHIFT
        try:
            self._nvs.put("rows", self._rows_mark)
        except OSError as e:  # the rows are stored
            log.error("rows: %s", e)

    def _on_ack(self, ack):
        self.uplink.on_ack(ack)
        s = self.sealer
        if not self.clock.quality and s._boot_frames and self.outbox.index_of(s.counter - s._boot_frames + 1) < 0:
            # the first frame of this boot was heard, which carries the whole counter and so asks for the time: the gateway does not know it
            self.batcher.date(0, self.clock.now())
        supervisor.prove_slot()
        if supervisor.level <= _LADDER_ONE:
            self.config.proven()
        else:
            self.config.answered()  # no proof for what is left out
        self._change_key()
        if self.events and self.batcher.rows:
            self._close()  # rows that waited while the link was down

    def _on_rekey(self, value):
        if self._identity.offer(value[1], value[0]):
            log.info("key of epoch %d taken, in use once the outbox is empty", value[0])

    def _change_key(self):
        """Change to the pending key at a moment when nothing sealed with the old one waits: no ack is ambiguous then."""
        identity = self._identity
        if identity.pending is None or self.outbox.depth:
            return
        try:
            identity.change()
            self.sealer.rekey(aes(identity.key, 1), identity.epoch, Counter(self._keep("ceiling")))
            self.downlink.restart(self._keep("down"))
        except OSError as e:  # half way: the next boot goes on from what the flash holds
            self.broken(e)
            return
        log.info("key of epoch %d in use", identity.epoch)
        self.health.report()  # the proof, without waiting for the next report
        self.uplink.fresh()

    def retune(self):
        """The configured rhythm changed: take it from now on."""
        config = self.config
        sample_s, row_s = self.profile.rhythm(config)
        self.batcher.set_interval(row_s, config["report_s"])
        self._watch(sample_s, row_s)
        if self._sampling:
            self._start_sampler()

    def _stepped(self, step_s, board_step_s):
        borrow("mote.dating", "stepped", self, step_s, board_step_s)

    def _count_lost(self, rows):
        self.rows_lost += rows
        self._nvs.put("lost", self.rows_lost)
        log.warning("%d rows lost, %d in all", rows, self.rows_lost)

    # --- life

    def _shed(self):
        n = supervisor.climb("shed_index", len(self.profile.sensors))
        if n >= 0:
            s = self.profile.sensors[n]
            s.shed = True
            log.warning("%s is left out", s.name)
        if supervisor.suspicious:
            from mote.leak import Scales

            self.sampler.weigh(Scales(len(self.profile.sensors)))

    def _watch(self, sample_s, row_s):
        self.supervisor.watch("samples", 4 * max(sample_s, row_s) + 600)

    def _start_sampler(self, woke=False):
        config = self.config
        sample_s, row_s = self.profile.rhythm(config)
        self.sampler.start(sample_s, row_s, config["report_s"], woke)

    async def _sample(self):
        if self.profile.sensors:
            self._sampling = True
            self._start_sampler(self.woke)
        seen = -1
        self._watch(*self.profile.rhythm(self.config))
        while True:
            await asyncio.sleep(60)
            tried = sum([s.slot for s in self.profile.sensors])
            if tried != seen or all([s.shed for s in self.profile.sensors]):
                seen = tried
                self.supervisor.progress("samples")

    async def _report_health(self):
        while True:
            if self.health.due_in() <= 0:
                self.power.keep()
                self.health.report()
                self.uplink.fresh()
            await asyncio.sleep(max(1, min(self.health.due_in(), _LOOK_S)))  # a node that sleeps waits for what is due

    async def _tidy(self):
        settled = not self.woke
        while True:
            await asyncio.sleep(_GC_S)
            if not settled:  # it woke, and stays awake
                settled = True
                borrow("mote.start", "settle", self)
            gc.collect()

    async def run(self):
        """Work for ever; raises what must end in a reset."""
        if not self.woke:
            taken = self.batcher.recover()
            if self.clock.born:
                self.batcher.date(self.clock.born)
            log.info("boot %d: %d rows taken up, %d frames waiting", self.boots, taken, self.outbox.depth)
            self.health.boot()
            self.uplink.fresh()
            borrow("mote.former", "clear", self)
        else:
            self._rest.divide()
        asyncio.get_event_loop().set_exception_handler(lambda loop, context: self.broken(context["exception"]))
        keep = self.supervisor.keep
        self.supervisor.watch("uplink", 3600)
        self.supervisor.checks.append(self.sampler.check_hangs)
        self.supervisor.checks.append(self.power.check)
        if self.profile.sensors and hasattr(self.profile, "poll"):
            self.supervisor.checks.append(self.profile.poll)
        keep("link", self.link.run)
        keep("uplink", self.uplink.run)
        keep("sampler", self._sample)
        keep("health", self._report_health)
        keep("tidy", self._tidy)
        self.control.start()
        if self._sleeper is not None:
            self.supervisor.checks.append(self._rest.look)
            keep("sleeper", self._sleeper.run)
        await self.supervisor.run()

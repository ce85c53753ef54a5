"""The node of last resort: link, downlinks and status, when the whole one cannot be built or does not hold.

It sends what waits in the outbox, answers, takes configurations and commands, and says how it is; it measures nothing and leaves staged rows,
registers and alarms alone. It imports none of the modules that measuring needs. After a day of work the whole node is tried again.
"""

import asyncio

from cryptolib import aes
from micropython import const
from mote import log, supervisor
from mote.clock import Clock
from mote.counter import Counter
from mote.downlink import Downlink
from mote.errors import BadConfig
from mote.health import Health
from mote.links import LINKS, open_link
from mote.outbox import Outbox
from mote.power import Power
from mote.remote import Remote
from mote.sealer import Sealer
from mote.tasks import Supervisor
from mote.twice import Twice
from mote.uplink import Uplink

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_LADDER_SAFE = const(4)

_LOOK_S = const(60)


def usable_link(config, board, rtc, nvs):
    """Return the link of the configuration, or another one that can be built from it. Raises BadConfig."""
    wanted = config["link"]
    for name in [wanted] + [other for other in LINKS if other != wanted]:
        try:
            config.values["link"] = name
            return open_link(config, board, rtc, nvs)
        except (BadConfig, OSError, RuntimeError, KeyError, ImportError) as e:
            log.error("link %s: %s", name, repr(e))
    raise BadConfig("no link")


class SafeNode:
    """config: mote.config.Config, or mote.restore.Rescued. Raises BadConfig (no link), LowSupply, NeedsKey, OSError."""

    ids = ()
    schema = None
    woke = False

    def __init__(self, config, board, nvs, identity, watchdog=None):
        supervisor.level = _LADDER_SAFE
        rtc = supervisor.rtc
        config.strip()
        self.config, self.board, self.nvs = config, board, nvs
        self.clock = Clock(rtc)
        self.slot = supervisor.slot()
        self.boots = (nvs.get("boots") or 0) + 1
        nvs.put("boots", self.boots)
        self.rows_lost = nvs.get("lost") or 0
        self.link = link = usable_link(config, board, rtc, nvs)
        self.power = Power(rtc, board, lambda: link.radio_ms, lambda: 0)
        self.power.check()

        def keep(name):
            return Twice(nvs, name, "/%s.bin" % name, identity.mark)

        cipher = aes(identity.key, 1)
        self.sealer = Sealer(cipher, config["node"], identity.epoch, Counter(keep("ceiling")), link.max_frame)
        self.outbox = Outbox("/out", 1024 * config["outbox_kb"], config["outbox_frames"], self._count_lost)
        self.supervisor = Supervisor(watchdog)
        self.uplink = Uplink(
            self.outbox, link, config["jitter_s"], config["hello_s"], config["ack_age_s"], config["backoff_s"],
            lambda: self.supervisor.progress("uplink"), self.sealer.ours,
        )  # fmt: skip
        self.health = Health(self)
        self.control = Remote(self)
        self.downlink = Downlink(
            self.sealer,
            keep("down"),
            self._on_ack,
            self.clock.set_unix,
            self.control.on_config,
            self._on_rekey,
            self.control.on_command,
        )
        link.on_frame, link.on_up = self.downlink.handle, self.uplink.link_up
        self.clock.stepped.append(self._stepped)

    def _count_lost(self, rows):
        self.rows_lost += rows
        self.nvs.put("lost", self.rows_lost)

    def _stepped(self, *steps):
        if hasattr(self.link, "duty"):
            self.link.duty.shift(steps[-1])

    def _on_ack(self, ack):
        self.uplink.on_ack(ack)
        self.config.answered()

    def _on_rekey(self, value):
        log.info("a new key has to wait for the whole node")

    async def _report_health(self):
        while True:
            if self.health.due_in() <= 0:
                self.health.report()
                self.uplink.fresh()
            await asyncio.sleep(_LOOK_S)

    async def run(self):
        """Work until a day is over or a command ends it; raises what must end in a reset."""
        log.warning("safe node: %d frames waiting", self.outbox.depth)
        self.health.boot()
        self.uplink.fresh()
        keep = self.supervisor.keep
        self.supervisor.watch("uplink", 3600)
        self.supervisor.checks.append(self.power.check)
        keep("link", self.link.run)
        keep("uplink", self.uplink.run)
        keep("health", self._report_health)
        self.control.start()
        await self.supervisor.run()

"""What stands for a link that cannot be built: the node measures to flash, says so on the serial line, and in its status once it has a link."""

import asyncio

from mote import log, nobody
from mote.config import note_problem
from mote.errors import BadConfig, LinkDown
from mote.files import read_json
from mote.links import LINKS, open_link
from motewire.frame import MAX_FRAME, max_frame


def instead(config, board, rtc, nvs, error):
    """Return another link of a configuration whose own cannot be built for this error, or a NoLink. Raises the error where a good configuration is waiting (mote.config)."""
    if config.probation and read_json(config.good) is not None:
        raise error
    wanted = config["link"]
    log.error("no link: %s", error)
    note_problem(str(error))
    for other in LINKS:
        if other != wanted and config["mode"] != "sleep":
            try:
                config.values["link"] = other
                return open_link(config, board, rtc, nvs)
            except (BadConfig, KeyError, TypeError, ValueError) as e:
                log.error("link %s: %s", other, e)
    config.values["link"] = wanted
    return NoLink(max_frame(config["sf"]) if wanted == "lora" else MAX_FRAME)


class NoLink:
    """A link (mote.links) that is never up. max_frame: of the link that is meant, for what is sealed now is sent over it."""

    acks_all = up = False
    ack_wait_ms = answer_ms = airtime_ms = radio_ms = 0
    hold_pin = None

    def __init__(self, max_frame):
        self.max_frame = max_frame
        self.on_frame = self.on_up = nobody

    def ready_in_ms(self, n, alarm):
        return 0

    async def send(self, buf, n, kind, listen):
        raise LinkDown

    def rest(self):
        """There is nothing that could sleep."""

    async def run(self):
        while True:
            await asyncio.sleep(3600)

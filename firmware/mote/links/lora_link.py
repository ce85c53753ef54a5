"""LoRa: one frame on a random channel of the plan, and a receive window one second after it.

The window is on the channel and spreading factor of the uplink. Time on air is charged to the ledger before the transmitter is
switched on; the radio sleeps whatever happens.
"""

import asyncio
import random

from micropython import const
from time import ticks_add, ticks_diff, ticks_ms

from mote import let_go, log, nobody
from mote.duty import Duty, sub_band
from mote.errors import BadConfig
from mote.hal import clock as board_clock
from motewire.frame import max_frame

_RX_DELAY_MS = const(1000)
_EARLY_MS = const(100)  # switched on so long before: crystals, the gateway's jitter
_LATE_MS = const(200)
_PREAMBLE_SYMBOLS = const(
    25
)  # 8 + 4.25 of preamble and sync, 8 of the header, and some: detected by then, or there is nothing
_TX_SLACK_MS = const(3000)


class LoraLink:
    """modem: lora async modem. sf: 7..12. channels: kHz. duty: mote.duty.Duty over the sub-bands of the channels. cs: pin number."""

    acks_all = False
    ack_wait_ms = 0
    up = True

    def __init__(self, modem, sf, channels, bands, duty, cs=None):
        self.max_frame = max_frame(sf)
        self._modem, self._sf, self._channels, self._bands, self.duty = modem, sf, channels, bands, duty
        self.on_frame = self.on_up = nobody
        self.hold_pin = cs  # stays high in deep sleep
        self._window_ms = _EARLY_MS + _LATE_MS + (_PREAMBLE_SYMBOLS << sf) // 125
        self.airtime_ms = 0
        self.radio_ms = 0  # sending and receiving
        self.foreign = 0

    def _air_ms(self, n):
        return (self._modem.get_time_on_air_us(n) + 999) // 1000

    def ready_in_ms(self, n, alarm):
        """0 when a frame of n bytes fits some sub-band's budget now, else a wait (ms) after which to ask again."""
        need = self._air_ms(n)
        for band in range(len(self._bands)):
            if self.duty.budget_ms(band, alarm) >= need:
                return 0
        return 60000

    def _channel(self, need, alarm):
        """A random channel whose sub-band has the time."""
        able = [khz for khz in self._channels if self.duty.budget_ms(self._bands.index(sub_band(khz)), alarm) >= need]
        return able[random.randrange(len(able))] if able else 0

    async def run(self):
        """Nothing to keep up."""
        while True:
            await asyncio.sleep(3600)

    async def send(self, buf, n, kind, listen):
        """Send buf[0:n]; with `listen` take what comes in the window. Raises OSError (no budget), TimeoutError (radio hangs)."""
        need = self._air_ms(n)
        khz = self._channel(need, kind == 1)
        if not khz:
            raise OSError(11)
        modem = self._modem
        try:
            modem.configure({"freq_khz": khz})
            self.duty.spend(self._bands.index(sub_band(khz)), need)
            self.airtime_ms += need
            self.radio_ms += need
            end = await asyncio.wait_for_ms(modem.send(memoryview(buf)[:n]), need + _TX_SLACK_MS)
            if listen:
                await self._listen(end)
        finally:  # also when cancelled
            modem.sleep()

    async def _listen(self, end):
        open_at = ticks_add(end, _RX_DELAY_MS - _EARLY_MS)
        await asyncio.sleep_ms(max(0, ticks_diff(open_at, ticks_ms())))
        close_at = ticks_add(open_at, self._window_ms)
        try:
            while True:
                left = ticks_diff(close_at, ticks_ms())
                if left <= 0:
                    return
                # a detected packet may keep recv() longer than `left`; a radio that hangs is the watchdog's business
                packet = await self._modem.recv(left)
                if packet is None:
                    return
                if self.on_frame(packet, packet.rssi, packet.snr):
                    return
                self.foreign += 1  # the end of somebody else's frame: ours may still come
        finally:
            self.radio_ms += ticks_diff(ticks_ms(), open_at)


def open_link(config, board, rtc, nvs):
    """Build the LoRa link of this board. Raises BadConfig."""
    from mote.hal import radio

    spec = board.radio_spec
    if not spec:
        raise BadConfig("board.json: no radio")
    bands = []
    for khz in config["channels_khz"]:
        band = sub_band(khz)
        if band < 0:
            raise BadConfig("channels_khz: %d is not ours to use" % khz)
        if band not in bands:
            bands.append(band)
    if len(bands) > 2:
        raise BadConfig("channels_khz: at most two sub-bands")
    modem = radio.make(spec, board.spi_spec(spec["spi"]), config["sf"])
    let_go("mote.hal.radio")
    log.info("lora SF%d, %d channels", config["sf"], len(config["channels_khz"]))
    duty = Duty(rtc, nvs, board_clock.now, bands)
    return LoraLink(modem, config["sf"], config["channels_khz"], bands, duty, spec["cs"])

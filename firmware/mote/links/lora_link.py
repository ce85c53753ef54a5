"""LoRa: one frame on a random channel of the plan, and a receive window one second after it.

The window is on the channel and spreading factor of the uplink. Time on air is charged to the ledger before the transmitter is
switched on; the radio sleeps whatever happens. The modem is made by rest(), or when there is something to send: a boot out of a deep sleep
that sends nothing leaves the radio asleep, and one whose radio is broken measures all the same. micropython-lib's drivers raise RuntimeError
for whatever the chip complains of (BUSY stuck, an oscillator that did not start): that is an error of the link, and the modem is made anew,
which resets it.
"""

import asyncio
import random

from micropython import const
from time import ticks_add, ticks_diff, ticks_ms

from mote import log, nobody
from mote.duty import sub_band
from mote.errors import BadConfig
from motewire.frame import max_frame

_RX_DELAY_MS = const(1000)
_EARLY_MS = const(100)  # switched on so long before: crystals, the gateway's jitter
_LATE_MS = const(200)
_PREAMBLE_SYMBOLS = const(
    25
)  # 8 + 4.25 of preamble and sync, 8 of the header, and some: detected by then, or there is nothing
_TX_SLACK_MS = const(3000)
_AGAIN_MS = const(7)  # no divisor of the driver's 10 ms
_LONGEST = const(255)
_ANSWER_BYTES = const(40)  # an ack with missing counters and the time is 30


async def _expire(task, ms, late):
    await asyncio.sleep_ms(ms)
    late.append(ms)
    while not task.done():
        task.cancel()
        await asyncio.sleep_ms(_AGAIN_MS)


async def _within(call, ms):
    """Await a call of the driver; TimeoutError after ms. asyncio.wait_for() would cancel it once, and that is lost when the driver's own wait_for()
    runs out at the moment (extmod/asyncio/funcs.py; python/cpython#86296): it sends and receives in a loop, so both would wait for ever."""
    task = asyncio.create_task(call)
    late = []
    timer = asyncio.create_task(_expire(task, ms, late))
    try:
        return await task
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError
        raise
    finally:
        timer.cancel()


class LoraLink:
    """make(*made_of) -> lora async modem, reset and set up. sf: 7..12. channels: kHz. duty: mote.duty.Duty over the sub-bands of the
    channels. cs: pin number. asleep: the radio is known to sleep (this boot follows a deep sleep)."""

    acks_all = False
    ack_wait_ms = 0
    up = True

    def __init__(self, make, made_of, sf, channels, bands, duty, cs=None, asleep=False):
        self.max_frame = max_frame(sf)
        self._make, self._made_of, self._sf, self._channels, self._bands, self.duty = (
            make,
            made_of,
            sf,
            channels,
            bands,
            duty,
        )
        self._modem = None
        self.asleep = asleep
        self.faults = 0  # complaints of the radio
        self.on_frame = self.on_up = nobody
        self.hold_pin = cs  # stays high in deep sleep
        self._window_ms = _EARLY_MS + _LATE_MS + (_PREAMBLE_SYMBOLS << sf) // 125
        self.answer_ms = _RX_DELAY_MS + self._air_ms(_ANSWER_BYTES)
        self.airtime_ms = 0
        self.radio_ms = 0  # sending and receiving
        self.foreign = 0

    def _air_ms(self, n):
        """Time on air of n bytes, rounded up: SX1261/2 datasheet 6.1.4 with 125 kHz, 4/5, preamble 8, header and CRC."""
        sf = self._sf
        symbol_us = (1000 << sf) // 125
        per = 4 * (sf - (2 if sf > 10 else 0))
        quarters = 4 * 8 + 17 + 32 + 4 * ((max(8 * n - 4 * sf + 44, 0) + per - 1) // per) * 5
        return (quarters * symbol_us // 4 + 999) // 1000

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
        """Send buf[0:n]; with `listen` take what comes in the window. Raises OSError (no budget, a complaint of the radio), TimeoutError (it hangs)."""
        need = self._air_ms(n)
        khz = self._channel(need, kind == 1)
        if not khz:
            raise OSError(11)
        try:
            modem = self._ready()
            modem.configure({"freq_khz": khz})
            self.duty.spend(self._bands.index(sub_band(khz)), need)
            self.airtime_ms += need
            self.radio_ms += need
            end = await _within(modem.send(memoryview(buf)[:n]), need + _TX_SLACK_MS)
            if listen:
                await self._listen(modem, end)
        except asyncio.TimeoutError as e:
            self._broken(e)
            raise
        except (
            RuntimeError,
            ImportError,
        ) as e:  # no driver, or one that an image has frozen a part of: the node measures all the same
            self._broken(e)
            raise OSError(5)
        finally:  # also when cancelled
            self._sleep()

    def _ready(self):
        self.asleep = False
        if self._modem is None:
            try:
                self._modem = self._make(*self._made_of)
            except (BadConfig, KeyError, TypeError, ValueError) as e:  # the board file: the node measures all the same
                raise RuntimeError(str(e))
        return self._modem

    def _broken(self, error):
        self.faults += 1
        log.warning("radio: %s", repr(error))
        self._modem = None  # made anew for the next frame

    def _sleep(self):
        modem = self._modem
        if modem is not None and not self.asleep:
            try:
                modem.sleep()
                self.asleep = True
            except (RuntimeError, OSError) as e:
                self._broken(e)

    def rest(self):
        """Make the modem while the heap is empty, or before the board sleeps deeply: the radio, which keeps its power, must be asleep too
        (standby is 0.6 mA)."""
        if not self.asleep:
            try:
                self._ready()
            except (RuntimeError, OSError, ImportError) as e:
                self._broken(e)
            self._sleep()

    async def _listen(self, modem, end):
        open_at = ticks_add(end, _RX_DELAY_MS - _EARLY_MS)
        await asyncio.sleep_ms(max(0, ticks_diff(open_at, ticks_ms())))
        close_at = ticks_add(open_at, self._window_ms)
        try:
            while True:
                left = ticks_diff(close_at, ticks_ms())
                if left <= 0:
                    return
                # a packet that was detected may keep recv() longer than `left`, by its own length at most
                packet = await _within(modem.recv(left), left + self._air_ms(_LONGEST) + _TX_SLACK_MS)
                if packet is None:
                    return
                if self.on_frame(packet, packet.rssi, packet.snr):
                    return
                self.foreign += 1  # the end of somebody else's frame: ours may still come
        finally:
            self.radio_ms += ticks_diff(ticks_ms(), open_at)

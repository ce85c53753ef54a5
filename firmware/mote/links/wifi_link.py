"""WiFi: frames as MQTT messages (QoS 0) between citymote/v1/up/<id> and citymote/v1/down/<id>. The frame's own ack is the promise."""

import asyncio
import random

from micropython import const
from mote import log, nobody
from mote.errors import LinkDown
from mote.hal import clock as board_clock
from mote.links.mqtt import Mqtt
from motewire.frame import MAX_FRAME

_JOIN_S = const(20)
_PAUSE_MAX_S = const(300)
_OPEN_MS = const(15000)


class WifiLink:
    """wlan: mote.hal.wlan.Wlan. host, port of the broker. node: id."""

    max_frame = MAX_FRAME
    acks_all = True
    ack_wait_ms = 8000
    answer_ms = 0

    def __init__(self, wlan, host, port, node, name, user=None, password=None):
        self._wlan, self._host, self._port = wlan, host, port
        self._user, self._password = user, password
        self._name = name or "mote-%08x" % node
        self._topic_up = "citymote/v1/up/%08x" % node
        self._topic_down = "citymote/v1/down/%08x" % node
        self._mqtt = None
        self.on_frame = self.on_up = nobody
        self.connects = 0
        self.trouble = ""  # why there is no access point, until there is a broker
        self.airtime_ms = 0

    @property
    def radio_ms(self):
        """The station is on all the time."""
        return board_clock.awake_ms()

    @property
    def up(self):
        return self._mqtt is not None

    def ready_in_ms(self, n, alarm):
        """WiFi has no duty cycle."""
        return 0

    async def send(self, buf, n, kind, listen):
        """Publish buf[0:n]. Raises LinkDown, OSError."""
        mqtt = self._mqtt
        if mqtt is None:
            raise LinkDown
        try:
            await mqtt.publish(self._topic_up, memoryview(buf)[:n])
        except OSError:
            if self._mqtt is mqtt:  # there may be the next session already
                self._mqtt = None
            raise

    def _message(self, topic, payload):
        self.on_frame(payload, self._wlan.rssi(), None)

    async def run(self):
        """Join, connect, read; on any failure again after a pause that grows to five minutes, with jitter."""
        pause = 1
        while True:
            try:
                await self._session()
            except (OSError, LinkDown, asyncio.TimeoutError) as e:
                if isinstance(e, LinkDown):
                    self.trouble = str(e)
                    log.warning("%s", self.trouble)
                else:
                    log.info("wifi: %s", repr(e))
            if self._mqtt is not None:
                self._mqtt = None
                pause = 1
            await asyncio.sleep_ms(pause * 500 + random.randint(0, pause * 1000))
            pause = min(2 * pause, _PAUSE_MAX_S)

    async def _session(self):
        await self._wlan.join(_JOIN_S)
        reader, writer = await asyncio.wait_for_ms(self._wlan.open(self._host, self._port), _OPEN_MS)
        mqtt = Mqtt(reader, writer, self._message)
        try:
            await mqtt.connect(self._name, user=self._user, password=self._password)
            await mqtt.subscribe(self._topic_down)
            self._mqtt = mqtt
            self.connects += 1
            self.trouble = ""
            log.info("mqtt connected")
            self.on_up()
            await mqtt.run()
        finally:
            await mqtt.close()

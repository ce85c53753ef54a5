"""WiFi station and TCP streams."""

import asyncio
import network

from micropython import const
from mote.errors import LinkDown


_START_MS = const(
    1000
)  # asked at once some chips say "wrong password" until they are switched off (micropython-mqtt#154)


class Wlan:
    """Joins one access point; the port reconnects by itself while active."""

    def __init__(self, ssid, password, hostname):
        network.hostname(hostname)
        self._wlan = network.WLAN(network.STA_IF)
        self._ssid, self._password = ssid, password

    def connected(self):
        return self._wlan.isconnected()

    def rssi(self):
        """RSSI of the access point in dBm, or None when not joined."""
        try:
            return self._wlan.status("rssi") if self._wlan.isconnected() else None
        except OSError:  # it has gone, and the station does not know yet
            return None

    async def join(self, deadline_s):
        """Join the access point. Raises LinkDown after deadline_s; the radio is then switched off and on again next time."""
        w = self._wlan
        if w.isconnected():
            return
        w.active(False)
        w.active(True)
        await asyncio.sleep_ms(_START_MS)
        w.connect(self._ssid, self._password)
        for _ in range(4 * deadline_s):
            if w.isconnected():
                return
            await asyncio.sleep_ms(250)
        why = w.status()  # of the last try; asked while the station is on
        w.active(False)
        raise LinkDown(
            "wifi: no access point"
            if why == network.STAT_NO_AP_FOUND
            else "wifi: wrong password"
            if why == network.STAT_WRONG_PASSWORD
            else "wifi: status %d" % why
        )

    async def open(self, host, port):
        """Open a TCP connection; return (reader, writer). Raises OSError. The name look-up blocks (lwIP, up to some seconds)."""
        return await asyncio.open_connection(host, port)

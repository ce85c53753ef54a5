"""`network`: WLAN station as a state machine whose access point has a name and a password, and can be away (scripted in the hardware description)."""

import sim_clock as _c
import sim_hw as _hw

STA_IF, AP_IF = 0, 1
STAT_IDLE, STAT_CONNECTING, STAT_GOT_IP = 1000, 1001, 1010
STAT_WRONG_PASSWORD, STAT_NO_AP_FOUND, STAT_CONNECT_FAIL, STAT_BEACON_TIMEOUT = 202, 201, 203, 200
READY_US = 900_000  # connect() sooner than that after active(True): some chips then say "wrong password" until they are switched off
SCAN_US = 2_400_000  # all channels, for an access point of that name
NOTICE_US = 6_000_000  # beacons are missing for so long before the station knows
ASSOCIATE_US = 2_300_000  # scan, four-way handshake, DHCP
hostname_ = ["esp32"]


def hostname(name=None):
    if name is None:
        return hostname_[0]
    if len(name.encode()) > 32:
        raise ValueError
    hostname_[0] = name


def country(code=None):
    return code or "XX"


def ap_up():
    """True when the access point is there now."""
    for start, end in _hw.wifi_down:
        if start <= _c.now < end:
            return False
    return True


class WLAN:
    IF_STA, IF_AP = 0, 1
    PM_NONE, PM_PERFORMANCE, PM_POWERSAVE = 0, 1, 2
    _self = None

    def __new__(cls, interface=0):
        if cls._self is None:
            cls._self = w = object.__new__(cls)
            w._active, w._since, w._conf, w._on, w._deaf = False, None, {}, 0, False
            w._ssid = w._key = ""
        return cls._self

    def __init__(self, interface=0):
        if interface != STA_IF:
            raise ValueError("only the station interface")

    def active(self, on=None):
        if on is None:
            return self._active
        if on and not self._active:
            self._on, self._deaf = _c.now, False
        self._active = bool(on)
        if not on:
            self._since = None
        return self._active

    def connect(self, ssid=None, key=None, **kwargs):
        if not self._active:
            raise OSError("Wifi Internal Error")
        if self._since is not None:
            raise OSError("Wifi Internal State Error")  # connect() while connecting or connected
        if ssid is not None:
            self._ssid, self._key = ssid, key or ""
        self._since = _c.now
        self._deaf = _c.now < self._on + READY_US

    def disconnect(self):
        self._since = None

    def status(self, what=None):
        if what == "rssi":
            if not ap_up():
                raise OSError("STA not connected")
            return _hw.wifi_rssi
        if self._since is None:
            return STAT_IDLE
        if self._deaf:
            return STAT_WRONG_PASSWORD
        # the port tries again without end (reconnects is -1), and says all the while why the last try failed (network_wlan.c)
        if self._ssid != _hw.wifi_ap[0]:
            return STAT_NO_AP_FOUND if _c.now >= self._since + SCAN_US else STAT_CONNECTING
        if self._key != _hw.wifi_ap[1] and ap_up():
            return STAT_WRONG_PASSWORD if _c.now >= self._since + ASSOCIATE_US else STAT_CONNECTING
        for start, end in _hw.wifi_down:  # an outage drops the association; the port reconnects by itself
            if start <= _c.now < end:
                known = _c.now >= start + NOTICE_US or self._since + ASSOCIATE_US > start
                return STAT_NO_AP_FOUND if known else STAT_GOT_IP
            if end <= _c.now < end + ASSOCIATE_US:
                return STAT_CONNECTING
        return STAT_GOT_IP if _c.now >= self._since + ASSOCIATE_US else STAT_CONNECTING

    def isconnected(self):
        return self.status() == STAT_GOT_IP

    def ifconfig(self, config=None):
        return ("10.0.0.23", "255.255.255.0", "10.0.0.1", "10.0.0.1") if self.isconnected() else ("0.0.0.0",) * 4

    def ipconfig(self, what=None, **kwargs):
        return ("10.0.0.23", "255.255.255.0")

    def config(self, what=None, **kwargs):
        if kwargs:
            self._conf.update(kwargs)
            return None
        if what == "mac":
            return b"\x24\x6f" + _hw.node_id.to_bytes(4, "big")
        return self._conf.get(what)

    def scan(self):
        _c.advance(_c.now + 2_000_000)
        return [(_hw.wifi_ap[0].encode(), b"\x02\0\0\0\0\1", 6, _hw.wifi_rssi, 3, False)] if ap_up() else []

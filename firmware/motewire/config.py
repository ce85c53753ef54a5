"""What a node's configuration may say (/config.json; WIRE.md section 6), for whoever writes one: the node, the gateway's commands, the simulator.

A configuration that cannot work is refused where it is written. Loaded on a node at boot and for a change only. Keys and options that are not named
here are not judged: an older firmware runs a newer file, and a profile has options of its own.
"""

from motewire._const import const

MUST = object()
LINKS = ("lora", "wifi")
EVENTS = ("parking",)  # profiles whose rows are on no grid
# key: (type, lowest, highest or None, default; MUST: required); of texts (bytes of UTF-8), lists and dictionaries the length
KEYS = {
    "node": (int, 1, 0x3FFFFFFF, MUST),
    "name": (str, 1, 32, ""),
    "profile": (str, 1, 32, MUST),
    "link": (str, 1, 16, "lora"),
    "mode": (str, 1, 8, "always"),
    "sf": (int, 7, 12, 7),
    "channels_khz": (list, 1, 8, [868100, 868300, 868500]),
    "sample_s": (int, 1, 86400, 60),
    "row_s": (int, 0, 86400, 300),
    "report_s": (int, 10, 86400, 3600),
    "emergency_sample_s": (int, -1, 86400, -1),
    "emergency_row_s": (int, -1, 86400, -1),
    "emergency_report_s": (int, -1, 86400, -1),
    "stage_every": (int, 1, 240, 1),
    "sensors": (dict, 0, None, {}),
    "alarms": (list, 0, 15, []),
    "wifi": (dict, 0, None, {}),
    "outbox_kb": (int, 16, 4096, 256),
    "outbox_frames": (int, 32, 4000, 256),
    "jitter_s": (int, -1, 3600, -1),
    "hello_s": (int, 0, 3600, 60),
    "ack_age_s": (int, -1, 86400, -1),
    "backoff_s": (int, 60, 86400, 1800),
    "prove_s": (int, -1, 604800, -1),
    "health_s": (int, 600, 432000, 21600),
    "wdt_s": (int, 0, 600, 120),
    "log": (int, 0, 3, 1),
    "repl": (int, 0, 1, 0),
    "version": (int, 0, 0x3FFFFFFF, 0),
    "refused": (int, 0, 0x3FFFFFFF, 0),
}
# (from kHz, below kHz): ERC 70-03 annex 1, as mote.duty has them; tests/wire/test_config.py compares them
BANDS = ((865000, 868000), (868000, 868600), (869400, 869650), (869700, 870000))
_BANDS_MOST = const(2)  # whose time on air a node accounts for (mote.duty)
# key of wifi: fewest and most bytes of UTF-8. IEEE 802.11-2020 9.4.2.2 (SSID), J.4.1 (a passphrase of 8 to 63; 64 hexadecimal digits are the key itself)
_WIFI = {"ssid": (1, 32), "password": (0, 64), "host": (1, 253), "user": (0, 64), "mqtt_password": (0, 128)}
# sensor, option and what it may hold, a line each: words "a|b" or a range "low high" of whole numbers, "low high n" of any, "bool", "xyz" (three whole numbers or null);
# tests/wire/test_config.py compares them with what the drivers take
_OPTIONS = """
a02yyuw timeout_ms 100 60000
a02yyuw compensate bool
bay enter 1 32767
bay leave 1 32767
bay quiet 1 32767
bay hold_ms 0 600000
bay fast_ms 10 60000
bin empty_mm 1 10000
bin full_mm 0 9999
bme280 addr 118 119
inmp441 listen_ms 50 3600000
inmp441 settle_ms 0 60000
inmp441 run_in_ms 1 60000
inmp441 cal -1000 1000
leak hours 1 100000
leak litres 0 1000000 n
lis3dh addr 24 25
lis3dh up x|y|z|-x|-y|-z
pms5003 warm_up_ms 0 600000
pms5003 keep_awake bool
pms5003 tries 1 100
pms5003 answer_ms 100 60000
pulse litres_per_pulse 0.1 1000 n
pulse start_l 0 13421772 n
qmc5883l addr 13 13
qmc5883l zero xyz
sht4x addr 68 70
"""
# what a profile's rows hold, which is what it may have rules on; tests/wire/test_config.py compares them with the profiles
_COLUMNS = {
    "air_quality": "pm1 pm25 pm10 temperature humidity pressure",
    "noise": "laeq lafmax la10 la50 la90",
    "water_meter": "water_volume water_flow",
    "parking": "occupied",
    "bin_fill": "distance fill_level temperature tilt",
}
_CHIPS = (
    "a02yyuw",
    "bme280",
    "inmp441",
    "lis3dh",
    "pms5003",
    "pulse",
    "qmc5883l",
    "sht4x",
)  # of drivers: they have a bus, too


def _whole(v):
    return isinstance(v, int) and not isinstance(v, bool)


def _number(v):
    return isinstance(v, (int, float)) and not isinstance(v, bool) and v == v and abs(v) < 1 << 30


def wrong(key, v):
    """Return why key `key` cannot hold `v`, "" when it can; the text begins with the key. What is wrong with a key beside others: unfit()."""
    if key not in KEYS:
        return ""
    kind, low, high, _ = KEYS[key]
    if not isinstance(v, kind) or kind is int and isinstance(v, bool):
        return key + " has the wrong type"
    size = v if kind is int else len(v.encode()) if kind is str else len(v)
    if size < low or high is not None and size > high:
        return "%s: %s..%s" % (key, low, high)
    if key == "mode" and v not in ("always", "sleep"):
        return "mode: always or sleep"
    if key == "link" and v not in LINKS:
        return "link: " + v
    if kind is int:
        return _too_small(key, v)
    if key == "channels_khz":
        return _wrong_channels(v)
    if key == "wifi":
        return _wrong_wifi(v)
    if key == "sensors":
        return _wrong_sensors(v)
    if key == "alarms":
        for rule in v:
            if not isinstance(rule, dict):
                return "alarms has the wrong type"
    return ""


def _too_small(key, v):
    if key == "ack_age_s" and 0 <= v < 60:
        return "ack_age_s: 60..86400"
    if key == "prove_s" and 0 <= v < 600:
        return "prove_s: at least 600"
    if key == "wdt_s" and 0 < v < 60:
        return "wdt_s: 0 or 60..600"  # it is fed every 20 s
    return ""


def _wrong_channels(v):
    used = []
    for khz in v:
        if not _whole(khz):
            return "channels_khz has the wrong type"
        band = -1
        for i in range(len(BANDS)):
            if BANDS[i][0] <= khz < BANDS[i][1]:
                band = i
        if band < 0:
            return "channels_khz: %d is none" % khz
        if v.count(khz) > 1:
            return "channels_khz: %d twice" % khz
        if band not in used:
            used.append(band)
    return "channels_khz: at most two sub-bands" if len(used) > _BANDS_MOST else ""


def _wrong_wifi(wifi):
    for key, v in wifi.items():
        if key == "port":
            if not _whole(v):
                return "wifi.port has the wrong type"
            if not 1 <= v <= 65535:
                return "wifi.port: 1..65535"
            continue
        if not isinstance(v, str):
            return "wifi.%s has the wrong type" % key
        low, high = _WIFI.get(key, (0, 253))
        n = len(v.encode())
        if not low <= n <= high or "\0" in v:
            return "wifi.%s: %d..%d bytes" % (key, low, high)
        if key == "password" and (0 < n < 8 or n == 64 and not _hexadecimal(v)):
            return "wifi.password: 8..63 bytes"
    return ""


def _hexadecimal(v):
    for c in v:
        if c not in "0123456789abcdefABCDEF":
            return False
    return True


def _wrong_sensors(sensors):
    for name, options in sensors.items():
        if options is None:
            continue
        if not isinstance(options, dict):
            return "sensors.%s has the wrong type" % name
        for key, v in options.items():
            why = _wrong_option(name, key, v)
            if why:
                return "sensors.%s.%s %s" % (name, key, why)
        if name == "bin" and not options.get("full_mm", 200) < options.get("empty_mm", 1200):
            return "sensors.bin: full_mm < empty_mm"
        if name == "bay" and not options.get("leave", 70) < options.get("enter", 120):
            return "sensors.bay: leave < enter"
    return ""


def _wrong_option(name, key, v):
    if key == "unit" and name in _CHIPS:
        return "" if v is None or _whole(v) and 0 <= v <= 9 else "0..9"
    at = _OPTIONS.find("\n%s %s " % (name, key))
    if at < 0:
        return "has the wrong type" if isinstance(v, str) else ""
    words = _OPTIONS[at + 1 : _OPTIONS.find("\n", at + 1)].split(" ")[2:]
    if words[0] == "bool":
        return "" if v is True or v is False else "has the wrong type"
    if words[0] == "xyz":
        fits = v is None or isinstance(v, list) and len(v) == 3 and min([_whole(x) and abs(x) < 32768 for x in v])
        return "" if fits else "has the wrong type"
    if len(words) == 1:
        return "" if isinstance(v, str) and v in words[0].split("|") else words[0]
    if not (_number(v) if len(words) > 2 else _whole(v)):
        return "has the wrong type"
    if not float(words[0]) <= v <= float(words[1]):
        return "%s..%s" % (words[0], words[1])
    if key == "litres_per_pulse" and 1000 * abs(v * 10 - round(v * 10)) > v * 10:
        return "a multiple of 0.1"
    return ""


def misspelt(sensors):
    """Return which option none of these sensors has, "" when they have all: a driver refuses it. Of new options; a driver to come may know those of a stored file."""
    for name, options in sensors.items():
        if isinstance(options, dict) and _OPTIONS.find("\n%s " % name) >= 0:
            for key in options:
                if _OPTIONS.find("\n%s %s " % (name, key)) < 0 and not (key == "unit" and name in _CHIPS):
                    return "sensors.%s.%s is none" % (name, key)
    return ""


def foreign(values):
    """Return which rule its profile has no quantity for, "" when there is none such. Of new values, both named; a profile that is not known here may have any."""
    columns, alarms = _COLUMNS.get(values.get("profile")), values.get("alarms")
    if columns and isinstance(alarms, list):
        for rule in alarms:
            if isinstance(rule, dict) and rule.get("q") not in columns.split(" "):
                return "alarms: %s has no %s" % (values["profile"], rule.get("q"))
    return ""


def unfit(values):
    """Return why values that are right each for itself cannot work together, "" when they can. Of a part of a configuration what that part decides."""
    sample, row, report = values.get("sample_s"), values.get("row_s"), values.get("report_s")
    if row and (sample and row % sample or report and report % row):
        return "row_s must be a multiple of sample_s, report_s of row_s"
    profile, listen_s = values.get("profile"), row or sample
    if profile == "noise" and row is not None and listen_s:
        options = (values.get("sensors") or {}).get("inmp441") or {}
        if options.get("listen_ms", 10000) // 1000 + 1 > listen_s:
            return "sensors.inmp441.listen_ms: a second less than row_s at most"
    if values.get("mode") == "sleep":
        if values.get("link", "lora") != "lora" or row == 0:
            return "mode sleep: needs link lora and row_s"
        if profile in EVENTS:
            return "mode sleep: not with event rows"
    if values.get("link") == "wifi" and "wifi" in values:  # defaults name no access point
        for key in ("ssid", "password", "host"):
            if key not in values["wifi"]:
                return "wifi.%s is missing" % key
    return ""


def judged(raw):
    """Return (why a whole configuration cannot work, "" when it can; a copy with the defaults of the keys that it lacks)."""
    out, why = dict(raw), ""
    for key in KEYS:
        if key in raw:
            why = why or wrong(key, raw[key])
        elif KEYS[key][3] is MUST:
            why = why or key + " is missing"
        else:
            out[key] = KEYS[key][3]
    return why or unfit(out), out

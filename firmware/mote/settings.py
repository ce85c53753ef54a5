"""What a configuration may say, how it is stored and given up. Loaded at boot and for a change only (see mote.config).

Keys (README.md lists them): see _SCHEMA. Unknown keys are kept and ignored, so that an older firmware runs a newer file.
"""

import json

from micropython import const
from mote import borrow, log
from mote.config import note_problem
from mote.errors import BadConfig
from mote.files import read_json, write_whole
from mote.hal.rtc import TRIES

_TRIES = const(3)
_TEXTS = ("up",)  # options that are no numbers
# key: (type, lowest, highest or None, default; _MUST: required)
_MUST = object()
_SCHEMA = {
    "node": (int, 1, 0x3FFFFFFF, _MUST),
    "name": (str, 1, 32, ""),
    "profile": (str, 1, 32, _MUST),
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


def check(raw):
    """Return a complete configuration from a JSON object. Raises BadConfig naming the key."""
    out = dict(raw)
    for key, (kind, low, high, default) in _SCHEMA.items():
        if key not in raw:
            if default is _MUST:
                raise BadConfig(key + " is missing")
            out[key] = default
            continue
        v = raw[key]
        if not isinstance(v, kind) or kind is int and isinstance(v, bool):
            raise BadConfig(key + " has the wrong type")
        size = v if kind is int else len(v)
        if size < low or high is not None and size > high:
            raise BadConfig("%s: %s..%s" % (key, low, high))
    for key, kind in (("alarms", dict), ("channels_khz", int)):
        for item in out[key]:
            if not isinstance(item, kind):
                raise BadConfig(key + " has the wrong type")
    for key, v in out["wifi"].items():
        if isinstance(v, bool) or not isinstance(v, int if key == "port" else str):
            raise BadConfig("wifi.%s has the wrong type" % key)
    for name, options in out["sensors"].items():
        if not isinstance(options, dict):
            if options is None:
                continue
            raise BadConfig("sensors.%s has the wrong type" % name)
        for key, v in options.items():
            if isinstance(v, str) and key not in _TEXTS:
                raise BadConfig("sensors.%s.%s has the wrong type" % (name, key))
    row, sample, report = out["row_s"], out["sample_s"], out["report_s"]
    if row and (row % sample or report % row):
        raise BadConfig("row_s must be a multiple of sample_s, report_s of row_s")
    if out["mode"] not in ("always", "sleep"):
        raise BadConfig("mode: always or sleep")
    if out["mode"] == "sleep" and (out["link"] != "lora" or not row):
        raise BadConfig("mode sleep: needs link lora and row_s")
    if out["jitter_s"] < 0:
        out["jitter_s"] = min(report // 8, 300)
    if out["ack_age_s"] < 60:
        if out["ack_age_s"] >= 0:
            raise BadConfig("ack_age_s: 60..86400")
        out["ack_age_s"] = min(max(600, report * 17 // 4), 21600)
    if 0 < out["wdt_s"] < 60:
        raise BadConfig("wdt_s: 0 or 60..600")  # it is fed every 20 s
    if out["prove_s"] < 600:
        if out["prove_s"] >= 0:
            raise BadConfig("prove_s: at least 600")
        out["prove_s"] = max(21600, 3 * report)
    emergency = emergency_of(out)
    if row and (emergency["row_s"] % emergency["sample_s"] or emergency["report_s"] % emergency["row_s"]):
        raise BadConfig(
            "emergency_row_s must be a multiple of emergency_sample_s, emergency_report_s of emergency_row_s"
        )
    return out


def emergency_of(values):
    """Return the rhythm {sample_s, row_s, report_s} while rates are raised. Where the configuration says -1: samples four times
    as often, rows about five times, reports about twelve times, each a multiple of the one before."""
    sample = values["emergency_sample_s"]
    sample = sample if sample > 0 else max(1, values["sample_s"] // 4)
    row = values["emergency_row_s"]
    if row <= 0:
        row = max(1, values["row_s"] // 5 // sample) * sample
    report = values["emergency_report_s"]
    if report <= 0:
        report = max(1, (max(10, values["report_s"] // 12) + row - 1) // row) * row
    return {"sample_s": sample, "row_s": row if values["row_s"] else 0, "report_s": report}


def load(c):
    """Fill a mote.config.Config from its files. Raises BadConfig."""
    raw = why = None
    for path in (c.path, c.good, c.factory):
        try:
            raw = read_json(path)
            if raw is None:
                raise BadConfig("config.json is missing or no JSON object")
            c.values, c.source = check(raw), path
            break
        except BadConfig as e:
            why = why or e
    else:
        raise why or BadConfig(c.path)
    if why is not None:
        c.fallback = True
        note_problem(str(why))
    c.probation = not c.fallback and raw != read_json(c.good)
    if c.probation and _count(c.rtc, c.nvs) >= _TRIES:
        give_up(c, "%d failed boots" % _TRIES)


def _count(rtc, nvs):
    """Count this boot under a configuration on probation; return how many before it ended unwanted. A power cut is one of them: it is
    not told apart from a brown-out, and it writes NVS; a crash writes only RTC memory."""
    if rtc is None or nvs is None:
        return 0
    before = rtc.buf[TRIES]
    if rtc.fresh:
        before = nvs.get("tries") or 0
        nvs.put("tries", min(before + 1, 99))
    rtc.buf[TRIES] = min(before + 1, 99)
    rtc.save()
    return before


def give_up(c, why):
    """Go back to the last good configuration; False when there is none. Raises OSError."""
    raw = read_json(c.good)
    if raw is None:
        return False
    refused = max(c.values["version"], c.values["refused"])
    why = "%d: %s" % (c.values["version"], why)
    log.error("config %s", why)
    raw["refused"] = refused
    text = json.dumps(raw)
    write_whole(c.good, text)
    write_whole(c.path, text)
    c.values, c.source = check(raw), c.path
    borrow("mote.proof", "forget_tries", c)
    c.probation, c.fallback, c.given_up = False, False, True
    note_problem(why)
    return True


def proposed(c, updates):
    """Return (JSON object to be stored, its values) of a mote.config.Config with new values; (None, None) when nothing changes.
    See mote.config.Config.change."""
    raw = read_json(c.source)
    if raw is None:
        raise OSError(5)
    same = not c.fallback
    for key, value in updates.items():
        # a node with another number, at its REPL or without a watchdog may never answer again
        if key in ("version", "refused", "repl", "wdt_s") or key == "node" and value != raw.get("node"):
            raise BadConfig(key + " is not to be changed")
        if value is None:
            same = same and key not in raw
            raw.pop(key, None)
        else:
            same = same and key in raw and raw[key] == value
            raw[key] = value
    if same:
        return None, None
    raw["version"] = max(c.values["version"], c.values["refused"]) + 1
    return raw, check(raw)

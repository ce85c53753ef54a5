"""A configuration is judged, completed, stored and given up. Loaded at boot and for a change only (see mote.config).

Keys (README.md lists them) and what they may hold: motewire.config. Unknown keys are kept and ignored, so that an older firmware runs a newer file.
"""

import json

from micropython import const
from mote import borrow, let_go, log
from mote.config import RUN, note_problem
from mote.errors import BadConfig
from mote.files import read_json, remove, write_whole
from mote.hal.rtc import TRIES

_TRIES = const(3)
_SCALES = ("pulse", "bin")  # mote.config
# what a reason that begins so is about: left out where they do not fit together (motewire.config.unfit)
_TOGETHER = {
    "row": ("sample_s", "row_s", "report_s"), "emergency": ("emergency_sample_s", "emergency_row_s", "emergency_report_s"), "mode": ("mode",),
    "sensors": ("sensors",),
}  # fmt: skip


def check(raw):
    """Return a complete configuration from a JSON object. Raises BadConfig naming the key."""
    why, out = borrow("motewire.config", "judged", raw)
    if why:
        raise BadConfig(why)
    _complete(out)
    why = _uneven(out)
    if why:
        raise BadConfig(why)
    return out


def _uneven(values):
    """Return why the rhythm while rates are raised cannot work, or ""."""
    e = emergency_of(values)
    if values["row_s"] and (e["row_s"] % e["sample_s"] or e["report_s"] % e["row_s"]):
        return "emergency_row_s must be a multiple of emergency_sample_s, emergency_report_s of emergency_row_s"
    return ""


def _complete(out):
    """Put in what -1 stands for."""
    report = out["report_s"]
    if out["jitter_s"] < 0:
        out["jitter_s"] = min(report // 8, 300)
    if out["ack_age_s"] < 0:
        out["ack_age_s"] = min(max(600, report * 17 // 4), 21600)
    if out["prove_s"] < 0:
        out["prove_s"] = max(21600, 3 * report)


def repaired(raw):
    """Return what of a JSON object can work, and defaults for the rest: rather a node that measures than none. Raises BadConfig: no node or profile.

    Options that say what a value means are kept as they are, also wrong: no sensor is better than one of another scale.
    """
    from motewire.config import judged, unfit, wrong

    part, first = {}, ""
    for key, v in raw.items():
        why = wrong(key, v)
        if not why:
            part[key] = v
        elif key == "sensors" and isinstance(v, dict):
            part[key] = {name: o for name, o in v.items() if name in _SCALES or not wrong(key, {name: o})}
        elif key == "wifi" and isinstance(v, dict):
            part[key] = {name: o for name, o in v.items() if not wrong(key, {name: o})}
        elif key == "sensors":
            part[key] = {name: v for name in _SCALES}
        first = first or why
    for key in ("node", "profile"):
        if key not in part:
            raise BadConfig(first or key + " is missing")
    while True:
        out = judged(part)[1]
        _complete(out)
        why = unfit(out) or _uneven(out)
        named = _TOGETHER.get(why.split("_")[0].split(".")[0].split(" ")[0], ())
        if not [part.pop(key) for key in named if key in part]:
            let_go("motewire.config")
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
        _make_do(c)
    if why is not None:
        c.fallback = True
        log.error("config: %s", why)
        note_problem(str(why))
    _forget_values(c)
    c.probation = not c.fallback and raw != read_json(c.good)
    if c.probation and _count(c.rtc, c.nvs) >= _TRIES:
        give_up(c, "%d failed boots" % _TRIES)


def _forget_values(c):
    """What was judged for wakes (mote.proof) may be another firmware's, with other defaults: it is gone until this one has proven the file."""
    try:
        remove(RUN)
    except OSError as e:
        log.error("%s: %s", RUN, e)


def _make_do(c):
    """No file is right: take what can work of the first that names a node and its profile. Raises BadConfig."""
    error = None
    for path in (c.path, c.good, c.factory):
        try:
            c.values, c.source = repaired(read_json(path) or {}), path
            log.error("%s is not right; this node makes do with the rest of it", path)
            return
        except BadConfig as e:
            error = error or e
    raise error or BadConfig(c.path)


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

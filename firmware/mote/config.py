"""The node's configuration: /config.json, checked; the last one that reached the gateway is kept as /config.good.

Keys (README.md lists them): see _SCHEMA. Unknown keys are kept and ignored, so that an older firmware runs a newer file.
"""

import json
from mote.errors import BadConfig
from mote.files import read_json, write_whole
from motewire.codes import CONFIG_REPORT_S, CONFIG_ROW_S, CONFIG_SAMPLE_S

PATH = "/config.json"
GOOD = "/config.good"
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
    "stage_every": (int, 1, 240, 1),
    "sensors": (dict, 0, None, {}),
    "alarms": (list, 0, 16, []),
    "wifi": (dict, 0, None, {}),
    "outbox_kb": (int, 16, 4096, 256),
    "outbox_frames": (int, 32, 4000, 512),
    "jitter_s": (int, 0, 3600, -1),
    "hello_s": (int, 0, 3600, 60),
    "ack_age_s": (int, 60, 86400, -1),
    "backoff_s": (int, 60, 86400, 1800),
    "health_s": (int, 600, 432000, 21600),
    "wdt_s": (int, 0, 600, 120),
    "log": (int, 0, 3, 1),
    "version": (int, 0, 0x3FFFFFFF, 0),
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
    row, sample, report = out["row_s"], out["sample_s"], out["report_s"]
    if row and (row % sample or report % row):
        raise BadConfig("row_s must be a multiple of sample_s, report_s of row_s")
    if out["mode"] not in ("always", "sleep"):
        raise BadConfig("mode: always or sleep")
    if out["mode"] == "sleep" and (out["link"] != "lora" or not row):
        raise BadConfig("mode sleep: needs link lora and row_s")
    if out["jitter_s"] < 0:
        out["jitter_s"] = min(report // 8, 300)
    if out["ack_age_s"] < 0:
        out["ack_age_s"] = min(max(600, report * 17 // 4), 21600)
    return out


class Config:
    """The configuration in force. `values` is complete and checked; `fallback` is True when /config.json was unusable."""

    def __init__(self, path=PATH, good=GOOD):
        self._path, self._good = path, good
        self.problem = ""
        self.fallback = False
        raw = read_json(path)
        try:
            if raw is None:
                raise BadConfig("config.json is missing or no JSON object")
            self.values = check(raw)
        except BadConfig as e:
            self.problem = str(e)
            raw = read_json(good)
            if raw is None:
                raise
            self.values = check(raw)
            self.fallback = True
        self._raw = raw
        self._proven = False

    def __getitem__(self, key):
        return self.values[key]

    def proven(self):
        """The gateway answered under this configuration: keep it as the last good one (written only when it is new)."""
        if not self._proven and not self.fallback:
            if read_json(self._good) != self._raw:
                write_whole(self._good, json.dumps(self._raw))
            self._proven = True

    def change(self, updates):
        """Check and store new values, {config key number: int} of a downlink; return the new complete values.

        Nothing is stored when they do not fit together. Raises BadConfig, OSError.
        """
        names = {CONFIG_SAMPLE_S: "sample_s", CONFIG_ROW_S: "row_s", CONFIG_REPORT_S: "report_s"}
        raw: dict = dict(self._raw)
        for key, value in updates.items():
            if key in names:
                raw[names[key]] = value
        raw["version"] = self.values["version"] + 1
        values = check(raw)
        write_whole(self._path, json.dumps(raw))
        self._raw, self.values, self._proven, self.fallback = raw, values, False, False
        return values

"""Files of a configuration that came or was proven. Borrowed for the call, at a time when everything else is in memory: files are copied
as they are, and at most one of them is parsed at a time.
"""

import json

from mote import log
from mote.config import RUN, mark_of
from mote.files import keep_copy, read_json, read_whole, write_whole
from mote.hal.rtc import TRIES


def forget_tries(c):
    """The configuration in force is not on trial any more. Raises OSError."""
    rtc, nvs = c.rtc, c.nvs
    if rtc is not None and rtc.buf[TRIES]:
        rtc.buf[TRIES] = 0
        rtc.save()
    if nvs is not None and nvs.get("tries"):
        nvs.put("tries", 0)


def prove(c):
    """Keep the configuration in force as the good one, the first of all as the factory's, and a copy of the board file. Raises OSError."""
    forget_tries(c)
    if read_json(c.source) is not None:
        if c.probation:
            keep_copy(c.source, c.good)
            c.probation = False
        if read_json(c.factory) is None:
            keep_copy(c.source, c.factory)
    keep_copy("/board.json", "/board.good")
    if c.source == c.path and c.values["mode"] == "sleep":
        _keep_values(c)


def _keep_values(c):
    """Spare the wakes to come what judging costs: the values, marked with the files that they are of. Written only when they differ."""
    text = json.dumps(c.values)
    if json.loads(text) != c.values:
        return
    text = text.encode()
    run = b"%d\n%s" % (mark_of(text, c.path, c.good), text)
    try:
        if read_whole(RUN) != run:
            write_whole(RUN, run)
    except OSError as e:  # wakes cost more, nothing else
        log.error("%s: %s", RUN, e)


def adopt(c, raw, values):
    """Store a configuration that was judged and put it in force, on probation; return (values before, values now). Raises OSError."""
    write_whole(c.path, json.dumps(raw))
    before = c.values
    c.values, c.source, c.proved, c.fallback, c.probation = values, c.path, False, False, True
    forget_tries(c)
    c.answered()
    return before, values

"""Runs the test functions of one file inside the VM: argv = name of the module's file, then the functions' names.

Prints one JSON line per function on stdout, after a record separator: {"name", "ok", "trace", "skip"}.
"""

import asyncio
import gc
import io
import json
import sys

import sim_clock

file, names = sys.argv[1], sys.argv[2:]
with open(file) as f:
    source = f.read()
space = {"__name__": "vmtest"}


def report(name, error=None, skip=None):
    trace = None
    if error is not None:
        text = io.StringIO()
        sys.print_exception(error, text)
        trace = text.getvalue()
    print("\x1e" + json.dumps({"name": name, "ok": error is None, "trace": trace, "skip": skip}))


class Skip(Exception):
    """raise Skip("why") in a test that cannot run here."""


space["Skip"] = Skip
try:
    exec(compile(source, file.rsplit("/", 1)[-1], "exec"), space)
    loaded = None
except BaseException as e:
    loaded = e
del source


def run(name):
    """Run one function and report it."""
    if loaded is not None:
        report(name, loaded)
        return
    gc.collect()
    print("\x1e" + json.dumps({"begin": name}))
    try:
        result = space[name]()
        if hasattr(result, "send"):  # an async def
            asyncio.new_event_loop()
            asyncio.run(result)
        complaints = sys.modules["sim_radio"].chip.complaints
        if complaints:
            raise AssertionError("undefined by the radio's datasheet: %s" % complaints)
        report(name)
    except Skip as e:
        report(name, skip=str(e))
    except BaseException as e:
        report(name, e)
    sim_clock._events.clear()  # a watchdog of this test does not bite the next,
    sys.modules["machine"].WDT._event = None  # and no light sleep of the next wakes it again
    sim_clock.cut_at = sim_clock.NEVER
    sys.modules["sim_radio"].fresh()


for name in names:
    run(name)

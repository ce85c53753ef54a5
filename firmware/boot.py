"""Runs first: chooses the update slot, then counts this boot, so that a crash loop is seen before anything else can crash. Tiny, never raises."""

import sys

rolled_back = False
try:
    import slots

    slots.begin()
    rolled_back = slots.rolled_back
except (KeyboardInterrupt, Exception) as error:  # then the application in the root runs
    sys.print_exception(error)
try:
    from mote import supervisor

    supervisor.begin()
    if rolled_back:  # the crashes of an update are not those of the application before it
        supervisor.climb("forgive")
except (KeyboardInterrupt, Exception) as error:  # main.py must run whatever happened here; it fails, reports and resets
    sys.print_exception(error)

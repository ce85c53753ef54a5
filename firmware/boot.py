"""Runs first: counts this boot, so that a crash loop is seen before anything else can crash. Tiny, and never raises."""

import sys

try:
    from mote import supervisor

    supervisor.begin()
except Exception as error:  # main.py must run whatever happened here; it fails, reports and resets
    sys.print_exception(error)

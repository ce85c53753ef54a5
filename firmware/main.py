"""The port runs this after boot.py, always from the flash root: starts the application of whatever slot boot.py chose. Never the REPL in the field.

Never updated itself, so it is tiny. Whatever goes wrong is recorded, counted and followed by a reset.
"""

import sys

try:
    from mote.main import main

    main()
    raise RuntimeError("main ended")
except (KeyboardInterrupt, Exception) as error:
    try:
        from mote.supervisor import ended

        ended(error)  # returns only where the REPL is allowed
    except (KeyboardInterrupt, Exception):  # not even that works: start again (the port resets on SystemExit)
        slots = sys.modules.get("slots")
        if slots is not None and slots.problem:
            slots.lost()  # no application in any slot: ctrl-C in here ends at the REPL
        sys.exit()

"""The port runs this after boot.py, always from the flash root: starts the application of whatever slot boot.py chose. Never the REPL.

Never updated itself, so it is tiny. Whatever goes wrong is recorded, counted and followed by a reset.
"""

import sys

try:
    from mote.main import main

    main()
    raise RuntimeError("main ended")
except KeyboardInterrupt:  # a technician on the serial line
    raise
except Exception as error:
    try:
        from mote import supervisor

        supervisor.failed(error)
        bench = supervisor.bench
    except Exception:  # not even that works: start again (the port resets on SystemExit)
        bench = False
    if not bench:
        sys.exit()

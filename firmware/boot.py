"""Runs first: chooses the update slot, then counts this boot, so that a crash loop is seen before anything else can crash. Tiny, never raises."""

import sys

# What the VM has inside and files may extend is looked for in every folder of sys.path at every import, three looks at the flash a folder,
# unless sys.modules knows it. By their names with a u they are found without a look (py/objmodule.c).
for name in ("array", "binascii", "cryptolib", "json", "os", "random", "struct", "time"):
    if name not in sys.modules:
        try:
            sys.modules[name] = __import__("u" + name)
        except ImportError:
            pass  # frozen here, or a file

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

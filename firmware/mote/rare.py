"""Code that runs rarely is not kept in RAM: import a module, call one of its functions, forget the module again."""

import sys


def call(module, function, *args):
    """Return <module>.<function>(*args). What it raises passes through; the module's memory is free afterwards."""
    found = __import__(module, None, None, (function,))
    try:
        return getattr(found, function)(*args)
    finally:
        forget(module)


def forget(name):
    """Take a module out of RAM, once nobody uses it any more; imported again it comes from flash."""
    sys.modules.pop(name, None)
    package, _, last = name.rpartition(".")
    holder = sys.modules.get(package)
    if holder is not None and hasattr(holder, last):
        delattr(holder, last)

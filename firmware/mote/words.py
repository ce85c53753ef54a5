"""The last words of a boot: written down by the one that ends, said by the next."""

import io
import sys

from micropython import const
from mote.files import remove

_FILE = "/crash.txt"
_TEXT = const(160)


def _words(error):
    """What went wrong and where: "app:123 ValueError: text"."""
    text = io.StringIO()
    sys.print_exception(error, text)  # pyright: ignore[reportArgumentType]
    lines = text.getvalue().strip().split("\n")  # pyright: ignore[reportAttributeAccessIssue]
    where = ""
    if len(lines) > 1:  # '  File "mote/app.py", line 123, in run'
        parts = lines[-2].strip().split('"')
        if len(parts) == 3:
            line = parts[2].split(",")[1].strip().split(" ")[-1]
            where = parts[1].split("/")[-1].split(".")[0] + ":" + line + " "
    return (where + lines[-1])[:_TEXT]


def keep(error):
    """Write down an exception for the status frames of the next boot. Raises MemoryError."""
    words = _words(error)
    try:
        with open(_FILE, "w") as f:
            f.write(words)
    except OSError:
        pass  # a full or broken flash must not keep the node from restarting


def last():
    """Return the text that failed() kept in the boot before, or ""."""
    try:
        with open(_FILE) as f:
            return f.read(_TEXT)
    except (OSError, ValueError):
        return ""


def forget():
    """The last words are in the outbox: remove them."""
    remove(_FILE)

"""Small file helpers that survive a power cut at any byte."""

import json
import os
from micropython import const

_ENOENT = const(2)
_EEXIST = const(17)


def make_dir(path):
    """Make a folder; it may be there already. Raises OSError."""
    try:
        os.mkdir(path)
    except OSError as e:
        if e.errno != _EEXIST:
            raise


def remove(path):
    """Remove a file; it may be gone already. Raises OSError."""
    try:
        os.remove(path)
    except OSError as e:
        if e.errno != _ENOENT:
            raise


def write_whole(path, data):
    """Replace a file in one step: after a power cut there is the old content or the new, never a mix."""
    new = path + ".new"
    with open(new, "wb") as f:
        f.write(data)
    os.rename(new, path)


def read_whole(path):
    """Return the bytes of a small file, None when there is none or it cannot be read."""
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return None


def keep_copy(path, copy):
    """Bring `copy` up to date with a small file that is there; written only when they differ. Raises OSError (flash full)."""
    data = read_whole(path)
    if data is not None and data != read_whole(copy):
        write_whole(copy, data)


def read_json(path):
    """Return the JSON object in a file, or None when there is none or it is not readable as an object."""
    try:
        with open(path) as f:
            value = json.load(f)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

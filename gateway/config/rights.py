"""Who a file belongs to: what to do when it may not be read, by name and not as a guess."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def denied(path: Path, otherwise: str = "", write: bool = False) -> str:
    """Return what to do about a file that this user may not read (write: nor write), or that lies in a folder it may not enter; `otherwise`
    when nothing of the kind is in the way."""
    path = Path(os.path.abspath(path))
    for place in (*reversed(path.parents), path):
        inside = place != path
        try:
            at = place.stat()
        except OSError:
            return otherwise  # not there, or gone meanwhile: another mistake
        want = os.X_OK if inside else os.R_OK | (os.W_OK if write else 0)
        if os.access(place, want, effective_ids=True):
            continue
        if at.st_uid == os.geteuid():
            return f"{place} is yours, and its mode ({at.st_mode & 0o7777:o}) keeps you out: chmod u+{'rx' if inside else 'rw' if write else 'r'} {place}"
        owner = name_of(at.st_uid)
        return (
            f"{place} belongs to {owner} (mode {at.st_mode & 0o7777:o}) and you are {name_of(os.geteuid())}: "
            f"run it as {owner}, with sudo -u {owner} and the command's whole path"
        )
    return otherwise


def name_of(uid: int) -> str:
    """Return a user's name, its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"

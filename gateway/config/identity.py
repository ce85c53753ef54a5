"""A gateway's first id: two boxes on one broker with the same id throw each other off, so it comes from the host."""

from __future__ import annotations

import hashlib
import re
import socket
import uuid
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")
MOST = 32  # of NAME in table.py
_SAYS_NOTHING = ("", "localhost", "localhost-localdomain")


def host_id() -> str:
    """Return an id for a gateway on this host: its name, and six digits of its machine-id and network address.

    The digits tell apart boxes whose cards are copies of each other, name and all. It is the same at every call on one host.
    """
    name = socket.gethostname()
    try:
        machine = MACHINE_ID.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        machine = ""
    digits = hashlib.sha256(f"citymote gateway {name} {machine} {uuid.getnode():012x}".encode()).hexdigest()[:6]
    plain = re.sub(r"[^a-z0-9]+", "-", name.partition(".")[0].lower()).strip("-")
    return f"{'gw' if plain in _SAYS_NOTHING else plain[: MOST - 7].rstrip('-')}-{digits}"

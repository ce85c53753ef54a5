"""Times as operators write them, for verbs that look back."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
LAST = 253_402_300_799  # 9999-12-31T23:59:59Z: what can be written as a date


def moment(text: str) -> float:
    """Return Unix time of `2026-03-02`, `2026-03-02T06:30Z`, Unix seconds, `now`, or an age such as `90m`, `36h`, `7d`, `2w`.

    Without a zone it is UTC. From 1970 to 9999. Raises argparse.ArgumentTypeError.
    """
    t = _unix(text)
    if not 0 <= t <= LAST:
        when = "before 1970" if t < 0 else "behind the year 9999"
        raise argparse.ArgumentTypeError(
            f"{text!r} is {when}, when nothing was measured; for all there is write --from 1970-01-01, and leave --to out"
        )
    return t


def _unix(text: str) -> float:
    if text == "now":
        return time.time()
    if age := re.fullmatch(r"(\d{1,12})([mhdw])", text):
        return time.time() - int(age[1]) * _UNITS[age[2]]
    if re.fullmatch(r"\d{9,10}(\.\d+)?", text):
        return float(text)
    try:
        t = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write 2026-03-02T06:30Z, 2026-03-02, Unix seconds, now, or an age: 90m, 36h, 7d"
        ) from None
    return (t if t.tzinfo else t.replace(tzinfo=UTC)).timestamp()


def add_period(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --from and --to."""
    parser.add_argument(
        "--from",
        dest="since",
        type=moment,
        required=True,
        metavar="TIME",
        help=f"{what}: first moment; 2026-03-02, 2026-03-02T06:30Z (UTC where no zone is named), Unix seconds, or an age: 90m, 36h, 7d, 2w",
    )
    parser.add_argument(
        "--to", dest="until", type=moment, default="now", metavar="TIME", help="first moment after; default now"
    )

"""Interval codes of a report (WIRE.md section 2)."""

SECONDS = (
    0, 1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 240, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400,
)  # fmt: skip


def code_of(seconds):
    """Return the wire code of a regular interval, or 0 when it has none (under 24 s and not in the table)."""
    for code in range(1, 24):
        if SECONDS[code] == seconds:
            return code
    return seconds if seconds >= 24 else 0


def seconds_of(code):
    """Return the seconds of a positive interval code."""
    return SECONDS[code] if code < 24 else code

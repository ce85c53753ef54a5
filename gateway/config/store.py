"""[store]: how long what is kept, and how much room it may take."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.table import Table


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What retention may drop. What an output has not taken yet goes only at size_mb: oldest bulk first, alarms last, told as a gap.

    frames_days: raw frames. rows_days: decoded rows. spool_hours: events that every output has taken. alarms_days: alarms.
    size_mb: all of it. reserve_mb: a file that is given up when the disk is full, so that alarms can still be taken; 0 for none.
    """

    frames_days: int = 30
    rows_days: int = 400
    spool_hours: int = 24
    alarms_days: int = 1200
    size_mb: int = 8192
    reserve_mb: int = 8


KEYS = ("frames_days", "rows_days", "spool_hours", "alarms_days", "size_mb", "reserve_mb")


def store(t: Table) -> StoreConfig:
    """Read [store]. Raises ConfigError."""
    t.only(KEYS)
    return StoreConfig(
        t.number("frames_days", 30, 0, 36_500),
        t.number("rows_days", 400, 0, 36_500),
        t.number(
            "spool_hours", 24, 1, 87_600
        ),  # at least the 15 minutes in which a copy may come through another receiver
        t.number("alarms_days", 1200, 1, 36_500),
        t.number("size_mb", 8192, 16, 16_000_000),
        t.number("reserve_mb", 8, 0, 1024),
    )

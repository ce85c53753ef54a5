"""How often a node says how it is, which is another rhythm than that of its readings, and so how long such a value is believed.

A report of this kind is some frames within moments; it comes at boot, every health_s of the node's configuration (10 min to 5 days), and on
occasion. The gateway does not know health_s, so it looks at the last two distances: the longer counts, rounded up to a doubling of the node's
own default, because a boot or a question makes them shorter and a lost frame longer.
"""

from __future__ import annotations

DEFAULT_S = 21_600  # health_s of firmware/mote/settings.py
LONGEST_S = 432_000
BURST_S = 600  # frames of one report; no rhythm is shorter
DAY_S = 86_400  # within which a node says again also what has not changed (firmware/mote/status.py)


def next_rhythm(told: float, rhythm: tuple[int, int], received: float, was_away: bool) -> tuple[float, tuple[int, int]]:
    """Return when a node told last, and the last two distances, after a status frame. was_away: silence lies between, which is no rhythm."""
    since = received - told
    if 0 <= since < BURST_S:
        return told, rhythm
    if not told or was_away or not BURST_S <= since <= 2 * LONGEST_S:
        return received, rhythm
    return received, (rhythm[1], int(since))


def health_s(rhythm: tuple[int, int]) -> int:
    """Return every how many seconds a node says how it is: DEFAULT_S or a doubling of it."""
    seconds = DEFAULT_S
    while seconds < LONGEST_S and seconds * 1.1 < max(rhythm):
        seconds *= 2
    return seconds

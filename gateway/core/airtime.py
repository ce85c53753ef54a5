"""LoRa time on air and the EU868 duty-cycle ledger of the gateway's own transmissions.

Sources: Semtech AN1200.13 for the formula; CEPT ERC/REC 70-03 annex 1 for the sub-bands. The limit holds for any
sliding hour, per sub-band and per transmitter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

HOUR_US = 3_600_000_000

# (from Hz, to Hz, share of the hour in 1/1000). Alarm-only slices are absent: forbidden to us.
SUB_BANDS = (
    (863_000_000, 865_000_000, 1),
    (865_000_000, 868_000_000, 10),
    (868_000_000, 868_600_000, 10),
    (868_700_000, 869_200_000, 1),
    (869_400_000, 869_650_000, 100),
    (869_700_000, 870_000_000, 10),
)


def time_on_air_us(size: int, sf: int, bw_hz: int = 125_000, cr: int = 1, preamble: int = 8, crc: bool = True) -> int:
    """Return the microseconds a LoRa frame of `size` bytes is on air; sf 7..12, cr 1..4 for 4/5..4/8, explicit header.

    Low-data-rate optimisation is on when a symbol lasts 16 ms or more, as both ends must agree without being told.
    """
    symbol_us = (1 << sf) * 1_000_000 // bw_hz
    ldro = symbol_us >= 16_000
    bits = 8 * size - 4 * sf + 28 + (16 if crc else 0)
    symbols = 8 + max(-(-bits // (4 * (sf - 2 * ldro))) * (cr + 4), 0)
    return ((4 * preamble + 17 + 4 * symbols) * symbol_us + 3) // 4


def sub_band_of(freq_hz: int) -> int | None:
    """Return the index of the sub-band that holds a centre frequency with 62.5 kHz to each side, or None if none may be
    used."""
    for i, (low, high, _) in enumerate(SUB_BANDS):
        if low <= freq_hz - 62_500 and freq_hz + 62_500 <= high:
            return i
    return None


class DutyLedger:
    """What one transmitter has sent in each sub-band within the last hour. Times are microseconds of any one clock."""

    def __init__(self, sent: Iterable[tuple[int, int, int]] = ()) -> None:
        """`sent`: (sub-band, start, airtime) of a former life, oldest first."""
        self._sent: list[deque[tuple[int, int]]] = [deque() for _ in SUB_BANDS]
        self._sum = [0] * len(SUB_BANDS)
        for band, start, airtime in sent:
            self._sent[band].append((start, airtime))
            self._sum[band] += airtime

    def used_us(self, band: int, now: int) -> int:
        """Return the airtime of transmissions that end within the hour before `now`."""
        sent = self._sent[band]
        while sent and sent[0][0] + sent[0][1] <= now - HOUR_US:
            self._sum[band] -= sent.popleft()[1]
        return self._sum[band]

    def shift(self, us: int) -> None:
        """The clock was set by so much: what was sent is as long ago as it was."""
        self._sent = [deque((start + us, airtime) for start, airtime in sent) for sent in self._sent]

    def room(self, freq_hz: int, start: int, airtime: int, share: float = 1.0) -> int | None:
        """Return the sub-band in which a transmission may be made, None when the limit or the band forbids it.

        share: of the limit that may be used up, so that something is left for what is more important.
        """
        band = sub_band_of(freq_hz)
        if band is None:
            return None
        return band if self.used_us(band, start) + airtime <= HOUR_US // 1000 * SUB_BANDS[band][2] * share else None

    def book(self, freq_hz: int, start: int, airtime: int, share: float = 1.0) -> int | None:
        """Book a transmission and return its sub-band; None, and nothing booked, when there is no room."""
        band = self.room(freq_hz, start, airtime, share)
        if band is not None:
            self._sent[band].append((start, airtime))
            self._sum[band] += airtime
        return band

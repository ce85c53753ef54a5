"""LoRa physics: time on air, sensitivity, path loss, capture. Sources in the docstrings; no state, no randomness."""

from __future__ import annotations

import math

SNR_LIMIT = {7: -7.5, 8: -10.0, 9: -12.5, 10: -15.0, 11: -17.5, 12: -20.0}  # dB; SX1276 datasheet table 13
NOISE_FIGURE = 6.0  # dB, SX1301/SX1302 class front end
CAPTURE_DB = 6.0  # co-SF; Goursaud & Gorce 2015
CROSS_SF_DB = -16.0  # another SF must be this much stronger to destroy a frame; Croce et al. 2018
LOCK_SYMBOLS = 5  # preamble symbols a modem needs


def symbol_us(sf: int, bw: int) -> float:
    return (1 << sf) * 1e6 / bw


def time_on_air_us(
    sf: int, size: int, *, bw: int = 125_000, cr: int = 5, preamble: int = 8, header: bool = True, crc: bool = True,
    ldro: bool | None = None,
) -> int:  # fmt: skip
    """Microseconds on air of `size` payload bytes (SX1276 datasheet, AN1200.13); cr 5..8 stands for 4/5..4/8.

    ldro None: on when a symbol takes 16 ms or longer. SF 7..12 (SF5/6 of the SX126x follow another formula).
    """
    if not 7 <= sf <= 12:
        raise ValueError(f"spreading factor {sf} outside 7..12")
    ts = symbol_us(sf, bw)
    de = ts >= 16_000 if ldro is None else ldro
    bits = 8 * size - 4 * sf + 28 + 16 * crc - 20 * (not header)
    symbols = 8 + max(math.ceil(bits / (4 * (sf - 2 * de))) * cr, 0)
    return round((preamble + 4.25 + symbols) * ts)


def noise_floor_dbm(bw: int) -> float:
    return -174 + 10 * math.log10(bw) + NOISE_FIGURE


def path_loss_db(distance_m: float, shadow_db: float = 0.0) -> float:
    """Log-distance loss measured at 868 MHz in Oulu, node at street level, receiver on a roof (Petajajarvi et al. 2015).

    128.95 dB at 1 km, exponent 2.32; held below 30 m, where it was not measured.
    """
    return 128.95 + 23.2 * math.log10(max(distance_m, 30.0) / 1000) + shadow_db


def distance_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Metres between two (lat, lon) a few km apart (flat-earth approximation)."""
    dy = (a[0] - b[0]) * 111_195
    dx = (a[1] - b[1]) * 111_195 * math.cos(math.radians((a[0] + b[0]) / 2))
    return math.hypot(dx, dy)


def survives(rssi_dbm: float, sf: int, bw: int, interferers: list[tuple[int, float]]) -> bool:
    """True when a frame of rssi_dbm is decoded against noise and against (sf, rssi) of every overlapping transmission.

    Same SF: it must be CAPTURE_DB above their power sum. Other SF: none may be more than -CROSS_SF_DB above it.
    """
    if rssi_dbm - noise_floor_dbm(bw) < SNR_LIMIT[sf]:
        return False
    same = [10 ** (r / 10) for s, r in interferers if s == sf]
    if same and rssi_dbm - 10 * math.log10(sum(same)) < CAPTURE_DB:
        return False
    return all(rssi_dbm - r >= CROSS_SF_DB for s, r in interferers if s != sf)

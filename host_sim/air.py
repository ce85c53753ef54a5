"""The LoRa channel all nodes and receivers share: who transmits when, who can hear whom, who is destroyed by whom."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, field

from motewire.frame import DOWNLINK

from host_sim import chance, lora

HOUR_US = 3_600_000_000
WIDE_ID = 0x04  # in a frame's first byte: the node id has 4 bytes (WIRE.md section 1)
# EU868 sub-bands (Hz from, to, duty): CEPT ERC 70-03 annex 1, The Things Stack band code
SUB_BANDS = (
    (863_000_000, 865_000_000, 0.001),
    (865_000_000, 868_000_000, 0.01),
    (868_000_000, 868_600_000, 0.01),
    (868_700_000, 869_200_000, 0.001),
    (869_400_000, 869_650_000, 0.10),
    (869_700_000, 870_000_000, 0.01),
)


@dataclass(frozen=True, slots=True)
class Modulation:
    """What two ends must agree on. freq Hz, bw Hz, cr 5..8, preamble symbols, sync word."""

    freq: int
    sf: int
    bw: int = 125_000
    cr: int = 5
    preamble: int = 8
    sync: int = 0x12

    @property
    def symbol_us(self) -> float:
        return lora.symbol_us(self.sf, self.bw)

    def hears(self, other: Modulation) -> bool:
        """A modem set to self can lock on to other (coding rate travels in the header, preamble length does not matter)."""
        return (self.freq, self.sf, self.bw, self.sync) == (other.freq, other.sf, other.bw, other.sync)


@dataclass(frozen=True, slots=True)
class Transmission:
    """One frame on the air from `start` to `end` (us). sender: node or receiver name; serial counts per sender."""

    sender: str
    serial: int
    start: int
    end: int
    mod: Modulation
    dbm: float
    payload: bytes
    down: bool = False

    @property
    def locked_at(self) -> int:
        """When a modem that heard the preamble knows that a frame is coming (end of preamble)."""
        return self.start + round((self.mod.preamble + 4.25) * self.mod.symbol_us)


@dataclass(frozen=True, slots=True)
class Fade:
    """A stretch of bad radio: from/to us; `loss` of all frames (both directions) lost, or only at `receivers`."""

    start: int
    end: int
    loss: float
    receivers: tuple[str, ...] = ()


@dataclass(slots=True)
class Station:
    """An antenna: node or receiver."""

    name: str
    place: tuple[float, float]
    gain_dbi: float = 0.0
    roof: bool = False


@dataclass(slots=True)
class AirStats:
    frames: int = 0
    bytes: int = 0
    airtime_us: int = 0
    down_frames: int = 0
    collisions: int = 0
    faded: int = 0
    weak: int = 0
    duty_violations: list[str] = field(default_factory=list)


def logged(payload: bytes) -> bytes:
    """What the air log keeps of a frame: its first five bytes (header) and its length (DECISIONS.md "result hash").

    Of a downlink only type and node: its counter begins at the seconds since 2026 of the machine the gateway runs on.
    """
    head = 5
    if payload and payload[0] >> 4 & 3 == DOWNLINK:
        head = 5 if payload[0] & WIDE_ID else 3
    return f"{payload[:head].hex()} {len(payload)}".encode()


def sub_band(freq: int, bw: int) -> int | None:
    """Index into SUB_BANDS of the band that holds the whole channel, or None."""
    for i, (low, high, _) in enumerate(SUB_BANDS):
        if low <= freq - bw // 2 and freq + bw // 2 <= high:
            return i
    return None


class Air:
    """Keeps the transmissions of the last minute, judges receptions, audits duty cycles, logs every frame into a hash."""

    def __init__(self, seed: int, fades: tuple[Fade, ...] = (), shadow_db: float = 6.0) -> None:
        self._seed, self._fades, self._shadow_db = seed, fades, shadow_db
        self.stations: dict[str, Station] = {}
        self._recent: list[Transmission] = []
        self._ledger: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        self.stats = AirStats()
        self.log = hashlib.sha256()
        self._cut_short: set[tuple[str, int]] = set()

    def transmit(self, tx: Transmission, *, counted: bool = True) -> None:
        """Put a frame on the air; call in order of start time. counted: part of statistics and log (not in the drain)."""
        self._recent = [t for t in self._recent if t.end > tx.start - 60_000_000]
        self._recent.append(tx)
        self._audit(tx)
        if counted:
            self.stats.frames += 1
            self.stats.down_frames += tx.down
            self.stats.bytes += len(tx.payload)
            self.stats.airtime_us += tx.end - tx.start
            head = f"{tx.start} {tx.sender} {tx.mod.freq} {tx.mod.sf} {tx.mod.bw} {tx.dbm} "
            self.log.update(head.encode() + logged(tx.payload) + b"\n")

    def _audit(self, tx: Transmission) -> None:
        band = sub_band(tx.mod.freq, tx.mod.bw)
        if band is None:
            self.stats.duty_violations.append(f"{tx.sender}: {tx.mod.freq} Hz is outside every sub-band")
            return
        duty = SUB_BANDS[band][2]
        spans = self._ledger[tx.sender, band]
        spans.append((tx.start, tx.end))
        while spans[0][1] <= tx.end - HOUR_US:
            spans.pop(0)
        used = sum(end - max(start, tx.end - HOUR_US) for start, end in spans)
        if used > duty * HOUR_US:
            self.stats.duty_violations.append(
                f"{tx.sender}: {used / 1e6:.1f} s in the hour before {tx.end / 1e6:.1f} s, {duty:.1%} allows {duty * 3600:.1f} s"
            )

    def rssi(self, tx: Transmission, at: Station) -> float:
        """dBm of tx at a station: log-distance loss, a fixed shadow per pair of places, and a fade per frame."""
        source = self.stations[tx.sender]
        pair = sorted((source.name, at.name))
        shadow = self._shadow_db * chance.gauss(self._seed, "shadow", *pair)
        fade = 1.5 * chance.gauss(self._seed, "fade", tx.sender, tx.serial, at.name)
        street = 12.0 if not (source.roof or at.roof) else 0.0  # two street-level antennas see more corners
        loss = lora.path_loss_db(lora.distance_m(source.place, at.place), shadow + street)
        return tx.dbm + source.gain_dbi + at.gain_dbi - loss - fade

    def _lost_to_fade(self, tx: Transmission, at: Station) -> bool:
        for fade in self._fades:
            if fade.start <= tx.start < fade.end and (not fade.receivers or at.name in fade.receivers):
                names = (tx.sender, tx.serial, *((at.name,) if fade.receivers else ()))
                if chance.uniform(self._seed, "loss", *names) < fade.loss:
                    return True
        return False

    def silence(self, sender: str, t: int) -> None:
        """The sender's power or VM went at t: what it was sending is cut short and can no longer be decoded."""
        for tx in self._recent:
            if tx.sender == sender and tx.start < t < tx.end:
                self._cut_short.add((sender, tx.serial))

    def receive(self, tx: Transmission, at: Station) -> tuple[float, float] | None:
        """(rssi dBm, snr dB) when the frame is decoded at a station, else None. Call when all frames up to tx.end are known."""
        if (tx.sender, tx.serial) in self._cut_short:
            return None
        rssi = self.rssi(tx, at)
        floor = lora.noise_floor_dbm(tx.mod.bw)
        if rssi - floor < lora.SNR_LIMIT[tx.mod.sf]:
            self.stats.weak += 1
            return None
        others = [
            (o.mod.sf, self.rssi(o, at))
            for o in self._recent
            if o is not tx
            and o.sender not in (tx.sender, at.name)
            and o.start < tx.end
            and tx.start < o.end
            and abs(o.mod.freq - tx.mod.freq) < (o.mod.bw + tx.mod.bw) // 2
        ]
        if others and not lora.survives(rssi, tx.mod.sf, tx.mod.bw, others):
            self.stats.collisions += 1
            return None
        if self._lost_to_fade(tx, at):
            self.stats.faded += 1
            return None
        snr = min(rssi - floor, 12.0)  # the modem's own figure saturates
        return rssi if rssi > floor else floor + 10 * math.log10(1 + 10 ** ((rssi - floor) / 10)), snr

    def sending(self, name: str, start: int, end: int) -> bool:
        """True when station `name` itself transmits within start..end (half duplex)."""
        return any(t.sender == name and t.start < end and start < t.end for t in self._recent)

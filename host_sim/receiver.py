"""A simulated 8-channel concentrator: hears the air, forwards what it decodes, transmits what the gateway orders."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host_sim.air import Air, Modulation, Station, Transmission
from host_sim.forwarder import TMST_MASK, Downlink, Forwarder, iso, payload_of
from host_sim.lora import time_on_air_us

DEMODULATORS = 8  # SX1301: packets demodulated at once
CHANNELS = (868_100_000, 868_300_000, 868_500_000, 867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000)
EARLIEST_US = 20_000  # a concentrator refuses a downlink it has less time for (TOO_LATE)
LATEST_US = 10_000_000  # and one further off than this (TOO_EARLY)
MAX_DBM = 27
_DATR = re.compile(r"SF(\d+)BW(\d+)$")


@dataclass(frozen=True, slots=True)
class Heard:
    """A frame decoded here."""

    tx: Transmission
    rssi: float
    snr: float


class Receiver:
    """name: station name on the air. boot_us: value of its free-running counter at virtual time 0. ahead_us: by how much the time that it says
    is ahead of the true one, at a virtual time."""

    def __init__(
        self,
        station: Station,
        eui: bytes,
        air: Air,
        forwarder: Forwarder,
        unix0: int,
        boot_us: int,
        ahead_us: Callable[[int], int] = lambda _t: 0,
    ) -> None:
        self._ahead_us = ahead_us
        self.station, self.eui, self._air, self._forwarder = station, eui, air, forwarder
        self._unix0, self._boot_us = unix0, boot_us
        self._serial = 0
        self._demodulating: list[tuple[int, int]] = []
        self._booked: list[tuple[int, int]] = []
        self.refused: dict[str, int] = {}

    def hear(self, tx: Transmission) -> Heard | None:
        """Judge a frame at its end: sync word, channel, own transmission, free demodulator, signal."""
        if tx.mod.sync != 0x12 or tx.mod.freq not in CHANNELS or tx.mod.bw != 125_000:
            return None
        if self._air.sending(self.station.name, tx.start, tx.end):
            return None
        self._demodulating = [(s, e) for s, e in self._demodulating if e > tx.start]
        if sum(s < tx.end for s, e in self._demodulating) >= DEMODULATORS:
            return None
        got = self._air.receive(tx, self.station)
        if got is None:
            return None
        self._demodulating.append((tx.start, tx.end))
        return Heard(tx, *got)

    def tmst(self, t: int) -> int:
        return (t + self._boot_us) & TMST_MASK

    def forward(self, heard: Heard) -> None:
        tx = heard.tx
        self._forwarder.push(
            {
                "time": iso(self._unix0 * 1_000_000 + tx.end + self._ahead_us(tx.end)),
                "tmst": self.tmst(tx.end),
                "freq": tx.mod.freq / 1e6,
                "chan": CHANNELS.index(tx.mod.freq),
                "rfch": 0 if tx.mod.freq >= 868_000_000 else 1,
                "stat": 1,
                "modu": "LORA",
                "datr": f"SF{tx.mod.sf}BW{tx.mod.bw // 1000}",
                "codr": f"4/{tx.mod.cr}",
                "rssi": round(heard.rssi),
                "lsnr": round(heard.snr * 4) / 4,
                "size": len(tx.payload),
                "data": base64.b64encode(tx.payload).decode(),
            }
        )

    def stat(self, now: int) -> None:
        self._forwarder.stat(self._unix0 * 1_000_000 + now + self._ahead_us(now))

    def pull_begin(self) -> None:
        self._forwarder.pull_begin()

    def pull_end(self, now: int) -> list[Transmission]:
        """Finish the barrier with the gateway; answer each downlink with TX_ACK; return those that will be sent."""
        sent = []
        for downlink in self._forwarder.pull_end():
            tx, error = self._book(downlink, now)
            if error:
                self.refused[error] = self.refused.get(error, 0) + 1
            self._forwarder.tx_ack(downlink.token, error)
            if tx is not None:
                sent.append(tx)
        return sent

    def _book(self, downlink: Downlink, now: int) -> tuple[Transmission | None, str]:
        txpk: dict[str, Any] = downlink.txpk
        match = _DATR.match(str(txpk.get("datr", "")))
        if txpk.get("modu") != "LORA" or match is None:
            return None, "TX_FREQ"
        freq = round(float(txpk["freq"]) * 1e6)
        if not 863_000_000 <= freq <= 870_000_000:
            return None, "TX_FREQ"
        if txpk.get("powe", 14) > MAX_DBM:
            return None, "TX_POWER"
        mod = Modulation(
            freq, int(match[1]), int(match[2]) * 1000, int(str(txpk.get("codr", "4/5"))[2:]), txpk.get("prea", 8)
        )
        payload = payload_of(txpk)
        if txpk.get("imme"):
            start = now + EARLIEST_US
        else:
            start = now + ((int(txpk["tmst"]) - self.tmst(now)) & TMST_MASK)
        ahead = start - now
        if ahead > TMST_MASK // 2 or ahead < EARLIEST_US:
            return None, "TOO_LATE"
        if ahead > LATEST_US:
            return None, "TOO_EARLY"
        end = start + time_on_air_us(
            mod.sf, len(payload), bw=mod.bw, cr=mod.cr, preamble=mod.preamble, crc=not txpk.get("ncrc")
        )
        self._booked = [(s, e) for s, e in self._booked if e > now]
        if any(s < end and start < e for s, e in self._booked):
            return None, "COLLISION_PACKET"
        self._booked.append((start, end))
        self._serial += 1
        dbm = float(txpk.get("powe", 14))
        return Transmission(self.station.name, self._serial, start, end, mod, dbm, payload, down=True), ""

    def close(self) -> None:
        self._forwarder.close()

"""What a sleeping meter takes out of its battery, item by item, from wakes as they were played: Python's time is charged.

Awake time in virtual time lacks what Python takes (a stand-in's clock stands while code runs; what the simulator charges for starts is left out here), so it is charged beside it: instructions of the wake, at
what an ESP32 of 160 MHz does of such instructions in a second. What the stand-ins of chips and flash do is among them. Every constant has its source; where one has a range, the dearer end is taken.
Not charged, because the board decides: divider and pull-ups, regulator, LEDs, a USB bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DAY_S = 86_400
MONTH_DAYS = 365.25 / 12
CELL_MAH = 19_000  # lithium thionyl chloride, size D

# Pystone: 43,550 instructions a pass on the VM of the measurements (callgrind, measured once by hand, 1,100 passes less 100), and 1,014 passes a second on an
# ESP32 of 240 MHz, v1.13 (micropython issue 6565; v1.12 had 1,602), which 160 MHz, the stock image's clock, makes two thirds of.
INSTRUCTIONS_A_PASS = 43_550
PASSES_A_SECOND = 1_014 * 160 / 240
INSTRUCTIONS_A_SECOND = INSTRUCTIONS_A_PASS * PASSES_A_SECOND

# ESP32 datasheet v3.5, table 6, modem-sleep at 160 MHz, dual core: 27 mA (nothing to do) to 44 mA (both cores at work)
WORK_MA = 44.0
WAIT_MA = 27.0
# Reset to the first line of boot.py: 3.32 mC to MicroPython, 23.6 mC to mount the file system and start the application (measured on a board:
# glenn20/upy-esp32-experiments, ESPNowvsWifiEnergyUsage)
START_MC = 3.32 + 23.6
# ESP32 datasheet v3.5, table 6: deep sleep with RTC timer and memory 10 uA. The ULP's run of 20 us every 10 ms: 20 uA more are planned for
# (firmware/DECISIONS.md; measured by a hobbyist with a run every 5 ms: 17). The datasheet's own pattern, the ADC at work 1 % of the time, has 100.
SLEEP_UA = 10.0 + 20.0
PATTERN_UA = 100.0
# SX1261/2 datasheet, table 3-5 and 3-4: SX1262 at +14 dBm 90 mA; receiving, boosted, on the LDO 10.1 mA (the driver never switches to DC-DC); asleep 0.6 uA
TX_MA = 90.0
RX_MA = 10.1
RADIO_SLEEP_UA = 0.6
SELF_DISCHARGE = 0.01  # of the cell a year: the makers' figure for lithium thionyl chloride at 20 degrees


def ledger(wakes: Sequence[dict[str, Any]], base: int) -> dict[str, Any]:
    """Return mAh a day by item, their sum, and the months that a cell of 19 Ah lasts.

    wakes: t, awake_s, tx_s, rx_s in seconds, frames, and instructions, of which a boot without firmware takes `base`; the last one only ends the
    span. A wake without a frame waits for its row's instant only, for which the firmware plans the time that a start takes: what Python takes
    until then is no wait. Of one with a frame both are charged in full.
    """
    span = wakes[-1]["t"] - wakes[0]["t"]
    counted = [w for w in wakes[:-1] if w["instructions"] is not None and w["awake_s"] is not None]
    whole = (len(wakes) - 1) / len(counted) * DAY_S / span  # of what was counted, a day

    def total(key: str) -> float:
        return sum(w[key] for w in counted) * whole

    def python(w: dict[str, Any]) -> float:
        return (w["instructions"] - base) / INSTRUCTIONS_A_SECOND

    python_s = sum(map(python, counted)) * whole
    awake_s = sum(w["awake_s"] if w["frames"] else max(0.0, w["awake_s"] - python(w)) for w in counted) * whole
    starts = len(counted) * whole
    asleep_s = DAY_S - awake_s - python_s
    mah = {
        "starts": starts * START_MC / 3600,
        "python": python_s * WORK_MA / 3600,
        "waiting": awake_s * WAIT_MA / 3600,
        "sending": total("tx_s") * TX_MA / 3600,
        "receiving": total("rx_s") * RX_MA / 3600,
        "asleep": asleep_s * (SLEEP_UA + RADIO_SLEEP_UA) / 3.6e6,
        "self_discharge": CELL_MAH * SELF_DISCHARGE / 365.25,
    }
    day = sum(mah.values())
    pattern = day + asleep_s * (PATTERN_UA - SLEEP_UA) / 3.6e6
    return {
        "mah_a_day": {name: round(v, 3) for name, v in mah.items()} | {"sum": round(day, 3)},
        "seconds_a_day": {"starts": round(starts, 1), "python": round(python_s, 1), "waiting": round(awake_s, 1)},
        "months_19ah": round(CELL_MAH / day / MONTH_DAYS, 1),
        "months_19ah_100ua": round(CELL_MAH / pattern / MONTH_DAYS, 1),
    }

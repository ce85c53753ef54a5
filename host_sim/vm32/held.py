"""How much heap each profile may hold on each link and way, the radio driver included: ceilings that tests hold the firmware to.

Bytes, one to two per cent over what `citymote bench heap` printed on the npm VM after 24 hours (noise: 2). `citymote boards check` compares them
with what a board has. A ceiling of romfs never exceeds what was promised: 84,000, noise 104,000 on LoRa and 100,000 on WiFi.
"""

from __future__ import annotations

from collections.abc import Mapping

RESERVE = 8 * 1024  # garbage between two collections (gc.threshold of mote/main.py) and holes

HELD: Mapping[tuple[str, str, str], int] = {
    (
        "air_quality",
        "lora",
        "mpy",
    ): 135_500,  # a kB and a half a kB for samples that a sleeping meter leaves out, and for tasks of their own module
    ("noise", "lora", "mpy"): 154_000,
    ("water_meter", "lora", "mpy"): 128_000,
    ("parking", "lora", "mpy"): 132_500,
    ("bin_fill", "lora", "mpy"): 140_000,  # as above
    ("air_quality", "wifi", "mpy"): 122_000,
    ("noise", "wifi", "mpy"): 142_000,
    ("water_meter", "wifi", "mpy"): 117_000,
    ("parking", "wifi", "mpy"): 121_500,
    ("bin_fill", "wifi", "mpy"): 129_000,
    ("air_quality", "lora", "romfs"): 80_000,
    ("noise", "lora", "romfs"): 97_000,
    ("water_meter", "lora", "romfs"): 76_000,
    ("parking", "lora", "romfs"): 78_500,
    ("bin_fill", "lora", "romfs"): 83_000,
    ("air_quality", "wifi", "romfs"): 75_500,
    ("noise", "wifi", "romfs"): 93_000,
    ("water_meter", "wifi", "romfs"): 72_000,
    ("parking", "wifi", "romfs"): 74_000,
    ("bin_fill", "wifi", "romfs"): 78_500,
}

# The npm VM's collector takes sound for addresses (its heap begins near 0; a board's begins at 0x3FFB0000). MicroPython 1.29 as a 32-bit unix
# program holds 4,000 (WiFi) to 7,280 (LoRa, .mpy) less of the noise profile: the least of it counts.
_FALSE_POINTERS = 4_000


def on_board(profile: str, link: str, way: str) -> int:
    """Bytes that the profile may hold on a board."""
    return HELD[profile, link, way] - (_FALSE_POINTERS if profile == "noise" else 0)

"""How much heap each profile may hold on each link and way, the radio driver included: ceilings that tests hold the firmware to.

Bytes, one to two per cent over what `citymote bench heap` printed on the npm VM after 24 hours (noise: 2). `citymote boards check` compares them
with what a board has. A ceiling of romfs never exceeds what was promised: 84,000, noise 104,000 on LoRa and 100,000 on WiFi.
"""

from __future__ import annotations

from collections.abc import Mapping

RESERVE = 8 * 1024  # garbage between two collections (gc.threshold of mote/main.py) and holes

HELD: Mapping[tuple[str, str, str], int] = {
    ("air_quality", "lora", "mpy"): 137_000,
    ("noise", "lora", "mpy"): 156_500,
    ("water_meter", "lora", "mpy"): 133_500,
    ("parking", "lora", "mpy"): 135_500,
    ("bin_fill", "lora", "mpy"): 142_000,
    ("air_quality", "wifi", "mpy"): 126_000,
    ("noise", "wifi", "mpy"): 146_000,
    ("water_meter", "wifi", "mpy"): 122_500,
    ("parking", "wifi", "mpy"): 124_500,
    ("bin_fill", "wifi", "mpy"): 131_500,
    ("air_quality", "lora", "romfs"): 80_000,
    ("noise", "lora", "romfs"): 97_000,
    ("water_meter", "lora", "romfs"): 78_500,
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

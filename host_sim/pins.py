"""Which GPIOs a board's tables may name: what the chip has, what its flash and the serial REPL take, one use each.

A pin that does not fit ends as ValueError on the board, or (I2C, ESP-IDF 5.5.2 and later) in abort(), a restart without words: so it is refused here.
Sources: Espressif's datasheets of the chips, chapter "Pins" (ESP32: 34..39 are inputs only, 6..11 carry the flash, 20, 24 and 28..31 are not there; S2 and S3: no 22..25,
26..32 carry the flash; C3: 12..17), their tables of ADC1; MICROPY_HW_ENABLE_UART_REPL of MicroPython 1.29's boards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Chip:
    """exists: GPIOs. inputs: those that cannot drive. flash: taken by flash memory. adc: what ADC.read_uv() can read (ADC1: the other one is WiFi's).
    uart0: TX and RX of the UART that a REPL is on."""

    exists: frozenset[int]
    inputs: frozenset[int]
    flash: frozenset[int]
    adc: frozenset[int]
    uart0: tuple[int, int]


def _set(*parts: int | tuple[int, int]) -> frozenset[int]:
    """{a, b..c, ...}"""
    return frozenset(n for p in parts for n in ((p,) if isinstance(p, int) else range(p[0], p[1] + 1)))


CHIPS = {
    "esp32": Chip(_set((0, 19), (21, 23), (25, 27), (32, 39)), _set((34, 39)), _set((6, 11)), _set((32, 39)), (1, 3)),
    "esp32s2": Chip(_set((0, 21), (26, 46)), _set(46), _set((26, 32)), _set((1, 10)), (43, 44)),
    "esp32s3": Chip(_set((0, 21), (26, 48)), _set(), _set((26, 32)), _set((1, 10)), (43, 44)),
    "esp32c3": Chip(_set((0, 21)), _set(), _set((12, 17)), _set((0, 4)), (21, 20)),
}
# images whose REPL is on USB alone; in any other the pins of UART 0 are counted as the REPL's (ESP32_GENERIC_S3 has it on both)
USB_ONLY = frozenset({"LILYGO_T3_S3"})
# table -> {key: (the board drives it, it is read as a voltage)}
_KEYS: Mapping[str, Mapping[str, tuple[bool, bool]]] = {
    "i2c": {"scl": (True, False), "sda": (True, False)},
    "uart": {"tx": (True, False), "rx": (False, False)},
    "i2s": {"sck": (True, False), "ws": (True, False), "sd": (False, False)},
    "spi": {"sck": (True, False), "mosi": (True, False), "miso": (False, False)},
    "pulse": {"pin": (False, False)},
    "radio": {
        "cs": (True, False), "reset": (True, False), "busy": (False, False), "dio0": (False, False), "dio1": (False, False),
    },
    "battery": {"pin": (False, True)},
    "led": {"pin": (True, False)},
    "limits": {"bench_pin": (False, False)},
}  # fmt: skip


def _named(board: Mapping[str, Any]) -> Iterator[tuple[str, int, bool, bool]]:
    """(what names it, GPIO, driven, analogue) of every pin in the board's tables."""
    for table, keys in _KEYS.items():
        there = board.get(table, {})
        units = there.items() if table in ("i2c", "uart", "i2s", "spi", "pulse") else [("", there)]
        for unit, spec in units:
            for key, (driven, analogue) in keys.items():
                if isinstance(spec, Mapping) and key in spec:
                    yield f"[{table}{'.' if unit else ''}{unit}] {key}", spec[key], driven, analogue


def problems(board: Mapping[str, Any], image: str) -> list[str]:
    """What is wrong with the pins of a board file, a sentence each. image: name of the MicroPython image on it."""
    name = board["board"]["chip"]
    chip = CHIPS.get(name)
    if chip is None:
        return [f'[board] chip "{name}": its pins are not known here']
    found: list[str] = []
    users: dict[int, str] = {}
    repl = frozenset() if image in USB_ONLY else frozenset(chip.uart0)
    for what, pin, driven, analogue in _named(board):
        if not isinstance(pin, int) or pin not in chip.exists:
            found.append(f"{what} = {pin}: {name} has no such GPIO")
            continue
        if pin in users:
            found.append(f"{what} = {pin}: {users[pin]} has it already")
        users.setdefault(pin, what)
        if pin in chip.flash:
            found.append(f"{what} = {pin}: the {name}'s flash memory is there")
        if driven and pin in chip.inputs:
            found.append(f"{what} = {pin}: GPIO {pin} of an {name} is an input only")
        if analogue and pin not in chip.adc:
            found.append(f"{what} = {pin}: the ADC that works beside WiFi does not reach it")
        if pin in repl:
            found.append(
                f"{what} = {pin}: the REPL of the image {image} is on UART 0 (GPIO {chip.uart0[0]} and {chip.uart0[1]}): what comes in would be typed, "
                f"and what is said goes out; take other pins, or an image whose REPL is on USB alone"
            )
    return found

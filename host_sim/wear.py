"""How many flash erases a day a node may cost (DECISIONS.md "wear budget")."""

from __future__ import annotations

BLOCK = 4096
CYCLES = 100_000  # erases a sector of serial NOR flash is good for (Winbond W25Q32JV data sheet, features)
YEARS = 20
STATIC_BLOCKS = 24  # superblocks, folders, configuration, identity, counters: written rarely, never levelled
OUTBOX_KB = 256  # the firmware's default
JUDGED_FROM_US = 6 * 3_600_000_000  # powered time below which the erases of a boot are no rate

DAY_US = 86_400_000_000


def budget(flash: int, outbox_kb: int) -> float:
    """Erases a day that a littlefs image of `flash` bytes stands for YEARS when its outbox is full all the time."""
    free = flash // BLOCK - STATIC_BLOCKS - outbox_kb * 1024 // BLOCK
    return CYCLES * free / (YEARS * 365.25)


def per_day(erases: int, powered_us: int) -> float:
    """Erases per powered day; 0 before a node had power."""
    return round(erases * DAY_US / powered_us, 1) if powered_us else 0.0

"""What an output may see; the formats know it, too, so it stands below them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.model import OPEN, RESTRICTED


@dataclass(frozen=True, slots=True)
class Filter:
    """What a destination may see. Empty means every profile, quantity and area; personal data only where `visibility` says so."""

    visibility: frozenset[str] = frozenset((OPEN, RESTRICTED))
    profiles: frozenset[str] = frozenset()
    quantities: frozenset[str] = frozenset()
    areas: frozenset[str] = frozenset()
    written: frozenset[str] = field(default=frozenset(), compare=False)
    """Keys whose lines are in the file: for others the default holds."""

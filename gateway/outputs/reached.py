"""How far a broker's memory has come, and what of it was left for later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Reached:
    """Of one output. generation: of registry and configuration that the broker's memory agrees with. spared: generation behind which topics
    were spared for one that may be elsewhere; held: behind which topics are left, since it could not be read whose they are; unread: why,
    and what to do. asked: places of the outputs that were asked to publish again what this one has left them; None: none is to.
    """

    generation: int = -1
    spared: int | None = None
    held: int | None = None
    unread: tuple[str, str] | None = None
    asked: set[str] | None = None

    def begin(self) -> None:
        """A new connection may be to another broker."""
        self.generation, self.spared, self.held = -1, None, None

    def spare(self, generation: int) -> None:
        """Topics were spared by a pass behind a generation."""
        self.spared = generation if self.spared is None else min(generation, self.spared)

    def hold(self, generation: int) -> None:
        """Topics were left by a pass behind a generation."""
        self.held = generation if self.held is None else min(generation, self.held)

    @property
    def sure(self) -> int:
        """The generation that a mark may claim."""
        return min(g for g in (self.generation, self.spared, self.held) if g is not None)

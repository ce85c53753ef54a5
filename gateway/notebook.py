"""What followers have noted: what is committed, and over it what is on its way to the disk.

A follower keeps few of its notes in memory and looks the others up. Between the moment when it hands a note out and the commit,
the store still has the old one; so the newest is kept here until it is durable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.store.engine import Engine


class Notebook:
    """One for all followers of a pipeline. of(name) is what load() gets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.pending: dict[str, bytes | None] = {}

    def of(self, name: str) -> Mapping[str, bytes]:
        """Return the live view of the notes of follower `name`."""
        return _View(self._engine, self.pending, f"{name}:")

    def add(self, notes: Mapping[str, bytes | None]) -> None:
        """Take notes that will be committed."""
        self.pending.update(notes)

    def committed(self, notes: Mapping[str, bytes | None]) -> None:
        """Let go of notes that are durable, unless a newer one waits."""
        for key, body in notes.items():
            if key in self.pending and self.pending[key] is body:
                del self.pending[key]

    def forget(self) -> None:
        """A commit failed: only what is on disk counts."""
        self.pending.clear()


class _View(Mapping[str, bytes]):
    def __init__(self, engine: Engine, pending: dict[str, bytes | None], prefix: str) -> None:
        self._engine, self._pending, self._prefix = engine, pending, prefix

    def __getitem__(self, key: str) -> bytes:
        body = self._pending[key] if key in self._pending else self._engine.note(key)
        if body is None:
            raise KeyError(key)
        return body

    def __iter__(self) -> Iterator[str]:
        keys = dict.fromkeys(self._engine.notes(self._prefix))
        for key, body in self._pending.items():
            if key.startswith(self._prefix):
                if body is None:
                    keys.pop(key, None)
                else:
                    keys[key] = None
        return iter(keys)

    def __len__(self) -> int:
        return sum(1 for _ in self)

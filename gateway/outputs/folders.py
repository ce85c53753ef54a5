"""Folders that no output writes to any more (another `folder`, an output taken out): what was its running day becomes whole files there.

What the day's file is to hold stands in the store (held.py), so this continues at the next start where it was cut or the folder was away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import structlog

from gateway.backoff import Backoff
from gateway.config import FilesOutputConfig, OutputConfig
from gateway.core.model import Event, Node
from gateway.core.value import replace
from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.outputs.files import FilesOutput
from gateway.outputs.held import Held, moved, noted
from gateway.store.engine import Engine

log = structlog.get_logger(__name__)


class _Former(FilesOutput):
    """An output as it was with a folder. config: None where it is not known what it was to see: nothing is written again then."""

    def __init__(
        self,
        held: Held,
        config: FilesOutputConfig | None,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        nodes: Mapping[int, Node],
    ) -> None:
        folder = Path(held.folder)
        made = (
            FilesOutputConfig(held.output, folder, held.formats)
            if config is None
            else replace(config, folder=folder, formats=held.formats)
        )
        super().__init__(made, gateway, engine, metrics, dict, nodes)
        self._blind = config is None
        self._track.cursor = self._track.durable = held.seq  # its successor's is another matter

    def narrow(self, event: Event) -> Event | None:
        return None if self._blind else super().narrow(event)

    async def leave(self) -> None:
        """Make the files of the day that runs there. Raises OSError."""
        try:
            await self.open()
            await self.end_day()
        finally:
            await self.shut()


class Folders:
    """One task for each such folder, until its day has become files. Nothing else waits for them."""

    def __init__(self, gateway: str, engine: Engine, metrics: Metrics) -> None:
        self._gateway, self._engine, self._metrics = gateway, engine, metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._why: dict[str, tuple[Held, str, str]] = {}

    async def follow(
        self,
        configs: Mapping[str, OutputConfig],
        former: Mapping[str, OutputConfig],
        nodes: Mapping[int, Node],
        absent: Iterable[str] = (),
    ) -> None:
        """Begin with folders that have been left. configs: outputs in force; former: those that a reload has just ended; absent: outputs
        that are not there and have not gone."""
        files = {c.name: c for c in configs.values() if isinstance(c, FilesOutputConfig)}
        folders = {str(c.folder) for c in files.values()}
        stay = {*absent} - configs.keys()
        # who has the folder now ends the day that it finds there
        left = {h.key: h for h in noted(self._engine) if h.folder not in folders and h.output not in stay}
        for key, held in [*left.items()]:
            config = files.get(held.output)
            if config is not None and await asyncio.to_thread(moved, held, str(config.folder)) is not None:
                del left[key]  # the output continues with it there
        for key in self._tasks.keys() - left.keys():
            await self._stop(key)
        for key, held in left.items():
            if key not in self._tasks or self._tasks[key].done():
                config = files.get(held.output) or former.get(held.output)
                known = config if isinstance(config, FilesOutputConfig) else None
                self._tasks[key] = asyncio.create_task(self._leave(held, known, nodes), name=f"leave-{held.output}")

    async def _leave(self, held: Held, config: FilesOutputConfig | None, nodes: Mapping[int, Node]) -> None:
        backoff = Backoff()
        output = _Former(held, config, self._gateway, self._engine, self._metrics, nodes)
        while True:
            try:
                await output.leave()
            except OSError as e:
                backoff.failed()
                wait, text = backoff.pause(), str(e) or type(e).__name__
                self._why[held.key] = held, text, output.advice(e)
                log.warning("day_not_left", output=held.output, folder=held.folder, error=text, retry_s=round(wait, 1),
                            next=output.advice(e))  # fmt: skip
                await asyncio.sleep(wait)
            else:
                self._why.pop(held.key, None)
                log.info("folder_left", output=held.output, folder=held.folder, day=held.stem)
                return

    async def _stop(self, key: str) -> None:
        task = self._tasks.pop(key)
        self._why.pop(key, None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def problems(self) -> Iterator[Problem]:
        """Say which days could not be made into files."""
        for held, why, what in self._why.values():
            yield Problem("day_not_left", f"output {held.output} has left {held.folder}, and {held.path.name} is not made into files: {why}", what)  # fmt: skip

    async def cancel(self) -> None:
        """End all tasks; the next start continues."""
        for key in list(self._tasks):
            await self._stop(key)

"""`replay`: send what is stored of a time range to one MQTT output again, beside the running gateway.

Every message has the id it had the first time. Retained topics are left alone: they hold what is newest, which a replay cannot know to
be older. The output's cursor does not move.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.config import Config, ConfigError, MqttOutputConfig, load
from gateway.core.model import Event
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outcome import document, mistake
from gateway.outputs import FORMATS
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known, Message, iso
from gateway.period import add_period
from gateway.store.engine import StoreError
from gateway.store.history import History

SILENCE_S = 30.0  # a broker that acknowledges nothing for so long is away


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb's options."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="NAME", help="the [output.NAME] that is to get them again")
    add_period(parser, "time of receipt")
    parser.add_argument("--dry-run", action="store_true", help="count, and send nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Replay; exit code 0 done, 1 the store or the broker failed, 2 usage."""
    try:
        config = load(args.config)
        output = _output(config, args.output)
        if args.until <= args.since:
            raise ConfigError(
                f"--to {iso(args.until)} is not after --from {iso(args.since)}", "give --from the earlier time"
            )
    except ConfigError as e:
        return _fail("usage", e, e.hint, 2)
    try:
        told = asyncio.run(_replay(config, output, args))
    except (StoreError, MqttError) as e:
        return _fail("failed", e, e.hint or "start the broker, or correct the output", 1)
    if args.json:
        document(told)
    else:
        verb = "would send" if args.dry_run else "sent"
        print(
            f"{verb} {told['messages']} messages of {told['events']} events to {output.name}, {told['from']} to {told['to']}"
        )
        if told["without_frame"]:
            print(f"{told['without_frame']} rows have no frame any more: their own times count as those of receipt")
    if not told["events"]:
        print("next: the store holds nothing of that time; times are those of receipt", file=sys.stderr)
    return 0


def _output(config: Config, name: str) -> MqttOutputConfig:
    for output in config.outputs:
        if output.name == name:
            if isinstance(output, MqttOutputConfig):
                return output
            hint = "citymote gateway export writes stored readings of any time to a file"
            raise ConfigError(
                f"output {name} is no MQTT output; it keeps current state or files, which a replay would spoil", hint
            )
    known = ", ".join(o.name for o in config.outputs)
    raise ConfigError(f"there is no output {name!r}", f"outputs of this configuration: {known}")


def stored(history: History, since: float, until: float) -> Iterator[Event]:
    """Yield what is stored of a time range: from frames what the spool has let go of, then the spool."""
    begins = history.spool_begins()
    if since < begins:
        yield from history.reports(since, min(until, begins))
    yield from history.spooled(since, until)


def messages(event: Event, output: MqttOutputConfig, sieve: Sieve, known: Known) -> list[Message]:
    """Return what is sent again of an event: all but what is retained."""
    seen = sieve.narrow(event, known.nodes)
    if seen is None:
        return []
    found = (m for name in output.formats for m in FORMATS[name](seen, output.root, known))
    return [m for m in found if not m.retain]


class _Sender:
    """Publishes with a bounded window; wait() ends when everything was acknowledged."""

    def __init__(self, session: MqttSession, window: int) -> None:
        self._session, self._window = session, window
        self._flight: set[int] = set()
        self._moved = asyncio.Event()
        session.on_puback = self._acked

    def _acked(self, mid: int) -> None:
        self._flight.discard(mid)
        self._moved.set()

    async def send(self, m: Message) -> None:
        await self.wait(self._window - 1)
        mid = self._session.publish(m.topic, m.payload, max(m.qos, 1), False)
        if mid is None:
            raise MqttError("connection lost")
        self._flight.add(mid)

    async def wait(self, most: int = 0) -> None:
        while len(self._flight) > most:
            self._moved.clear()
            moved = asyncio.ensure_future(self._moved.wait())
            done, _ = await asyncio.wait(
                (moved, self._session.closed), timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            moved.cancel()
            if self._session.closed in done:
                raise MqttError(f"connection lost: {self._session.closed.result()}")
            if not done:
                raise MqttError(f"no acknowledgement in {SILENCE_S:.0f} s")


async def _replay(config: Config, output: MqttOutputConfig, args: argparse.Namespace) -> dict[str, Any]:
    known, sieve = Known(config.id, config.nodes, output.filter, output.discovery), Sieve(output.filter)
    sender: _Sender | None = None
    session: MqttSession | None = None
    events = sent = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with (
        History(config.store, config.nodes) as history,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("events", total=None)
        try:
            if not args.dry_run:
                session = MqttSession(output.broker, f"citymote-{config.id}-replay-{secrets.token_hex(4)}")
                await session.connect()
                sender = _Sender(session, output.window)
            for event in stored(history, args.since, args.until):
                found = messages(event, output, sieve, known)
                events += bool(found)
                for m in found:
                    sent += 1
                    if sender is not None:
                        await sender.send(m)
                bar.advance(task)
            if sender is not None:
                await sender.wait()
        finally:
            if session is not None:
                await session.disconnect()
    return {
        "output": output.name,
        "from": iso(args.since),
        "to": iso(args.until),
        "events": events,
        "messages": sent,
        "without_frame": history.frameless,
        "dry_run": args.dry_run,
    }


def _fail(error: str, text: object, hint: str, code: int) -> int:
    mistake(error, str(text), hint)
    return code

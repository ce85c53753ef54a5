"""Outputs that were taken out, while what they left at their brokers is emptied: each in a task of its own, at a reload and at a start.

Where another output has the same address, that one empties it, since it knows what is its own (`neighbours.py`). At a start the file does not
name the output any more: its address is known, and whether that is enough to connect; a link to the same broker may have a login.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import structlog

from gateway.config import MqttOutputConfig, OutputConfig
from gateway.config.broker import Broker
from gateway.core.model import Node
from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError
from gateway.outputs.mqtt import MqttOutput, place_of
from gateway.outputs.vacate import ADVICE, leave
from gateway.store.engine import Engine
from gateway.store.ledger import Place

LOOK_S = 5.0  # how often it is looked whether brokers keep what taken-out outputs have published
LOOKS = 16  # outputs that were emptied, and at whose brokers it is looked again at a start; the newest

NO_LOGIN = (
    "put the output back as it was and reload, then take it out and reload while the gateway runs; or empty it by hand, then (and when that "
    "broker is gone for good): citymote gateway republish --output NAME --forget"
)

log = structlog.get_logger(__name__)


class Leaving:
    """Of one gateway. others: its outputs at brokers now."""

    def __init__(
        self, gateway: str, engine: Engine, metrics: Metrics, others: Callable[[], Sequence[MqttOutput]]
    ) -> None:
        self._gateway, self._engine, self._metrics, self._others = gateway, engine, metrics, others
        self._nodes: Mapping[int, Node] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, MqttError | None] = {}
        self._configs: dict[str, MqttOutputConfig] = {}  # as they were when they were taken out of this process
        self._deaf: set[str] = set()  # what would log in there is not known
        self._kept: set[str] = set()  # addresses of the outputs that there are
        self._left: dict[str, Place] = {}
        self._looked = float("-inf")

    def follow(
        self,
        former: Sequence[OutputConfig],
        wanted: Sequence[OutputConfig],
        nodes: Mapping[int, Node],
        brokers: Sequence[Broker] = (),
    ) -> None:
        """Empty what is left: of outputs that are taken out now (former), and of those before that was not emptied, or not looked at again.

        wanted: the outputs that there are; brokers: others of the configuration, whose logins may help.
        """
        self._nodes, self._looked = nodes, float("-inf")
        self._configs |= {place_of(c).key: c for c in former if isinstance(c, MqttOutputConfig)}
        self._kept = {place_of(c).address for c in wanted if isinstance(c, MqttOutputConfig)}
        self._deaf.clear()
        newest_first = sorted(self._engine.ledger.places().items(), key=lambda item: item[1][0], reverse=True)
        places = {key: place for key, (_, place) in newest_first if place.now is None}
        for key in [key for key, task in self._tasks.items() if key not in places or task.done()]:
            self._tasks.pop(key).cancel()
            self._failed.pop(key, None)
        looks = 0
        for key, place in places.items():
            if key in self._tasks or place.address in self._kept or not place.past or place.empty and place.sure:
                continue
            known = self._login(key, place, brokers)
            if known is None:
                if not place.empty:
                    self._deaf.add(key)
                continue
            looks += place.empty
            if looks <= LOOKS or not place.empty:
                self._begin(key, *known)

    def _login(self, key: str, place: Place, brokers: Sequence[Broker]) -> tuple[MqttOutputConfig, bool] | None:
        """Return a configuration with which an output's broker can be reached, and whether its login is another's; None where none is known."""
        if key in self._configs:
            return self._configs[key], False
        host, _, port = place.address.rpartition(":")
        own = Broker(host, int(port)) if place.bare else None
        there = next((b for b in brokers if (b.host, b.port) == (host, int(port))), None)
        broker = own or there
        if broker is None:
            return None
        shape = place.past[-1][1]
        config = MqttOutputConfig(place.output, broker, shape.root, shape.formats, discovery=shape.discovery)
        return config, own is None

    def _begin(self, key: str, config: MqttOutputConfig, borrowed: bool) -> None:
        failed = partial(self._failed.__setitem__, key)
        job = leave(config, key, self._gateway, self._engine, self._metrics, lambda: self._nodes, self._others, failed, borrowed)  # fmt: skip
        self._tasks[key] = asyncio.create_task(job, name=f"leave-{key}")

    def problems(self) -> Iterator[Problem]:
        """Say what stays at brokers, and why."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._left = {
                key: place
                for key, (_, place) in self._engine.ledger.places().items()
                if place.now is None and not place.empty and place.address not in self._kept
            }
        for key, place in self._left.items():
            task, e = self._tasks.get(key), self._failed.get(key)
            what = f"output {place.output} is no more at the broker {place.address}, which keeps what was retained"
            if key in self._deaf:
                yield Problem(
                    "output_left",
                    f"{what}: it was taken out while the gateway was stopped, and with it its login has gone from the file",
                    NO_LOGIN,
                )
            elif e is not None or task is None or task.done():
                yield Problem("output_left", f"{what}{': ' if e else ''}{e or ''}", (e and e.hint) or ADVICE)

    async def cancel(self) -> None:
        """End all tasks."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

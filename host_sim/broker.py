"""The embedded MQTT broker (amqtt) as a process of its own: `python -m host_sim.broker PORT`, or Broker() from a program."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class BrokerError(Exception):
    """The broker did not start; the text tells why."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def reachable(host: str, port: int, timeout_s: float = 3.0) -> bool:
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


class Broker:
    """An amqtt process on 127.0.0.1; port 0 takes a free one. Context manager."""

    def __init__(self, port: int = 0, wait_s: float = 20.0) -> None:
        if port and reachable("127.0.0.1", port, 0.3):
            raise BrokerError(
                f"port {port} of 127.0.0.1 is in use; next: name another, or use --broker 127.0.0.1:{port}"
            )
        if importlib.util.find_spec("amqtt") is None:
            raise BrokerError(
                "the embedded broker (amqtt) is not installed; next: make setup, install the extra `sim`, or use --broker HOST:PORT"
            )
        self.host, self.port = "127.0.0.1", port or free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "host_sim.broker", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
        )
        deadline = time.monotonic() + wait_s
        while not reachable(self.host, self.port, 0.2):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                _, err = self._process.communicate()
                raise BrokerError(
                    f"the embedded broker did not start on port {self.port}: {err.decode(errors='replace')[-800:]}"
                )
            time.sleep(0.05)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Filters(dict[str, Any]):
    """Subscriptions by filter. A walk over them sees them as they were when it began: amqtt waits on its way, and others subscribe meanwhile."""

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(super().keys()))

    def items(self) -> Any:
        return tuple(super().items())


def _amqtt() -> Any:
    """amqtt's Broker without two faults of 0.12 by which a new client hears what others subscribed to, or is thrown out when another
    one subscribes at that moment (`dictionary changed size during iteration`): which of a gateway's two connections that hit was chance.
    """
    from amqtt.broker import Broker as Amqtt

    class Mended(Amqtt):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._subscriptions = _Filters(self._subscriptions)

        async def _publish_retained_messages_for_subscription(
            self, subscription: tuple[str, int], session: Any
        ) -> None:
            own = self._subscriptions.get(subscription[0], ())
            if any(subscriber.client_id == session.client_id for subscriber, _qos in own):
                await super()._publish_retained_messages_for_subscription(subscription, session)

    return Mended


async def _serve(port: int) -> None:
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = _amqtt()(config)
    await broker.start()
    stop = asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(s, stop.set)
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    from host_sim.zygote import die_with_parent

    die_with_parent()
    asyncio.run(_serve(int(sys.argv[1])))

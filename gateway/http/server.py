"""/metrics (Prometheus text), /health and /ready (JSON), by GET and HEAD alone, from the loop that does the work.

If this answers, the loop runs. Nothing a client sends is kept or interpreted beyond its request line; connections, header bytes and the time
to send them are bounded, and every connection ends after its answer. Who says nothing makes room for who does. A request is answered only under
an address, `localhost`, or a configured name: a page in an operator's browser whose name was pointed at this machine reads nothing.
Whoever wants TLS or passwords puts a proxy in front.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from gateway.config import HttpConfig
from gateway.links.link import LinkError
from gateway.metrics import Metrics
from gateway.supervise import caught

MAX_CONNECTIONS = 16
MAX_HEADER = 8192
REQUEST_S = 5.0
JSON = "application/json"

log = structlog.get_logger(__name__)

Answer = tuple[int, str, bytes]
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 421: "Misdirected Request",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class HttpServer:
    """health() and ready() return (good, document). Raises LinkError on start when the port is taken."""

    def __init__(
        self,
        config: HttpConfig,
        metrics: Metrics,
        health: Callable[[], tuple[bool, dict[str, Any]]],
        ready: Callable[[], tuple[bool, dict[str, Any]]],
    ) -> None:
        self.config, self._metrics = config, metrics
        self._registry: CollectorRegistry = metrics.registry
        self._documents = {"/health": health, "/ready": ready}
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], bool] = {}  # in order of arrival; True once the request is there

    async def start(self) -> str:
        """Listen; return where."""
        host, port = self.config.host, self.config.port
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEADER, backlog=16)
        except OSError as e:
            raise LinkError(
                f"http: cannot listen on tcp {host}:{port}: {e.strerror or e}",
                f"stop what uses the port (ss -ltnp 'sport = :{port}'), or change http.bind",
            ) from e
        bound = self._server.sockets[0].getsockname()
        return f"{bound[0]}:{bound[1]}"

    async def close(self) -> None:
        """Stop listening and drop who is connected."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._open) >= MAX_CONNECTIONS and not self._make_room():
                self._metrics.refused["http_busy"] += 1
                return
            self._open[task] = False
            async with asyncio.timeout(REQUEST_S):
                await self._serve(reader, writer, task)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._metrics.refused["http_bad_request"] += 1
        except Exception as e:  # this connection's fault alone
            caught(self._metrics, "http", e)
        finally:
            self._open.pop(task, None)
            writer.close()

    def _make_room(self) -> bool:
        """Drop who has been connected longest without a request; False when all have made one."""
        silent = next((task for task, asked in self._open.items() if not asked), None)
        if silent is None:
            return False
        self._open.pop(silent)
        silent.cancel()
        self._metrics.refused["http_silent"] += 1
        return True

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self._open[task] = True
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        path, _, version = rest.partition(" ")
        try:
            code, kind, body = self._answer(method, path.partition("?")[0], version, lines)
        except Exception as e:
            caught(self._metrics, "http", e)
            code, kind, body = _problem(500, "a fault of the gateway; its log says more")
        self._metrics.totals["http_requests"] += 1
        allow = "Allow: GET, HEAD\r\n" if code == 405 else ""
        answer = (
            f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        writer.write(answer.encode() + (b"" if method == "HEAD" else body))
        await writer.drain()

    def _answer(self, method: str, path: str, version: str, headers: list[str]) -> Answer:
        if not version.startswith("HTTP/1."):
            self._metrics.refused["http_bad_request"] += 1
            return _problem(400, "this is HTTP/1.1: GET /health HTTP/1.1")
        hosts = [value.strip() for name, _, value in (h.partition(":") for h in headers) if name.lower() == "host"]
        if len(hosts) > 1:
            self._metrics.refused["http_bad_request"] += 1
            return _problem(400, "one Host, please")
        if hosts and not self._is_ours(hosts[0]):  # without one (HTTP/1.0) it is no browser
            self._metrics.refused["http_bad_host"] += 1
            return _problem(421, "ask by address or as localhost, or add the name to http.hosts")
        if method not in ("GET", "HEAD"):
            self._metrics.refused["http_not_allowed"] += 1
            return _problem(405, "read-only: GET and HEAD")
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        document = self._documents.get(path)
        if document is None:
            return _problem(404, "there are /metrics, /health and /ready")
        good, body = document()
        return 200 if good else 503, JSON, json.dumps(body).encode()

    def _is_ours(self, host: str) -> bool:
        """True for an address, localhost, and the names of the configuration, with or without a port (RFC 9110 section 7.2)."""
        name, colon, port = host.rpartition(":")
        bare_ipv6 = ":" in name and not name.startswith("[")  # without its brackets, all of it is the address
        if not colon or bare_ipv6 or port and not port.isdigit():
            name = host
        name = name.removeprefix("[").removesuffix("]").rstrip(".").lower()
        if name == "localhost" or name in self.config.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _problem(code: int, text: str) -> Answer:
    return code, JSON, json.dumps({"error": text}).encode()

"""/metrics (Prometheus text), /health and /ready (JSON), by GET and HEAD alone, from the loop that does the work.

If this answers, the loop runs. Nothing a client sends is kept or interpreted beyond its request line; connections, header bytes and the time
to send them are bounded, and every connection ends after its answer. Whoever wants TLS or passwords puts a proxy in front.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from gateway.config import HttpConfig
from gateway.links.link import LinkError
from gateway.metrics import Metrics

MAX_CONNECTIONS = 16
MAX_HEADER = 8192
REQUEST_S = 5.0
JSON = "application/json"

log = structlog.get_logger(__name__)

Answer = tuple[int, str, bytes]
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


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
        self._open: set[asyncio.Task[None]] = set()

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
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._open) >= MAX_CONNECTIONS:
                self._metrics.refused["http_busy"] += 1
                return
            self._open.add(task)
            async with asyncio.timeout(REQUEST_S):
                await self._serve(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._metrics.refused["http_bad_request"] += 1
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        path, _, version = rest.partition(" ")
        code, kind, body = self._answer(method, path.partition("?")[0], version)
        self._metrics.totals["http_requests"] += 1
        allow = "Allow: GET, HEAD\r\n" if code == 405 else ""
        lines = (
            f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        writer.write(lines.encode() + (b"" if method == "HEAD" else body))
        await writer.drain()

    def _answer(self, method: str, path: str, version: str) -> Answer:
        if not version.startswith("HTTP/1."):
            self._metrics.refused["http_bad_request"] += 1
            return _problem(400, "this is HTTP/1.1: GET /health HTTP/1.1")
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


def _problem(code: int, text: str) -> Answer:
    return code, JSON, json.dumps({"error": text}).encode()

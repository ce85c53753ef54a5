"""Read-only HTTP on loopback: metrics, health, readiness."""

from gateway.http.server import HttpServer

__all__ = ["HttpServer"]

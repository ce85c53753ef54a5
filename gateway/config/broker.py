"""How to reach an MQTT broker: shared by links and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.table import Table


@dataclass(frozen=True, slots=True)
class Broker:
    """host:port and how to log in. ca_file switches TLS on; the password is read from its file at every connect."""

    host: str
    port: int
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None


BROKER_KEYS = ("kind", "broker", "username", "password_file", "ca_file")


def broker(t: Table) -> Broker:
    """Read the keys of BROKER_KEYS. Raises ConfigError."""
    host, port = t.address("broker", 1883)
    password, ca = t.path("password_file", None), t.path("ca_file", None)
    for key, path in (("password_file", password), ("ca_file", ca)):
        if path is not None and not path.is_file():
            raise t.error(key, f"names {path}, which is not a file", "check the path")
    return Broker(host, port, t.get("username", str, None, '"a-user"'), password, ca)

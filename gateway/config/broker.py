"""How to reach an MQTT broker: shared by links and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from gateway.config.table import Table


@dataclass(frozen=True, slots=True)
class Broker:
    """host:port and how to log in. ca_file switches TLS on: the broker's certificate must be of that authority and for `host`.

    cert_file, key_file: our own certificate, for brokers that ask for one. Password and files are read at every connect, so that
    they can be renewed without a restart.
    """

    host: str
    port: int
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


TLS_KEYS = ("ca_file", "cert_file", "key_file")
BROKER_KEYS = ("kind", "broker", "username", "password_file", *TLS_KEYS)


def broker(t: Table) -> Broker:
    """Read the keys of BROKER_KEYS. Raises ConfigError."""
    host, port = t.address("broker", 8883 if "ca_file" in t.data else 1883)
    username, password = t.get("username", str, None, '"a-user"'), file_of(t, "password_file")
    if password is not None and username is None:
        raise t.error("password_file", "stands without username", 'add username = "..."')
    return Broker(host, port, username, password, *tls_files(t))


def tls_files(t: Table) -> tuple[Path | None, Path | None, Path | None]:
    """Return (ca_file, cert_file, key_file). Raises ConfigError for a file that is not there and for half a pair."""
    ca, cert, key = (file_of(t, k) for k in TLS_KEYS)
    if (cert is None) != (key is None):
        raise t.error(
            "cert_file" if key is None else "key_file", "stands alone", "give cert_file and key_file, or neither"
        )
    if cert is not None and ca is None:
        raise t.error("cert_file", "needs TLS", "add ca_file, the authority that signed the broker's certificate")
    return ca, cert, key


def file_of(t: Table, key: str) -> Path | None:
    """Return the path of a file that must be there, None when the key is not."""
    path = t.path(key, None)
    at = None if path is None else t.stat(key, path)
    if path is not None and (at is None or not S_ISREG(at.st_mode)):
        raise t.error(key, f"names {path}, which is not a file", "check the path")
    return path

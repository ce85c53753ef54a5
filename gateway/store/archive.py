"""`backup --all`: what a box made anew needs to be this gateway again, in one tar file: store, configuration, registry, rules, secrets.

Names in it are the files' own paths without the leading slash, so that `restore` (or `tar -xpf FILE -C /`) puts each back where the
configuration looks for it, with owner and mode. What it says of itself (citymote-backup.json) has the SHA-256 of each. The second copy of the
downlink counters' floor is left out: what is on a box knows more than any backup.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import Config, FilesOutputConfig
from gateway.config.advice import secret_files
from gateway.config.rights import denied
from gateway.store.backup import backup
from gateway.store.engine import StoreError

ABOUT = "citymote-backup.json"


def config_files(c: Config) -> list[Path]:
    """Return the files a configuration consists of and names: itself, registry, rules, passwords, tokens, keys, certificates."""
    names: list[Path | None] = [c.file, c.gateway.registry, c.gateway.rules, *secret_files(c)]
    for x in (*c.links, *(o for o in c.outputs if not isinstance(o, FilesOutputConfig))):
        of = getattr(x, "broker", x)
        names += [getattr(of, "ca_file", None), getattr(of, "cert_file", None)]
    return list(dict.fromkeys(f for f in names if f is not None))


def archive(c: Config, target: Path, now: float, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write a new tar file (mode 0600) while the gateway may be at work. now: Unix seconds. Raises StoreError; then there is no file.

    The store is copied as `backup` does: consistent as of one moment, checked, and marked, so that downlink counters move ahead.
    """
    if target.exists() or target.is_symlink():
        raise StoreError(f"{target} exists", "name a new file; nothing is overwritten")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    copy = target.with_name(f".{target.name}.{secrets.token_hex(8)}.db")
    try:
        counts = backup(c.store, copy, now, progress)
        files = config_files(c)
        for path in files:
            if path.exists() and not path.is_file():  # reading a pipe or a device might never end
                raise StoreError(f"backup to {target}: {path} is no file", "name a file in the configuration instead")
        held = {p: p.read_bytes() for p in files}  # what is digested is what is written, whoever writes them meanwhile
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as f:
            with tarfile.open(fileobj=f, mode="w", format=tarfile.PAX_FORMAT) as tar:
                about = {
                    "citymote": __version__,
                    "gateway": c.id,
                    "made": int(now),
                    "files": [str(p) for p in (*files, c.store)],
                    "sha256": {str(p): hashlib.sha256(body).hexdigest() for p, body in held.items()}
                    | {str(c.store): digest(copy)},
                }
                body = json.dumps(about, indent=2).encode()
                head = tarfile.TarInfo(ABOUT)
                head.size, head.mtime, head.mode = len(body), int(now), 0o600
                tar.addfile(head, io.BytesIO(body))
                for path, content in held.items():
                    info = tar.gettarinfo(os.path.realpath(path), _name(path))
                    info.type, info.linkname, info.size = tarfile.REGTYPE, "", len(content)
                    tar.addfile(info, io.BytesIO(content))
                store = tar.gettarinfo(copy, _name(c.store))
                owner = c.store.stat()  # whoever makes the backup is not who the gateway runs as
                store.uid, store.gid, store.mode = owner.st_uid, owner.st_gid, 0o600
                store.uname = store.gname = ""
                with copy.open("rb") as whole:
                    tar.addfile(store, whole)
            f.flush()
            os.fsync(fd)
        os.link(beside, target)  # never over a file that has come meanwhile
        return {"file": str(target), "bytes": target.stat().st_size, "files": about["files"],
                "events": counts["events"], "frames": counts["frames"]}  # fmt: skip
    except (OSError, tarfile.TarError) as e:
        raise StoreError(
            f"backup to {target}: {e}",
            denied(
                Path(getattr(e, "filename", None) or target.parent),
                "look at free space; a file of the configuration may have gone",
            ),
        ) from e
    finally:
        for path in (beside, copy):
            with suppress(FileNotFoundError):
                path.unlink()


def digest(file: Path) -> str:
    """Return the SHA-256 of a file as hex. Raises OSError."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _name(path: Path) -> str:
    """Return the name in the archive, for `tar -C /`."""
    return str(path.absolute()).lstrip("/")

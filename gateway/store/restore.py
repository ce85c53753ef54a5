"""Puts what `backup --all` wrote back where it was. What stands there is kept beside it, under its name and `.before-restore-<time>`.

Everything is unpacked and on the disk before anything is moved, so a full disk or a cut archive changes nothing. The configuration leaves its place
first and comes to it last: whenever a restore is killed, there is all of the old gateway or none that could start without its store, and the
next restore ends it. The second copy of the downlink
counters' floor stays where it is: it knows more than the backup.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import pwd
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.config.rights import denied, name_of
from gateway.store import private
from gateway.store.archive import ABOUT
from gateway.store.behind import behind
from gateway.store.engine import StoreError
from gateway.target import taken_by

BESIDE = ("-wal", "-shm")  # of a store; they go with it, so that what is kept can be opened
RESTORING = ".restoring-"
SQLITE = b"SQLite format 3\0"


def restore(archive: Path, now: float, root: Path = Path("/"), dry_run: bool = False) -> dict[str, Any]:
    """Unpack an archive below `root`; return the files that are there now and those that were kept. now: Unix seconds. Raises StoreError.

    Refused while a gateway works with the store, and for what is no archive of ours, or holds anything but the files it names. A dry run only
    looks: it is not refused for that, and `running` says it (None: this user may not know). All files are compared with the archive's checksums
    first; `checked` is False for an older archive, which has none. `left`: what the store that stood there publishes and the archive's has never
    known (`behind.py`); [] where none stood there, None where it cannot be read, and in a dry run.
    """
    stamp = at = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    if not root.is_dir():
        raise StoreError(f"--root {root} is no folder that is there", "correct it, or make it: nothing was changed")
    try:
        with _opened(archive) as tar:
            about, members = _look(archive, tar)
            _check(archive, tar, members, about["sha256"])
            config, store = (root / about["files"][n].lstrip("/") for n in (0, -1))
            running = _running(store, dry_run)
            if running and not dry_run:
                raise StoreError(f"a gateway works with {store}", "stop it first: systemctl stop citymote-gateway")
            targets = {root / m.name: m for m in members}
            there = sorted([*targets, *(Path(f"{store}{end}") for end in BESIDE)], key=config.__ne__)
            for t in targets:
                what = taken_by(t)
                if what not in (None, "a symbolic link"):  # a link is moved aside, as a file is
                    raise StoreError(
                        f"{t} is {what}, in whose place no file is put", "nothing was changed: move it away"
                    )
            times = 1
            while any(os.path.lexists(_kept(t, store, stamp)) for t in there):  # of a restore in the same second
                times += 1
                stamp = f"{at}-{times}"
            kept = [(old, _kept(old, store, stamp)) for old in there if os.path.lexists(old)]
            told = {
                "gateway": about["gateway"],
                "made": about["made"],
                "files": [str(t) for t in targets],
                "kept": [str(to) for _, to in kept],
                "running": running,
                "checked": about["sha256"] is not None,
                "left": None,
            }
            if dry_run:
                return told
            for part in (p for t in targets for p in t.parent.glob(f".{glob.escape(t.name)}{RESTORING}*")):
                part.unlink()  # of a restore that was killed; it may hold keys
            new = _unpacked(tar, targets, store, stamp)
    except (tarfile.TarError, EOFError) as e:
        raise StoreError(f"{archive} was cut, or damaged", "nothing was changed: take another backup") from e
    except OSError as e:
        hint = "look at the file and at free space"
        if isinstance(e, PermissionError) and os.geteuid() != 0:
            hint = f"run it as root, with sudo: it writes files of several users, and you are {name_of(os.geteuid())}"
        raise StoreError(f"restore from {archive}: {e}", f"nothing was changed: {hint}") from e
    try:
        for old, to in kept:
            old.rename(to)
            if old == config:
                private.sync(config.parent)
        for target in sorted(new, key=lambda t: (t == config, t != store)):
            if target == config:
                _sync(targets)
            new[target].rename(target)
            del new[target]
        _sync(targets)
    except OSError as e:
        raise StoreError(
            f"restore from {archive}: {e}",
            f"restore again; or move back what stood there, it is beside it with .before-restore-{stamp}",
        ) from e
    finally:
        for part in new.values():
            part.unlink(missing_ok=True)
    former = dict(kept).get(store)
    told["left"] = [] if former is None else behind(former, store)
    return told


def _opened(archive: Path) -> tarfile.TarFile:
    """Open an archive. Raises StoreError for what is none, OSError."""
    start = b""
    try:
        with archive.open("rb") as f:
            start = f.read(len(SQLITE))
        return tarfile.open(archive)
    except IsADirectoryError:
        raise StoreError(f"{archive} is a folder", "name the file that citymote gateway backup --all wrote") from None
    except FileNotFoundError:
        raise StoreError(f"{archive} does not exist", "check the path") from None
    except PermissionError as e:
        raise StoreError(f"{archive} cannot be read: {e.strerror}", denied(archive)) from e
    except (tarfile.TarError, EOFError) as e:
        if start == SQLITE:
            raise StoreError(
                f"{archive} is a copy of the store alone (a backup without --all), and no configuration is in it",
                "put it in the store's place by hand: stop the gateway, move gateway.db, gateway.db-wal and gateway.db-shm away, copy it to "
                "gateway.db, chown citymote: gateway.db, start (docs/operator/backup.md)",
            ) from None
        raise StoreError(
            f"{archive} is no backup of all, or it was cut", "name a file that citymote gateway backup --all wrote"
        ) from e


def _running(store: Path, looks_only: bool) -> bool | None:
    """True while a gateway works with the store. Raises OSError when that cannot be known, unless it only `looks`."""
    try:
        return private.in_use(store)
    except OSError:
        if looks_only:
            return None
        raise


def _sync(files: Iterable[Path]) -> None:
    for folder in {f.parent for f in files}:
        private.sync(folder)


def _look(archive: Path, tar: tarfile.TarFile) -> tuple[dict[str, Any], list[tarfile.TarInfo]]:
    """Return what an archive says of itself, and its files. Raises StoreError."""
    members = tar.getmembers()
    first = members[0] if members else None
    if first is None or first.name != ABOUT or first.size > 1 << 20 or (body := tar.extractfile(first)) is None:
        raise StoreError(f"{archive} is no backup of all", "name a file that citymote gateway backup --all wrote")
    try:
        about = json.load(body)
        named = {str(f).lstrip("/") for f in about["files"]}
        about |= {
            "gateway": str(about["gateway"]),
            "made": int(about["made"]),
            "files": [str(f) for f in about["files"]],
            "sha256": {str(f): str(d) for f, d in about["sha256"].items()} if "sha256" in about else None,
        }
        if not named:
            raise ValueError("names no file")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise StoreError(f"{archive}: its {ABOUT} cannot be read", "take another backup") from e
    files = members[1:]
    for m in files:
        if not m.isfile() or m.name not in named or ".." in Path(m.name).parts:
            raise StoreError(f"{archive} holds {m.name}, which no backup of ours does", "take another backup")
    if {m.name for m in files} != named:
        raise StoreError(f"{archive} lacks files that it names", "it was cut: take another backup")
    return about, files


def _check(archive: Path, tar: tarfile.TarFile, files: list[tarfile.TarInfo], digests: dict[str, str] | None) -> None:
    """Compare all files with what the archive says of them. Raises StoreError for the first that is another; digests: None of an older backup."""
    if digests is None:
        return
    expected = {name.lstrip("/"): digest for name, digest in digests.items()}
    for m in files:
        source = tar.extractfile(m)
        assert source is not None
        found = hashlib.sha256()
        while chunk := source.read(1 << 20):
            found.update(chunk)
        if found.hexdigest() != expected.get(m.name):
            raise StoreError(
                f"{archive} is damaged: its {m.name} is not what was backed up (SHA-256)",
                "nothing was changed: take another backup",
            )


def _unpacked(tar: tarfile.TarFile, targets: dict[Path, tarfile.TarInfo], store: Path, stamp: str) -> dict[Path, Path]:
    """Write all files beside their places, or none, and then no folder either; return where they are."""
    new: dict[Path, Path] = {}
    made: list[Path] = []
    try:
        for target, m in targets.items():
            made += [folder for folder in reversed(target.parents) if not folder.exists()]
            new[target] = _unpack(tar, m, target, target == store, stamp)
    except BaseException:
        for part in new.values():
            part.unlink()
        for folder in reversed(made):
            with suppress(OSError):  # it was not made, or someone has put something into it
                folder.rmdir()
        raise
    return new


def _unpack(tar: tarfile.TarFile, m: tarfile.TarInfo, target: Path, is_store: bool, stamp: str) -> Path:
    """Write a file beside its place, with owner and mode; return where it is. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}{RESTORING}{stamp}")
    source = tar.extractfile(m)
    assert source is not None
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as f:
            shutil.copyfileobj(source, f, 1 << 20)
            if f.tell() != m.size:
                raise EOFError(f"{m.name} is cut")
            if os.geteuid() == 0:
                os.fchown(fd, *_owner(m, target, is_store))
            os.fchmod(fd, m.mode & 0o777)
            f.flush()
            os.fsync(fd)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise
    return part


def _owner(m: tarfile.TarInfo, target: Path, is_store: bool) -> tuple[int, int]:
    """Return user and group: on another box the same user may have another number. A store is whose its folder is."""
    if is_store:
        folder = target.parent.stat()
        return folder.st_uid, folder.st_gid
    try:
        user = pwd.getpwnam(m.uname)
    except KeyError:
        return m.uid, m.gid
    return user.pw_uid, m.gid if m.gname in ("", "root") or m.gname != m.uname else user.pw_gid


def _kept(old: Path, store: Path, stamp: str) -> Path:
    for end in BESIDE:
        if old == Path(f"{store}{end}"):
            return Path(f"{store}.before-restore-{stamp}{end}")
    return Path(f"{old}.before-restore-{stamp}")

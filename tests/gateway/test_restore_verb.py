"""`restore` and the files of other users: what is refused says what it is and whose, and a dry run only looks."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.config.rights import denied
from gateway.store.engine import StoreError
from gateway.store.restore import restore
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_check import KEY, node, write

NOBODY = 65534
REPO = Path(__file__).parents[2]
PATHS = f"{REPO}{os.pathsep}{REPO / 'firmware'}"
AS_NOBODY = """
import os, sys
from gateway import __main__ as entry, verbs, export, replay, republish
from tools import cli, gateway_store, gateway_audit, gateway_command
import gateway.store.archive, gateway.store.backup, encodings.idna, encodings.utf_8_sig
uid = int(sys.argv.pop(1))
os.setegid(uid); os.seteuid(uid)
os.execv = lambda _, argv: (sys.argv.__setitem__(slice(None), ["gateway", *argv[3:]]), sys.exit(entry.main()))
cli.main()
"""


def citymote(*words: object, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "tools.cli"] if uid is None else ["-c", AS_NOBODY, str(uid)]
    return subprocess.run([sys.executable, *start, *map(str, words)], capture_output=True, text=True, timeout=60)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder on whose way others may go: pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="citymote-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of all of a small gateway in tmp_path/here."""
    (tmp_path / "here").mkdir()
    file = write(tmp_path / "here", node(1, KEY))

    async def store() -> None:
        SqliteEngine(tmp_path / "here" / "gateway.db").close()

    asyncio.run(store())
    target = tmp_path / "all.tar"
    assert citymote("gateway", "backup", target, "--config", file, "--all").returncode == 0
    return target


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("store", "copy of the store alone"),
        ("text", "no backup of all"),
        ("folder", "is a folder"),
        ("nothing", "does not exist"),
        ("empty", "no backup of all"),
        ("cut", "cut"),
    ],
)
def test_what_is_no_backup_of_all_is_named_without_the_insides_of_a_tar(
    tmp_path: Path, backup: Path, kind: str, words: str
) -> None:
    file = tmp_path / "file"
    match kind:
        case "store":
            copied = citymote("gateway", "backup", file, "--config", tmp_path / "here" / "gateway.toml")
            assert copied.returncode == 0
        case "text":
            file.write_text("hello " * 1000)
        case "folder":
            file.mkdir()
        case "empty":
            file.touch()
        case "cut":
            file.write_bytes(backup.read_bytes()[:20_000])
    for more in ([], ["--dry-run"]):
        done = citymote("gateway", "restore", file, "--json", *more)
        found = json.loads(done.stdout)
        assert done.returncode == 1 and words in found["text"], found
        said = done.stderr.replace(str(file), "")  # the folder's name is random: one had gz in it
        assert not any(w in said for w in ("gz", "bz2", "lzma", "ReadError", "header", "Errno")), said
        if kind == "store":
            assert "gateway.db" in found["hint"] and "chown citymote" in found["hint"]


def test_a_dry_run_looks_beside_a_running_gateway_and_a_restore_does_not(tmp_path: Path, backup: Path) -> None:
    fd = os.open(tmp_path / "here" / "gateway.db.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "here").iterdir()}
        done = citymote("gateway", "restore", backup, "--dry-run", "--json")
        found = json.loads(done.stdout)
        assert done.returncode == 0 and found["running"] is True and "stop the gateway" in done.stderr
        assert len(found["kept"]) >= 3 and all(".before-restore-" in name for name in found["kept"])
        assert len(found["files"]) == 3
        done = citymote("gateway", "restore", backup, "--json")
        assert done.returncode == 1 and "a gateway works with" in json.loads(done.stdout)["text"]
        assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "here").iterdir()} == before
    finally:
        os.close(fd)


def test_a_restore_that_fails_leaves_no_folder_behind(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, at each of the files; what was there before stays."""
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    copied = shutil.copyfileobj
    for full in range(3):
        written = 0

        def copy(source: Any, to: Any, size: int, full: int = full) -> None:
            nonlocal written
            if written == full:
                raise OSError(28, "No space left on device")
            written += 1
            copied(source, to, size)

        monkeypatch.setattr(shutil, "copyfileobj", copy)
        with pytest.raises(StoreError, match="No space"):
            restore(backup, 1e9, root)
        assert [str(f.relative_to(root)) for f in root.rglob("*")] == ["etc"]
    monkeypatch.setattr(shutil, "copyfileobj", copied)
    assert len(restore(backup, 1e9, root)["files"]) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("init", "--dir", ""),
        ("backup", "", "--config", "here/gateway.toml"),
        ("restore", ""),
        ("restore", "all.tar", "--root", ""),
        ("install", "--root", "", "--dry-run"),
        ("check", "--config", ""),
        ("audit", "--config", ""),
    ],
)
def test_an_empty_name_is_not_the_folder_that_one_happens_to_be_in(
    tmp_path: Path, backup: Path, words: tuple[str, ...]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    both = (["-m", "tools.cli", "gateway"], ["-m", "gateway"])  # the second has not all verbs
    for start in both if words[0] in ("init", "install", "check") else both[:1]:
        done = subprocess.run(
            [sys.executable, *start, *words], capture_output=True, text=True, timeout=60, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": PATHS},
        )  # fmt: skip
        assert done.returncode == 2 and "the name is empty" in done.stderr, done.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_a_backup_into_a_folder_says_what_to_name(tmp_path: Path, backup: Path) -> None:
    done = citymote("gateway", "backup", tmp_path, "--config", tmp_path / "here" / "gateway.toml")
    assert done.returncode == 1 and "is a folder" in done.stderr and f"{tmp_path}/gateway-backup.db" in done.stderr


def test_the_audit_log_of_a_node_that_never_was_is_a_mistake(tmp_path: Path, backup: Path) -> None:
    config = tmp_path / "here" / "gateway.toml"
    wrong = citymote("gateway", "audit", "--config", config, "--node", "nosuch", "--json")
    name = next(iter(load(config).nodes.values())).name
    known = citymote("gateway", "audit", "--config", config, "--node", name, "--json")
    assert known.returncode == 0 and json.loads(known.stdout)["entries"] == []
    assert wrong.returncode == 2 and "no node, nor was one" in json.loads(wrong.stdout)["text"]


@pytest.mark.parametrize("root", ["no/such/folder", "all.tar"])
def test_a_root_that_is_not_there_is_no_place_to_restore_to(tmp_path: Path, backup: Path, root: str) -> None:
    for more in ([], ["--dry-run"]):
        done = citymote("gateway", "restore", backup, "--root", tmp_path / root, *more)
        assert done.returncode == 1 and "--root" in done.stderr and "next: " in done.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be someone else")
def test_a_file_of_another_user_is_said_with_whose_it_is(tmp_path: Path, backup: Path) -> None:
    here = tmp_path / "here"
    here.chmod(0o755)
    config = here / "gateway.toml"
    for file, verb in (
        (config, ["check"]),
        (here / "nodes.toml", ["backup", tmp_path / "x"]),
        (here / "gateway.db", ["export", "--from", "2026-01-01"]),
        (here / "gateway.db", ["check", "--store"]),
    ):
        for f in here.iterdir():
            f.chmod(0o600 if f == file else 0o644)
        done = citymote("gateway", *verb, "--config", config, uid=NOBODY)
        assert done.returncode in (1, 2) and "belongs to root" in done.stderr, (file, verb, done.stderr)
        assert "you are nobody" in done.stderr and "sudo -u root" in done.stderr and "Traceback" not in done.stderr
    here.chmod(0o700)
    done = citymote("gateway", "check", "--config", config, uid=NOBODY)
    assert done.returncode == 2 and f"{here} belongs to root" in done.stderr, done.stderr
    here.chmod(0o755)
    (tmp_path / "all.tar").chmod(0o644)
    done = citymote("gateway", "restore", backup, "--root", tmp_path, uid=NOBODY)
    assert done.returncode == 1 and "as root, with sudo" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "all.tar").chmod(0o600)
    done = citymote("gateway", "restore", backup, "--dry-run", uid=NOBODY)
    assert done.returncode == 1 and "belongs to root" in done.stderr


def test_a_file_that_nothing_keeps_us_from_has_another_mistake(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert denied(tmp_path / "x", "other") == "other" and denied(tmp_path / "no", "other") == "other"


def test_what_is_no_utf_8_is_not_a_matter_of_rights(tmp_path: Path) -> None:
    file = write(tmp_path, node(1, KEY))
    (tmp_path / "nodes.toml").write_bytes(b'[[node]]\nname = "M\xfcnchen"\n')
    done = citymote("gateway", "check", "--config", file)
    assert done.returncode == 2 and "UTF-8" in done.stderr and "0xfc" in done.stderr and "belongs" not in done.stderr

# ruff: noqa: ASYNC221, ASYNC240 - small files, and no one else in the loop
"""A backup of all makes the same gateway elsewhere; a restore keeps what it finds, wherever it is killed."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.config import ConfigError, load
from gateway.store.engine import StoreError
from gateway.store.restore import restore
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_check import BASE, KEY, OUTPUT, node, write
from tests.gateway.world import REPO
from tools.cli import cli


async def test_a_backup_of_all_makes_the_same_gateway_on_another_box(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "rules.toml").write_text("")
    (here / "password").write_text("secret")
    login = 'username = "gw-7"\npassword_file = "password"\n'
    file = write(here, node(1, KEY), BASE.replace('"gw-7"', '"gw-7"\nrules = "rules.toml"') + OUTPUT + login)
    SqliteEngine(here / "gateway.db").close()
    target = tmp_path / "all.tar"
    (tmp_path / "victim").write_text("mine")
    done = CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all", "--json"])
    assert done.exit_code == 0, done.output
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(f.name for f in tmp_path.iterdir()) == ["all.tar", "here", "victim"]
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(["tar", "-xpf", str(target), "-C", str(there)], check=True, timeout=60)
    moved = there / str(here)[1:]
    assert {p.name for p in moved.iterdir()} == {"gateway.toml", "nodes.toml", "rules.toml", "password", "gateway.db"}
    assert {p.name: p.stat().st_mode & 0o777 for p in moved.iterdir() if p.name in ("nodes.toml", "gateway.db")} == {
        "nodes.toml": 0o600, "gateway.db": 0o600}  # fmt: skip
    c = load(moved / "gateway.toml")
    assert (c.id, list(c.nodes), c.nodes[1].key.hex()) == ("gw-7", [1], KEY)
    done = CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all", "--json"])
    assert done.exit_code == 1 and "exists" in done.output
    with tarfile.open(target) as tar:
        assert json.loads(tar.extractfile("citymote-backup.json").read())["gateway"] == "gw-7"  # type: ignore[union-attr]


def box(folder: Path, key: str) -> Path:
    """A gateway's files below a root, as absolute paths would lie."""
    (folder / "etc").mkdir(parents=True)
    return write(folder / "etc", node(1, key))


async def test_a_restore_keeps_what_it_finds_and_changes_nothing_when_it_cannot_end(tmp_path: Path) -> None:
    file = box(tmp_path / "here", KEY)
    engine = SqliteEngine(tmp_path / "here" / "etc" / "gateway.db")
    engine.close()
    target, root = tmp_path / "all.tar", tmp_path / "root"
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    there = root / str(file.parent)[1:]
    there.mkdir(parents=True)
    for name in ("gateway.toml", "nodes.toml", "gateway.db", "gateway.db-wal", "gateway.db.floor", "other"):
        (there / name).write_text(f"old {name}")
    (there / "nodes.toml").chmod(0o600)
    before = {f.name: f.read_bytes() for f in there.iterdir()}

    def run(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["gateway", "restore", str(target), "--root", str(root), *more])
        return done.exit_code, done.output

    assert run("--dry-run")[0] == 0 and {f.name: f.read_bytes() for f in there.iterdir()} == before
    for harm in (target.read_bytes()[:-9000], b"no archive", b""):
        whole = target.read_bytes()
        target.write_bytes(harm)
        code, said = run()
        target.write_bytes(whole)
        assert code == 1 and "error" in said and {f.name: f.read_bytes() for f in there.iterdir()} == before
    room, copy = iter((True, True)), shutil.copyfileobj

    def fill(*parts: Any) -> None:
        if not next(room, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(*parts)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(shutil, "copyfileobj", fill)
        code, said = run()
    assert code == 1 and "No space" in said and "nothing was changed" in said
    assert {f.name: f.read_bytes() for f in there.iterdir()} == before, "also when the last file has no room"
    lock = (there / "gateway.db.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert "a gateway works with" in run()[1]
    lock.close()
    assert run()[0] == 0
    names = {f.name for f in there.iterdir()}
    (stamp,) = {n.partition(".before-restore-")[2].removesuffix("-wal") for n in names if ".before-restore-" in n}
    kept = {f"{n}.before-restore-{stamp}" for n in ("gateway.toml", "nodes.toml", "gateway.db")}
    assert names == {*before, "gateway.db.lock", *kept, f"gateway.db.before-restore-{stamp}-wal"} - {"gateway.db-wal"}
    assert (there / f"nodes.toml.before-restore-{stamp}").read_text() == "old nodes.toml"
    assert (there / "gateway.db.floor").read_text() == "old gateway.db.floor", "it knows more than the backup"
    assert load(there / "gateway.toml").nodes[1].key.hex() == KEY
    assert (there / "nodes.toml").stat().st_mode & 0o777 == 0o600
    SqliteEngine(there / "gateway.db").close()


async def test_restores_within_one_second_keep_what_each_found(tmp_path: Path) -> None:
    file = box(tmp_path / "here", KEY)
    SqliteEngine(tmp_path / "here" / "etc" / "gateway.db").close()
    target, root = tmp_path / "all.tar", tmp_path / "root"
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    there = root / str(file.parent)[1:]
    there.mkdir(parents=True)
    for text in ("first", "second", "third"):
        (there / "nodes.toml").write_text(text)
        restore(target, 1_800_000_000.0, root)
    kept = {f.name: f.read_text() for f in there.glob("nodes.toml.before-restore-*")}
    assert [kept[name] for name in sorted(kept)] == ["first", "second", "third"], kept


KILLED = """\
import os, sys
from pathlib import Path
from gateway.store.restore import restore
rename, left = Path.rename, [int(sys.argv[1])]
def renamed(self, to):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return rename(self, to)
Path.rename = renamed
restore(Path(sys.argv[2]), 1_767_222_000.0, Path(sys.argv[3]))
"""


async def test_a_restore_that_is_killed_anywhere_leaves_the_old_gateway_or_none_and_the_next_one_ends_it(
    tmp_path: Path,
) -> None:
    """With the configuration in its place and no store beside it a gateway would begin anew, and empty its brokers."""
    file = box(tmp_path / "here", KEY)
    (file.parent / "nodes.toml").chmod(0o600)
    SqliteEngine(file.parent / "gateway.db").close()
    target = tmp_path / "all.tar"
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    whole = {name: (file.parent / name).read_bytes() for name in ("gateway.toml", "nodes.toml")}
    code, n, seen = 9, 0, set()
    while code == 9:
        root = tmp_path / f"root-{n}"
        there = root / str(file.parent)[1:]
        there.mkdir(parents=True)
        old = {name: f"old {name}".encode() for name in ("gateway.toml", "nodes.toml", "gateway.db", "gateway.db-wal")}
        for name, body in old.items():
            (there / name).write_bytes(body)
        code = subprocess.run(
            [sys.executable, "-c", KILLED, str(n), str(target), str(root)], cwd=REPO, timeout=60
        ).returncode
        if code == 9 and (there / "gateway.toml").exists():
            assert {name: (there / name).read_bytes() for name in old} == old, f"killed before move {n}"
        elif code == 9:
            with pytest.raises(ConfigError) as refused:
                load(there / "gateway.toml")
            assert "citymote gateway restore" in refused.value.hint
        seen.add((code, (there / "gateway.toml").exists()))
        restore(target, 1_767_222_000.0 + 60, root)
        assert not [f.name for f in there.iterdir() if "restoring" in f.name], "they hold keys"
        assert {name: (there / name).read_bytes() for name in whole} == whole
        SqliteEngine(there / "gateway.db").close()
        kept = [f.read_bytes() for f in there.iterdir() if ".before-restore-" in f.name]
        assert all(body in kept for body in old.values()), "what stood there is kept, however often it was begun"
        n += 1
    assert code == 0 and seen == {(9, True), (9, False), (0, True)}


async def test_a_restore_that_fails_while_it_moves_leaves_no_keys_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = box(tmp_path / "here", KEY)
    SqliteEngine(file.parent / "gateway.db").close()
    target = tmp_path / "all.tar"
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if to.name == "nodes.toml":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    (tmp_path / "root").mkdir()
    with pytest.raises(StoreError):
        restore(target, 1_767_222_000.0, tmp_path / "root")
    there = tmp_path / "root" / str(file.parent)[1:]
    assert [f.name for f in there.iterdir()] == ["gateway.db"]


@pytest.mark.parametrize("name", ["etc/shadow", "../up", "link"])
def test_a_restore_takes_nothing_that_a_backup_does_not_hold(tmp_path: Path, name: str) -> None:
    target, root = tmp_path / "all.tar", tmp_path / "root"
    root.mkdir()
    about = json.dumps({"gateway": "gw-7", "made": 1, "files": ["/a/gateway.db", "/../up", "/link"]}).encode()
    with tarfile.open(target, "w") as tar:
        head = tarfile.TarInfo("citymote-backup.json")
        head.size = len(about)
        tar.addfile(head, io.BytesIO(about))
        m = tarfile.TarInfo(name)
        if name == "link":
            m.type, m.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(m, io.BytesIO(b""))
    done = CliRunner().invoke(cli, ["gateway", "restore", str(target), "--root", str(root)])
    assert done.exit_code == 1 and "which no backup of ours does" in done.output and not any(root.iterdir())


async def test_a_restore_takes_no_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    file = box(tmp_path / "here", KEY)
    SqliteEngine(file.parent / "gateway.db").close()
    target, root = tmp_path / "all.tar", tmp_path / "root"
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    there = root / str(file.parent)[1:]
    there.mkdir(parents=True)
    os.mkfifo(there / "nodes.toml")
    done = CliRunner().invoke(cli, ["gateway", "restore", str(target), "--root", str(root)])
    assert done.exit_code == 1 and "nodes.toml is a pipe" in done.output and "nothing was changed" in done.output
    assert [f.name for f in there.iterdir()] == ["nodes.toml"] and stat.S_ISFIFO((there / "nodes.toml").stat().st_mode)


async def test_a_restore_writes_nothing_of_an_archive_of_which_a_bit_has_changed(tmp_path: Path) -> None:
    file = box(tmp_path / "here", KEY)
    SqliteEngine(file.parent / "gateway.db").close()
    target, root = tmp_path / "all.tar", tmp_path / "root"
    root.mkdir()
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    whole = target.read_bytes()
    store = whole.index(b"SQLite format 3")
    for at in (whole.index(KEY.encode()), store + 30, store + 5000):
        target.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        for more in ([], ["--dry-run"]):
            done = CliRunner().invoke(cli, ["gateway", "restore", str(target), "--root", str(root), *more])
            assert done.exit_code == 1 and "is damaged" in done.output and "nothing was changed" in done.output
            assert list(root.iterdir()) == []
    target.write_bytes(whole)
    done = CliRunner().invoke(cli, ["gateway", "restore", str(target), "--root", str(root), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["checked"] is True and done.stderr.count("note:") == 0
    assert KEY in (root / str(file.parent)[1:] / "nodes.toml").read_text()


async def test_an_archive_of_before_without_checksums_is_restored_with_a_word_about_it(tmp_path: Path) -> None:
    file = box(tmp_path / "here", KEY)
    SqliteEngine(file.parent / "gateway.db").close()
    target, old, root = tmp_path / "all.tar", tmp_path / "old.tar", tmp_path / "root"
    root.mkdir()
    assert CliRunner().invoke(cli, ["gateway", "backup", str(target), "--config", str(file), "--all"]).exit_code == 0
    sums: dict[str, str]
    for broken in (False, True):
        with tarfile.open(target) as a, tarfile.open(old, "w", format=tarfile.PAX_FORMAT) as b:
            for m in a.getmembers():
                body = a.extractfile(m).read()  # type: ignore[union-attr]
                if m.name == "citymote-backup.json":
                    about = json.loads(body)
                    sums = about.pop("sha256")
                    assert set(sums) == set(about["files"]) and len(sums) == 3
                    if broken:
                        about["sha256"] = {name: s for name, s in sums.items() if "nodes" not in name}
                    body = json.dumps(about).encode()
                    m.size = len(body)
                b.addfile(m, io.BytesIO(body))
        done = CliRunner().invoke(cli, ["gateway", "restore", str(old), "--root", str(root)])
        assert (done.exit_code, "has no checksums" in done.output) == ((1, False) if broken else (0, True)), done.output

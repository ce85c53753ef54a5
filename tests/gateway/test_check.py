# ruff: noqa: ASYNC221, ASYNC240 - small files, and no one else in the loop
"""`check`: what can be read but ought not to be used, who may read what, and that no key is ever quoted."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import service
from gateway.config import ConfigError, keys, load
from gateway.config.advice import findings
from gateway.config.identity import host_id
from gateway.config.keys import weak
from gateway.config.manual import KEYS
from gateway.config.table import masked
from gateway.config.template import config_text
from gateway.core.model import NodeState, fingerprint
from gateway.install import InstallError, install
from gateway.store import states
from gateway.store.engine import StoreError
from gateway.store.restore import restore
from gateway.store.sqlite import SqliteEngine
from gateway.verbs import check, init
from gateway.verbs import key as make_keys
from tests.gateway.world import REPO, Mote, Process
from tools.cli import cli

KEY = "9f8b3a51c07d2e64f1a9035be7c8d216"
BASE = '[gateway]\nid = "gw-7"\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
OUTPUT = '[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\n'


def node(number: int, key: str, *lines: str) -> str:
    return "\n".join(["[[node]]", f"id = {number}", f'key = "{key}"', *lines, ""])


def write(folder: Path, nodes: str, config: str = BASE + OUTPUT) -> Path:
    (folder / "nodes.toml").write_text(nodes)
    (folder / "nodes.toml").chmod(0o600)
    (folder / "gateway.toml").write_text(config)
    (folder / "gateway.toml").chmod(0o644)
    return folder / "gateway.toml"


def codes(file: Path) -> list[tuple[str, bool]]:
    return [(f.code, f.refuses) for f in findings(load(file))]


def fresh() -> str:
    return secrets.token_hex(16)


@pytest.mark.parametrize(
    "key",
    [
        "0" * 32, "f" * 32, "ab" * 16, "0123456789abcdef" * 2, "deadbeef" * 4, "000102030405060708090a0b0c0d0e0f", "101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100", "12345678901234567890123456789012", "0f0e0d0c0b0a09080706050403020100",
        "00000000000000000000000000000107", "636974796d6f74652d6b65792d303031", "2b7e151628aed2a6abf7158809cf4f3c", "2B7E151628AED2A6ABF7158809CF4F3C", "fedcba9876543210fedcba9876543210", "a1f3077b9c52e84d" * 2,
        *(h.example.strip('"') for section in KEYS.values() for key, h in section.items() if key in ("key", "next_key")),
    ],
)  # fmt: skip
def test_a_key_that_stands_in_a_document_or_follows_a_pattern_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    file = write(tmp_path, node(1, KEY) + node(2, key))
    assert codes(file) == [("weak_key", True)]
    assert check(file, as_json=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "weak_key" and f"{tmp_path}/nodes.toml:5: key of 'node-2'" in err
    assert key.lower() not in (out + err).lower()
    file = write(tmp_path, node(1, KEY, f'next_key = "{key}"'))
    assert codes(file) == [("weak_next_key", True)]


@given(st.binary(min_size=16, max_size=16))
def test_every_key_is_judged_and_a_random_one_passes(key: bytes) -> None:
    why = weak(key)
    assert why is None or key.hex() not in why
    assert weak(secrets.token_bytes(16)) is None


def test_the_keys_of_a_registry_are_judged_once_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25,000 of them were: for the log's lines, and again for the health of the gateway."""
    judged: list[bytes] = []
    monkeypatch.setattr(keys, "weak", lambda key: judged.append(key))
    monkeypatch.setattr(service.Service, "run", lambda self: asyncio.sleep(0))
    monkeypatch.setattr(service.logs, "setup", lambda _log: None)
    mine = [fresh() for _ in range(3)]
    before = signal.getsignal(signal.SIGHUP)
    try:
        assert service.run(write(tmp_path, "".join(node(i, k) for i, k in enumerate(mine, 1)))) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [k.hex() for k in judged] == mine


def test_every_key_that_a_document_of_ours_shows_is_refused() -> None:
    """Whoever copies an example into nodes.toml must not get away with it."""
    import re

    shown = set()
    for page in (
        *REPO.glob("*.md"),
        *(REPO / "gateway").rglob("*.md"),
        *(REPO / "docs").rglob("*.md"),
        *(REPO / "firmware").rglob("*.md"),
    ):
        shown |= set(re.findall(r'key = "([0-9a-fA-F]{32})"', page.read_text()))
    assert shown and {key for key in shown if weak(bytes.fromhex(key)) is None} == set()


def test_two_nodes_of_one_key_are_refused_whichever_of_their_keys_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codes(write(tmp_path, node(1, KEY) + node(2, KEY.upper()))) == [("duplicate_key", True)]
    assert codes(write(tmp_path, node(1, KEY) + node(2, fresh(), f'next_key = "{KEY}"'))) == [("duplicate_key", True)]
    file = write(tmp_path, node(1, fresh(), f'next_key = "{KEY}"') + node(2, KEY) + node(3, KEY))
    assert check(file) == 2
    err = capsys.readouterr().err
    assert err.count("is a key of 'node-1' too") == 2 and KEY not in err and "nodes.toml:6: " in err
    assert codes(write(tmp_path, node(1, KEY, f'next_key = "{fresh()}"') + node(2, fresh()))) == []
    counted = [KEY[:-4] + "d217", "d2" + KEY[2:], KEY[:24] + "00000001"]
    found = codes(write(tmp_path, node(1, KEY) + "".join(node(i, k) for i, k in enumerate(counted, 2))))
    assert found == [("related_key", True)] * 3


def test_what_ran_yesterday_starts_today_and_its_health_reports_it(tmp_path: Path) -> None:
    m = Mote(263)
    file = write(tmp_path, node(263, m.key.hex()) + node(264, m.key.hex(), 'name = "-1-1"') + node(265, "0" * 32))
    p = Process(file)
    try:
        told = [line for line in p.lines() if line["event"] == "configuration_doubtful"]
        assert {line["code"] for line in told} == {"duplicate_key", "weak_key", "bad_name"}
        health = p._await_ready(20)
        assert b"is all zeros" in health or b"is a key of" in health, health
        assert p.stop() == 0 and m.key.hex() not in p.log.read_text()
    finally:
        p.kill()


def test_a_key_written_into_any_other_place_is_never_quoted(tmp_path: Path) -> None:
    number = int(KEY, 16)
    spaced = " ".join(KEY[i : i + 2] for i in range(0, 32, 2))
    trials = [
        f'[[node]]\nid = 1\nname = "{KEY}-x"\nkey = "{KEY}"\n', f'[[node]]\nid = 1\nname = "{KEY.upper()}"\nkey = "{KEY}"\n',
        f'[[node]]\nid = "{KEY}"\nkey = "{KEY}"\n', f'[[node]]\nid = 0x{KEY}\nkey = "{KEY}"\n', f'[[node]]\nid = {number}\nkey = "{KEY}"\n',
        f'[[node]]\nid = 1\nkey = 0x{KEY}\n', f'[[node]]\nid = 1\n{KEY} = "key"\nkey = "{KEY}"\n', f'[[nodes]]\nid = 1\nkey = "{KEY}"\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\narea = "{KEY.upper()}"\n', f'[[node]]\nid = 1\nkey = "{KEY}"\nlat = "{KEY}"\nlon = 1\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\nvisibility = "{KEY}"\n', f'[[node]]\nid = 1\nkey = "{KEY}"\ninterval_s = {number}\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\nname = "{spaced}"\n', f'[[node]]\nid = 1\nname = "{KEY[:15]}G{KEY[16:]}"\nkey = "{KEY}"\n',
        f'[[node]]\nid = 1\nname = ["{"x" * 30}", "{KEY}"]\nkey = "{KEY}"\n', f'[[node]]\nid = 1\nkey = {KEY}\n', f'key = "{KEY}"\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\n[[node]]\nid = 1\nkey = "{KEY}"\n', f'node = "{KEY}"\n', f'{KEY}\n', f'[[node]]\n["{KEY}"]\nx = 1\n',
        f'[[node]]\nid = 1\nkey = "{KEY}\n',
    ]  # fmt: skip
    for nodes in trials:
        with pytest.raises(ConfigError) as e:
            load(write(tmp_path, nodes))
        for mistake in (e.value, *e.value.more):
            said = json.dumps(mistake.document()).lower()
            for secret in (KEY, KEY[:12], KEY[18:30], str(number)[:20], spaced[:20]):
                assert secret not in said, (nodes, said)


def test_what_is_no_key_stays_readable() -> None:
    for text in ("link.lora.allow holds 'aa555a000000000'", "holds 'aa555a0000000001'", "name is 'water-meter-koper-old-town-12'",
                 "environmentalmonitoringstation", "2026-03-01T00:00:00Z", "/var/lib/citymote/gateway.db"):  # fmt: skip
        assert masked(text) == text
    file = Path("/srv/0123456789abcdef0123456789abcdef/gateway.toml")
    assert str(ConfigError(f"{file}:3: node.name is {KEY!r}", "", file)) == f"{file}:3: node.name is '[32 hex digits]'"


def test_names_that_a_spreadsheet_or_a_shell_reads_otherwise_are_refused(tmp_path: Path) -> None:
    assert codes(write(tmp_path, node(1, KEY, 'name = "-1-1"'))) == [("bad_name", True)]
    assert codes(write(tmp_path, node(1, KEY, 'name = "_"'))) == [("bad_name", True)]
    assert codes(write(tmp_path, node(1, KEY, 'area = ["a", "-x"]'))) == [("bad_name", True)]
    assert codes(write(tmp_path, node(1, KEY), BASE + OUTPUT.replace("city]", "-city]"))) == [("bad_name", True)]
    assert codes(write(tmp_path, node(1, KEY), BASE.replace("gw-7", "-gw") + OUTPUT)) == [("bad_name", True)]
    assert codes(write(tmp_path, node(1, KEY, 'name = "1-1_a"'))) == []


def test_warnings_pass_and_strict_refuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, node(1, KEY, 'profile = "air_qualty"'))
    assert check(file, as_json=True) == 0
    out, err = capsys.readouterr()
    (warning,) = json.loads(out)["warnings"]
    assert (
        warning["code"] == "unknown_profile"
        and warning["hint"] == "did you mean `air_quality`?"
        and err.startswith("warning: ")
    )
    assert check(file, as_json=True, strict=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "unknown_profile" and err.startswith("error: ")
    for arguments, code in ((), 0), (("--strict",), 2):
        command = [sys.executable, "-m", "tools.cli", "gateway", "check", "--config", str(file), *arguments]
        assert subprocess.run(command, cwd=REPO, capture_output=True, timeout=60).returncode == code
    # one that something goes by is the operator's own
    (tmp_path / "rules.toml").write_text(
        '[rule.dry]\nquantity = "distance"\nbelow = 5\nseverity = "warning"\nprofile = "air_qualty"\n'
    )
    file.write_text(BASE.replace('"gw-7"', '"gw-7"\nrules = "rules.toml"') + OUTPUT)
    assert codes(file) == []
    assert codes(write(tmp_path, node(1, KEY) + node(2, fresh(), 'profile = "noise"'))) == []


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ('kind = "mqtt"\nbroker = "127.0.0.1:1"\n', [("published_twice", False)]),
        ('kind = "mqtt"\nbroker = "localhost:1"\nformats = ["native"]\n', [("published_twice", False)]),
        ('kind = "mqtt"\nbroker = "127.0.0.1:1"\nformats = ["senml-cbor"]\n', []),
        ('kind = "mqtt"\nbroker = "127.0.0.1:1"\nroot = "town"\n', []),
        ('kind = "mqtt"\nbroker = "127.0.0.1:2"\n', []),
        ('kind = "mqtt"\nbroker = "127.0.0.1:1"\nvisibility = ["personal"]\n', []),
        ('kind = "mqtt"\nbroker = "127.0.0.1:1"\nprofiles = "noise"\n', [("published_twice", False)]),
    ],
)
def test_two_outputs_that_publish_the_same_are_reported(
    tmp_path: Path, second: str, found: list[tuple[str, bool]]
) -> None:
    assert codes(write(tmp_path, node(1, KEY), f"{BASE}{OUTPUT}[output.two]\n{second}")) == found


def test_outputs_that_differ_in_who_they_are_for_are_right_and_one_folder_for_two_is_not(tmp_path: Path) -> None:
    by = [f'[output.{p}]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\nprofiles = "{p}"\n' for p in ("noise", "parking")]
    assert codes(write(tmp_path, node(1, KEY), BASE + "".join(by))) == []
    files = '[output.{}]\nkind = "files"\nfolder = "{}"\nformats = ["{}"]\n'
    config = BASE + files.format("a", "data", "jsonl") + files.format("b", "./data", "csv")
    assert codes(write(tmp_path, node(1, KEY), config)) == [("same_folder", True)]
    http = '[output.{}]\nkind = "ngsi-ld-http"\nurl = "http://127.0.0.1:1/"\n{}\n'
    assert codes(write(tmp_path, node(1, KEY), BASE + http.format("a", "") + http.format("b", ""))) == [
        ("published_twice", False)
    ]
    assert codes(write(tmp_path, node(1, KEY), BASE + http.format("a", "") + http.format("b", 'tenant = "t"'))) == []


def test_files_with_secrets_that_others_may_read_are_reported(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x")
    (tmp_path / "password").chmod(0o600)
    file = write(tmp_path, node(1, KEY), BASE + OUTPUT + 'username = "gw-7"\npassword_file = "password"\n')
    assert codes(file) == []
    for name, mode, found in (("nodes.toml", 0o644, "readable"), ("nodes.toml", 0o640, ""), ("password", 0o604, "readable"),
                              ("gateway.toml", 0o666, "writable"), ("gateway.toml", 0o640, "")):  # fmt: skip
        before = (tmp_path / name).stat().st_mode
        (tmp_path / name).chmod(mode)
        assert codes(file) == ([(found, False)] if found else []), (name, oct(mode))
        (tmp_path / name).chmod(before)


def test_a_folder_that_is_not_there_or_that_the_unit_may_not_write_to_is_reported(tmp_path: Path) -> None:
    file = write(tmp_path, node(1, KEY), BASE.replace('"gw-7"', '"gw-7"\nstore = "/nowhere/gateway.db"') + OUTPUT)
    assert codes(file) == [("no_store_folder", False)]
    etc = tmp_path / "etc/citymote"
    etc.mkdir(parents=True)
    files = '[output.a]\nkind = "files"\nfolder = "{}"\n'
    store = BASE.replace('"gw-7"', '"gw-7"\nstore = "/var/lib/citymote/gateway.db"')
    assert codes(write(etc, node(1, KEY), store + files.format("/var/lib/citymote/archive"))) == []
    file = write(etc, node(1, KEY), store + files.format("archive"))
    assert codes(file) == [("read_only", False)]
    drop_in = tmp_path / "etc/systemd/system/citymote-gateway.service.d/folder.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nReadWritePaths=/srv/a {etc}\n")
    assert codes(file) == []
    assert codes(write(etc, node(1, KEY), BASE + files.format("/var/lib/citymote/archive"))) == [], (
        "the store is below the drop-in's folder"
    )


def test_a_byte_order_mark_is_taken_and_lines_still_fit(tmp_path: Path) -> None:
    file = write(tmp_path, node(1, KEY))
    for f in (file, tmp_path / "nodes.toml"):
        f.write_bytes(b"\xef\xbb\xbf" + f.read_bytes())
    assert check(file) == 0
    file.write_bytes(file.read_bytes().replace(b"bind", b"bnd"))
    with pytest.raises(ConfigError, match=r"gateway.toml:5: .*is not a known key"):
        load(file)


def test_two_hosts_get_two_ids_and_one_host_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = tmp_path / "machine-id"
    monkeypatch.setattr("gateway.config.identity.MACHINE_ID", machine)
    told = set()
    for name, content, mac in (("Roof.koper.example", "a", 1), ("Roof.koper.example", "b", 1), ("roof", "a", 1), ("Roof.koper.example", "a", 2),
                               ("localhost", "a", 1), ("Škocjan_box!", "a", 1), ("x" * 80, "a", 1), ("-", "", 1)):  # fmt: skip
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        monkeypatch.setattr("uuid.getnode", lambda mac=mac: mac)
        machine.write_text(content)
        one = host_id()
        assert one == host_id() and one not in told
        told.add(one)
        file = write(tmp_path, node(1, KEY), config_text({"gateway.id": one}))
        assert load(file).id == one and one[0].isalnum()
    machine.unlink()
    assert host_id().startswith("gw-")
    init(tmp_path / "new")
    assert load(tmp_path / "new/gateway.toml").id == host_id()


def test_what_the_process_and_its_verbs_write_is_their_owners_alone(tmp_path: Path) -> None:
    file = write(tmp_path, node(1, KEY), BASE + OUTPUT + '[output.days]\nkind = "files"\nfolder = "days"\n')
    command = [sys.executable, "-m", "gateway", "run", "--config", str(file)]
    before = os.umask(0o022)
    try:
        p = Process(file)
        try:
            assert p.stop() == 0
        finally:
            p.kill()
        cited = [
            sys.executable,
            "-m",
            "tools.cli",
            "gateway",
            "backup",
            str(tmp_path / "copy.db"),
            "--config",
            str(file),
        ]
        assert subprocess.run(cited, cwd=REPO, capture_output=True, timeout=60).returncode == 0
        assert command[-1] == str(file)
    finally:
        os.umask(before)
    made = [
        p
        for p in tmp_path.rglob("*")
        if p.name not in ("nodes.toml", "gateway.toml") and p.suffix not in (".log", ".sock")
    ]
    assert {p.name for p in made} >= {"gateway.db", "copy.db", "days"}
    assert {p.name: oct(p.stat().st_mode & 0o077) for p in made if p.stat().st_mode & 0o077} == {}


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


def test_a_file_that_cannot_be_read_for_now_is_no_bad_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 keeps the unit down, so it is for what only an operator can mend; 1 is tried again."""
    file = write(tmp_path, node(1, KEY))
    read = Path.read_text
    failing: dict[str, OSError] = {}

    def read_text(self: Path, *args: str, **more: str) -> str:
        if self.name in failing:
            raise failing[self.name]
        return read(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    for name in ("gateway.toml", "nodes.toml"):
        for number, code in (
            (errno.EIO, 1),
            (errno.EMFILE, 1),
            (errno.ESTALE, 1),
            (errno.EACCES, 1),
            (errno.ENOENT, 2),
            (errno.EISDIR, 2),
        ):
            failing = {name: OSError(number, os.strerror(number))}
            assert service.run(file) == code, (name, number)
    failing = {"nodes.toml": OSError(errno.EIO, "I/O")}
    file.write_text(BASE.replace("bind", "bnd") + OUTPUT)
    assert service.run(file) == 2, "it would not start with a sound disk either"


def knows(store: Path, *nodes: tuple[int, dict[int, str]]) -> None:
    """Have a store know keys by node and epoch, as frames would have proven them."""
    with sqlite3.connect(store) as db:
        for number, proven in nodes:
            state = NodeState(keys={epoch: fingerprint(bytes.fromhex(key)) for epoch, key in proven.items()})
            db.execute("INSERT OR REPLACE INTO nodes VALUES (?, 0, ?)", (number, states.encode(state)))
    db.close()


@pytest.mark.parametrize("working", [True, False], ids=["gateway works", "gateway stopped"])
async def test_a_key_that_was_changed_under_its_epoch_is_named_before_a_gateway_refuses_its_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], working: bool
) -> None:
    new, held, other = fresh(), fresh(), fresh()
    engine = SqliteEngine(tmp_path / "gateway.db", [])
    if not working:
        engine.close()
    file = write(tmp_path, node(1, KEY) + node(2, new) + node(3, other, "epoch = 2") + node(4, held) + node(5, fresh()))
    knows(tmp_path / "gateway.db", (1, {0: KEY}), (2, {0: KEY}), (3, {0: KEY, 1: new}), (9, {0: KEY}))

    def files() -> dict[str, int]:
        return {
            f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir() if not f.name.endswith("-shm")
        }  # of readers, too

    before = files()
    assert check(file, as_json=True) == 2
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["mistakes"]
    assert (
        found["code"] == "key_changed" and f"{tmp_path}/nodes.toml:5: " in found["text"] and "node-2" in found["text"]
    )
    assert "epoch = 1" in found["hint"] and new not in out + err
    assert files() == before, "the store is only read"
    file = write(tmp_path, node(1, KEY) + node(2, new, "epoch = 1") + node(3, new, "epoch = 1"))
    assert check(file) == 2, "two nodes with one key, and not more"
    assert "key_changed" not in capsys.readouterr().err
    file = write(tmp_path, node(1, KEY, f'next_key = "{other}"', "next_epoch = 2") + node(2, new, "epoch = 1"))
    knows(tmp_path / "gateway.db", (1, {0: KEY, 2: held}))
    assert check(file) == 2, "also the key that is to come"
    assert "(epoch 2)" in capsys.readouterr().err
    if working:
        engine.close()


def test_a_store_that_is_new_absent_or_unreadable_does_not_stop_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, node(1, KEY))
    assert check(file) == 0
    (tmp_path / "gateway.db").write_bytes(b"")
    assert check(file) == 0 and "store_unread" not in capsys.readouterr().err
    (tmp_path / "gateway.db").write_bytes(b"no store at all" * 400)
    assert check(file, as_json=True) == 0
    out, err = capsys.readouterr()
    assert [w["code"] for w in json.loads(out)["warnings"]] == ["store_unread"] and "were not compared" in err


def test_every_option_of_the_service_is_one_of_the_command() -> None:
    """What a problem's `next` names ("run --accept") must work as the operator types it."""
    both = [
        subprocess.run(
            [sys.executable, "-m", *how, "--help"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for how in (("gateway", "run"), ("tools.cli", "gateway", "run"))
    ]
    assert {o for o in re.findall(r"--[a-z-]+", both[0]) if o != "--help"} <= set(re.findall(r"--[a-z-]+", both[1]))


MANY = {
    "gateway.toml": """\
[gateway]
id = "gw-1"
rules = "rules.toml"
drain = 4
[link.lora]
kind = "udp-forwarder"
bind = "127.0.0.1"
allow = ["xyz"]
[output.city]
kind = "mqtt"
broker = "127.0.0.1:1x"
formats = ["nativ", "senm"]
visibility = ["opn"]
""",
    "nodes.toml": """\
[[node]]
id = 1
name = "Aq 01"
key = "00"
profile = "air quality"
interval_s = 0
[[node]]
id = 1
name = "aq-02"
key = "9f8b3a51c07d2e64f1a9035be7c8d216"
visibility = "opn"
lat = 95.0
lon = 3
[[node]]
id = 70000000000
key = "9f8b3a51c07d2e64f1a9035be7c8d21"
nmae = "x"
[[node]]
name = "aq-02"
lat = 3
next_epoch = 3
area = ["A B", 3]
[[node]]
id = 5
name = "aq-05"
key = "af8b3a51c07d2e64f1a9035be7c8d216"
[[node]]
id = 5
name = "aq-05"
key = "af8b3a51c07d2e64f1a9035be7c8d216"
next_key = "af8b3a51c07d2e64f1a9035be7c8d216"
""",
    "rules.toml": """\
[rules]
time_zone = "Mars/Base"
setle_s = 3
[rule.a]
quantity = "pm11"
above = 50
severity = "warn"
[rule.b]
quantity = "pm10"
hours = "25:00-06:00"
[area.x]
kind = "lott"
nodes = ["nobody-*"]
[nonsense]
a = 1
""",
}


def mistakes(folder: Path, files: dict[str, str]) -> list[str]:
    """Return file:line of all that `check` names, in its order."""
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ConfigError) as e:
        load(folder / "gateway.toml")
    return [f"{m.file.name if m.file else None}:{m.line}" for m in (e.value, *e.value.more)]


def test_every_mistake_of_every_file_is_named_in_one_pass(tmp_path: Path) -> None:
    """Of entries with other mistakes too: a number given twice, the second wrong name of a list, rules beside a wrong configuration."""
    found = mistakes(tmp_path, MANY)
    assert sorted(x for x in found if x.startswith("nodes")) == sorted(
        f"nodes.toml:{n}" for n in (3, 4, 5, 6, 8, 11, 12, 15, 16, 17, 18, 18, 20, 21, 22, 22, 28, 31)
    )
    assert sorted(x for x in found if x.startswith("gateway")) == sorted(
        f"gateway.toml:{n}" for n in (4, 7, 8, 11, 12, 12, 13)
    )
    assert sorted(x for x in found if x.startswith("rules")) == sorted(
        f"rules.toml:{n}" for n in (None, 2, 3, 5, 8, 11, 12)
    )
    (tmp_path / "nodes.toml").write_text(MANY["nodes.toml"].replace("af8b3a51c07d2e64f1a9035be7c8d216", "00" * 16, 1))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(tmp_path / "gateway.toml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "key of 'aq-05' is all zeros" in done.stderr, "and keys that are no secret"


def test_lines_that_are_no_toml_are_all_named_and_hide_nothing_elsewhere(tmp_path: Path) -> None:
    broken = (
        node(1, KEY, "interval_s = 60s", "lat = 45,1")
        + node(2, "zz")
        + node(3, fresh(), "name = aq-3")
        + node(1, fresh())
    )
    config = (
        BASE.replace('"gw-7"', '"gw-7"\nrules = "rules.toml"') + OUTPUT.replace('"mqtt"', "mqtt") + "[log]\nlevle = 3\n"
    )
    rules = "[rule.a]\nabove = 5O\n[rule.b]\nbelow = 3\n"
    found = mistakes(tmp_path, {"nodes.toml": broken, "gateway.toml": config, "rules.toml": rules})
    assert found == [
        "gateway.toml:8", "nodes.toml:4", "nodes.toml:5", "nodes.toml:12", "nodes.toml:8", "nodes.toml:14",
        "gateway.toml:11", "rules.toml:2", "rules.toml:3",
    ]  # fmt: skip
    for text in (
        '[[node]]\nid = 1\narea = ["a",\nkey = 3\nname = "x"\n',
        '[[node]]\nname = """x\nid = 1\n',
        "[[node\nid = 1\n",
        "\0",
        "a = 1\na = 2\nb = \n",
    ):
        found = mistakes(tmp_path, {"nodes.toml": text, "gateway.toml": BASE + OUTPUT})
        assert 1 <= len(found) <= 3, (text, found)


@given(
    st.lists(
        st.sampled_from(
            [
                "[[node]]",
                "id = 1",
                "id = ",
                'name = "x"',
                'name = "',
                "key = [",
                "]",
                '"""',
                "lat = 1,5",
                "[",
                "a.b = 1",
                "\\",
            ]
        ),
        max_size=12,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_registry_keeps_check_from_ending(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "nodes.toml").write_text("\n".join(lines))
    (tmp_path / "gateway.toml").write_text(BASE + OUTPUT)
    try:
        load(tmp_path / "gateway.toml")
    except ConfigError as e:
        assert len({str(m) for m in (e, *e.more)}) == 1 + len(e.more) <= 100


def test_a_key_is_made_that_check_takes_and_two_are_never_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_keys(200) == 0
    made = capsys.readouterr().out.split()
    assert len(set(made)) == 200 and all(
        re.fullmatch("[0-9a-f]{32}", k) and weak(bytes.fromhex(k)) is None for k in made
    )
    assert check(write(tmp_path, "".join(node(n, k) for n, k in enumerate(made, 1)))) == 0
    done = CliRunner().invoke(cli, ["gateway", "key", "--help"])
    assert done.exit_code == 0 and "--number" in done.output
    assert make_keys(0) == make_keys(10**9) == 2


def test_an_environment_made_with_an_interpreter_of_a_home_folder_is_named_with_what_to_make_it_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """pyenv, uv and conda: the environment is where it belongs, and its python is a link into a folder that the unit cannot see."""
    monkeypatch.setattr(sys, "executable", "/opt/citymote/bin/python")
    links, real = {sys.executable: "/home/ana/.pyenv/versions/3.11.7/bin/python3.11"}, os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **more: links.get(path) or real(path, **more))
    with pytest.raises(InstallError) as e:
        install(tmp_path, dry_run=True)
    assert "/opt/citymote/bin/python is /home/ana/.pyenv" in str(e.value)
    assert "/usr/bin/python3 -m venv --clear /opt/citymote," in e.value.hint
    links.clear()
    assert install(tmp_path, dry_run=True).wrote
    monkeypatch.setattr(sys, "executable", "/root/venv/bin/python")
    with pytest.raises(InstallError) as e:
        install(tmp_path, dry_run=True)
    assert e.value.hint.startswith("python3 -m venv /opt/citymote")

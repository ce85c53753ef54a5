"""`check`: what can be read but ought not to be used, and who may read what; keys: test_check_keys.py, mistakes: test_mistakes.py."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import service
from gateway.config import ConfigError, load
from gateway.config.advice import findings
from gateway.config.identity import host_id
from gateway.config.template import config_text
from gateway.install import InstallError, install
from gateway.verbs import check, init
from tests.gateway.world import REPO, Process

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


@pytest.mark.parametrize(
    ("one", "two", "topics"),
    [
        ('quantities = "pm10"', 'quantities = "temperature"', ["city/v1/node/<node>/meta"]),
        ('quantities = "pm10"\nprofiles = "noise"', 'quantities = "temperature"\nprofiles = "parking"', None),
        ('quantities = "pm10"\nformats = ["senml"]', 'quantities = "temperature"\nformats = ["senml"]', None),
        ('formats = ["ngsi-ld"]', 'formats = ["ngsi-ld-keyvalues"]', ["city/v1/ngsi-ld/<Type>/<node>"]),
        ('formats = ["ngsi-ld"]', 'formats = ["ngsi-ld-keyvalues"]\nprofiles = "noise"', ["city/v1/ngsi-ld/<Type>/<node>"]),
        ('formats = ["ngsi-ld"]', 'formats = ["ngsi-ld-keyvalues"]\nroot = "town"', None),
        ('formats = ["native", "homeassistant"]', 'formats = ["native", "homeassistant"]\nroot = "town"', ["homeassistant/device/<node>/config"]),
        ('formats = ["native", "homeassistant"]', 'formats = ["native", "homeassistant"]\nroot = "town"\ndiscovery = "ha"', None),
        ('quantities = "pm10"\nformats = ["native", "ngsi-ld", "homeassistant"]',
         'quantities = "noise"\nformats = ["native", "ngsi-ld", "homeassistant"]'.replace("noise", "laeq"),
         ["city/v1/node/<node>/meta", "city/v1/ngsi-ld/<Type>/<node>", "homeassistant/device/<node>/config"]),
    ],
)  # fmt: skip
def test_two_outputs_that_say_different_things_on_the_same_topics_are_reported(
    tmp_path: Path, one: str, two: str, topics: list[str] | None
) -> None:
    outputs = "".join(
        f'[output.{name}]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\n{keys}\n'
        for name, keys in (("one", one), ("two", two))
    )
    found = findings(load(write(tmp_path, node(1, KEY), BASE + outputs)))
    said = [f for f in found if f.code == "same_topics"]
    assert [f.code for f in found] == ([] if topics is None else ["same_topics"])
    assert topics is None or all(t in said[0].text for t in topics)


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


def test_a_file_that_cannot_be_read_for_now_is_no_bad_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 keeps the unit down, so it is for what only an operator can mend; 1 is tried again."""
    file = write(tmp_path, node(1, KEY))
    opened = Path.open
    failing: dict[str, OSError] = {}

    def fails(self: Path, *args: Any, **more: Any) -> Any:
        if self.name in failing:
            raise failing[self.name]
        return opened(self, *args, **more)

    monkeypatch.setattr(Path, "open", fails)
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


def test_every_option_of_the_service_is_one_of_the_command() -> None:
    """What a problem's `next` names ("run --accept") must work as the operator types it."""
    both = [
        subprocess.run(
            [sys.executable, "-m", *how, "--help"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for how in (("gateway", "run"), ("tools.cli", "gateway", "run"))
    ]
    assert {o for o in re.findall(r"--[a-z-]+", both[0]) if o != "--help"} <= set(re.findall(r"--[a-z-]+", both[1]))


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


def test_a_balance_over_few_households_that_more_than_their_water_supplier_sees_is_reported(tmp_path: Path) -> None:
    config = BASE.replace('"gw-7"', '"gw-7"\nrules = "rules.toml"')
    meters = "".join(node(n, fresh(), f'name = "wm-{n}"') for n in range(1, 4)) + node(9, fresh(), 'name = "shaft"')
    area = '[area.street]\nkind = "balance"\ninflow = ["shaft"]\noutflow = ["wm-*"]\n'
    found = [("few_households", False)]
    for more, visibility, expected in (
        ("", "", found),
        ('visibility = "open"\n', 'visibility = ["open"]\n', found),
        ("", 'visibility = ["open"]\n', []),
        ('visibility = "personal"\n', "", []),
        ("least = 3\n", "", []),
        ('visibility = "personal"\n', 'visibility = ["personal"]\n', []),
    ):
        (tmp_path / "rules.toml").write_text(area + more)
        assert codes(write(tmp_path, meters, config + OUTPUT + visibility)) == expected, (more, visibility)

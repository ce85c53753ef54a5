"""A configuration file of any kind is read or refused with words, whatever it is and whatever stands in it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gateway import reloading, service
from gateway.config import ConfigError, load
from gateway.config import table as config_table
from tests.gateway.fuzz_gateway import GATEWAY, NODES, RULES

FILES = {"gateway.toml": GATEWAY, "nodes.toml": NODES, "rules.toml": RULES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    assert len(load(tmp_path / "gateway.toml").nodes) == 2
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(ConfigError) as e:
        load(folder / "gateway.toml")
    assert e.value.hint
    return str(e.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["a=" + "[" * 5000, "a=" + "{b=" * 5000])
def test_depth_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert f"{name}: nested too deep" in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_number_without_end_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("a = " + "9" * 5000)
    assert f"{name}: not TOML" in refused(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "is no file" in refused(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", FILES)
def test_a_device_is_not_read_to_its_end(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert "is no file" in refused(folder)


def test_a_file_beyond_the_bound_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_table, "MAX_FILE", 1 << 20)
    (folder / "nodes.toml").write_text(NODES + "#" * (1 << 20))
    assert "larger than 1 MiB" in refused(folder)


def test_lines_end_as_any_editor_writes_them(folder: Path) -> None:
    (folder / "nodes.toml").write_bytes(b"\xef\xbb\xbf" + NODES.replace("\n", "\r\n").encode())
    assert len(load(folder / "gateway.toml").nodes) == 2


@pytest.mark.parametrize("name", ["gateway.toml", "nodes.toml", "rules.toml"])
def test_a_link_that_leads_back_to_itself_is_a_mistake_of_one_line(folder: Path, name: str) -> None:
    file = folder / name
    file.unlink()
    file.symlink_to("between")
    (folder / "between").symlink_to(name)
    with pytest.raises(ConfigError, match=f"{name} leads back to itself through symbolic links") as e:
        load(folder / "gateway.toml")
    assert e.value.hint
    assert service.run(folder / "gateway.toml") == 2, "systemd does not try again"
    assert reloading.is_gateway(os.getpid(), folder / "gateway.toml") is False


@pytest.mark.parametrize("key", ["store", "registry", "rules"])
def test_a_name_with_a_nul_is_a_mistake_of_one_line(folder: Path, key: str) -> None:
    file = folder / "gateway.toml"
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith(key))
    file.write_text(text.replace("[gateway]", f'[gateway]\n{key} = "a\\u0000b"', 1))
    with pytest.raises(ConfigError, match=f"gateway.{key} holds a NUL"):
        load(file)


LONG = "x" * 300  # a part of a path has at most 255 bytes


@pytest.mark.parametrize("key", ["store", "registry", "rules"])
def test_a_name_that_is_too_long_is_a_mistake_of_one_line(folder: Path, key: str) -> None:
    file = folder / "gateway.toml"
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith(key))
    for name in (LONG, f"{LONG}/gateway.db", "a/" * 2100 + "b"):
        file.write_text(text.replace("[gateway]", f'[gateway]\n{key} = "{name}"', 1))
        with pytest.raises(
            ConfigError, match=rf"gateway.toml:\d+: gateway.{key} is a path of .* bytes, which no file can have"
        ) as e:
            load(file)
        assert "write " in e.value.hint and len(str(e.value)) < 300, "it is not repeated"


def test_outputs_name_files_that_are_too_long_or_that_may_not_be_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "gateway.toml"
    good = file.read_text()
    outputs = {
        "folder": '\n[output.f]\nkind = "files"\nfolder = "PLACE"\n',
        "token_file": '\n[output.f]\nkind = "ngsi-ld-http"\nurl = "http://127.0.0.1:1"\ntoken_file = "PLACE"\n',
        "password_file": '\n[output.f]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\nusername = "a"\npassword_file = "PLACE"\n',
    }
    for key, text in outputs.items():
        file.write_text(good + text.replace("PLACE", LONG))
        with pytest.raises(ConfigError, match=f"output.f.{key} is a path of .* bytes"):
            load(file)
    real = os.stat

    def stat(path: object, *args: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("closed/in"):  # root enters every folder, so the test cannot be made with modes
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)
    for key, text in outputs.items():
        file.write_text(good + text.replace("PLACE", "closed/in"))
        with pytest.raises(
            ConfigError, match=f"output.f.{key} names .*closed/in, which cannot be looked at: Permission denied"
        ) as e:
            load(file)
        assert e.value.hint


def test_a_start_with_a_name_that_is_too_long_is_a_bad_configuration(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, by which the unit stays down: 1 would be tried again without end."""
    for file in (folder / f"{LONG}.toml", folder / LONG / "gateway.toml"):
        assert service.run(file) == 2
        error = capsys.readouterr().err
        assert "File name too long" in error and "next: write a shorter name" in error


def test_a_store_that_is_a_folder_or_no_file_is_named_as_such(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to("pipe")
    file = folder / "gateway.toml"
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("store"))
    for store, what in (
        (".", "a folder"),
        ("/dev/null", "a device"),
        ("pipe", "a pipe"),
        ("link", "a pipe"),
        ("loop", "a symbolic link"),
    ):
        file.write_text(text.replace("[gateway]", f'[gateway]\nstore = "{store}"', 1))
        with pytest.raises(ConfigError, match=rf"gateway.toml:\d+: gateway.store is .*, {what}") as e:
            load(file)
        assert "name a file" in e.value.hint
    for store in ("new.db", "no/folder/yet.db"):
        file.write_text(text.replace("[gateway]", f'[gateway]\nstore = "{store}"', 1))
        assert load(file).store == folder / store

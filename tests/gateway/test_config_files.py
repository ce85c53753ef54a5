"""A configuration file of any kind is read or refused with words, whatever it is and whatever stands in it."""

from __future__ import annotations

import os
from pathlib import Path

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

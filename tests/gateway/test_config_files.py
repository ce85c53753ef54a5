"""A configuration file of any kind is read or refused with words, whatever it is and whatever stands in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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

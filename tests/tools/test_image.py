"""`citymote image`: the firmware as a ROMFS image, judged by mpremote's own packer and by the VM that mounts it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

import mpremote.romfs
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from host_sim import compile as mpy
from host_sim import romfs
from host_sim.vm.run import run_vm
from tools.image import command

NAMES = st.text("abz_0.", min_size=1, max_size=6).filter(lambda n: n.strip("."))
DRIVER = ("__init__", "modem", "async_modem", "sync_modem", "sx126x", "sx127x")


def trees(depth: int = 2) -> st.SearchStrategy[dict]:
    leaf = st.binary(max_size=300)
    return st.dictionaries(NAMES, leaf if not depth else leaf | trees(depth - 1), min_size=1, max_size=5)


def flat(tree: dict, below: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, entry in tree.items():
        found |= flat(entry, f"{below}{name}/") if isinstance(entry, dict) else {below + name: entry}
    return found


@given(trees(), st.randoms())
@settings(max_examples=60, deadline=None)
def test_any_tree_is_packed_as_mpremote_packs_it_in_whatever_order_it_comes(tree: dict, random) -> None:
    files = list(flat(tree).items())
    random.shuffle(files)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()):
            expected = mpremote.romfs.make_romfs(folder, mpy_cross=False)
    assert romfs.pack(dict(files)) == expected


@pytest.mark.parametrize("files", [{"š.py": b""}, {"/x": b""}, {"a//b": b""}, {"": b""}, {"a": b"", "a/b": b""}])
def test_names_that_a_romfs_cannot_hold_are_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(romfs.ImageError):
        romfs.pack(files)
    with pytest.raises(romfs.ImageError):
        romfs.pack(dict(reversed(files.items())))


def test_the_vm_reads_every_file_of_the_image_as_it_was_compiled(tmp_path: Path) -> None:
    rom = mpy.compiled(mpy.firmware_root())
    files = romfs.application(rom)
    part = tmp_path / "part"
    part.write_bytes(romfs.partition(romfs.image(rom)))
    script = """
import hashlib, os
def walk(folder):
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] & 0x4000:
            walk(path)
        else:
            with open(path, "rb") as f:
                print("\\x1e" + path[5:], hashlib.sha256(f.read()).digest().hex())
walk("/rom")
"""
    done = run_vm(script, partition=part)
    said = dict(line[1:].split(" ") for line in done.out.split("\n") if line.startswith("\x1e"))
    assert said == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, done.out + done.err
    assert not set(romfs.ROOT_FILES) & set(files), "what no update may replace"


def run(*args: str) -> tuple[int, dict]:
    done = CliRunner().invoke(command, [*args, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_the_verb_writes_the_same_bytes_twice_with_the_hash_and_the_manifest_of_the_slot(tmp_path: Path) -> None:
    code, first = run("--out", str(tmp_path / "one.romfs"))
    assert code == 0 and run("--out", str(tmp_path / "two.romfs"))[0] == 0
    data = (tmp_path / "one.romfs").read_bytes()
    assert data == (tmp_path / "two.romfs").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (first["sha256"], first["bytes"]) == (sha256, len(data)) and len(data) <= first["slot_bytes"]
    assert (tmp_path / "one.romfs.sha256").read_text() == f"{sha256}  one.romfs\n"
    assert json.loads((tmp_path / "one.romfs.json").read_text()) == {
        "version": romfs.version(),
        "image": [len(data), sha256],
    }
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{n}.romfs{e}" for n in ("one", "two") for e in ("", ".sha256", ".json")
    }


def a_driver(folder: Path) -> Path:
    (folder / "lora").mkdir()
    for name in DRIVER:
        (folder / "lora" / f"{name}.py").write_text(f"NAME = '{name}'\n")
    return folder


def test_only_the_driver_of_the_boards_chip_goes_into_the_image(tmp_path: Path) -> None:
    files = romfs.driver_files(a_driver(tmp_path), "sx1262")
    assert set(files) == {f"lora/{n}.mpy" for n in ("__init__", "modem", "async_modem", "sx126x")}
    assert set(romfs.driver_files(tmp_path, "sx1276")) == set(files) - {"lora/sx126x.mpy"} | {"lora/sx127x.mpy"}
    plain, more = run("--out", str(tmp_path / "a"))[1], run("--out", str(tmp_path / "b"), "--driver", str(tmp_path))[1]
    assert more["files"] == plain["files"] + 4 and more["sha256"] != plain["sha256"]


def test_a_driver_that_mip_installed_as_bytecode_goes_in_as_it_is(tmp_path: Path) -> None:
    (a_driver(tmp_path) / "lora" / "modem.py").unlink()
    (tmp_path / "lora" / "modem.mpy").write_bytes(b"M\x06\x00\x1e-as-it-came")
    files = romfs.driver_files(tmp_path, "sx1262")
    assert files["lora/modem.mpy"] == b"M\x06\x00\x1e-as-it-came" and len(files) == 4
    (tmp_path / "lora" / "modem.mpy").write_bytes(b"M\x05\x00\x1e-of-another-time")
    with pytest.raises(romfs.ImageError, match=r"modem.mpy is no bytecode of version 6.*next: "):
        romfs.driver_files(tmp_path, "sx1262")


def test_all_that_a_folder_lacks_is_said_at_once_and_the_folder_itself_is_known(tmp_path: Path) -> None:
    with pytest.raises(romfs.ImageError, match=r"has no lora/.*next: install lora, lora-async and lora-sx126x"):
        romfs.driver_files(tmp_path, "sx1262")
    folder = a_driver(tmp_path) / "lora"
    with pytest.raises(romfs.ImageError, match=f"is lora/ itself; next: name {tmp_path}"):
        romfs.driver_files(folder, "sx1262")
    for name in ("async_modem", "sx126x"):
        (folder / f"{name}.py").unlink()
    with pytest.raises(romfs.ImageError, match=r"async_modem.py is not there, nor is .*sx126x.py"):
        romfs.driver_files(tmp_path, "sx1262")


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    out = str(tmp_path / "x")
    (a_driver(tmp_path) / "lora" / "sx126x.py").unlink()
    done = CliRunner().invoke(command, ["--out", out, "--driver", str(tmp_path)])
    assert done.exit_code == 2 and "sx126x.py is not there" in done.stderr and "next: install lora" in done.stderr
    code, said = run("--out", out, "--driver", str(tmp_path), "--board", "esp32_generik")
    assert code == 2 and 'did you mean "esp32_generic"' in said["text"]
    code, said = run("--out", str(tmp_path / "no" / "folder" / "x"))
    assert (code, said["error"]) == (1, "not_written")
    assert not (tmp_path / "x").exists()


def test_an_image_that_does_not_fit_a_slot_is_refused() -> None:
    rom = mpy.compiled(mpy.firmware_root())
    with pytest.raises(romfs.ImageError, match="a slot 196608"):
        romfs.image(rom, {"lora/big.mpy": bytes(romfs.HALF)})


def test_an_image_takes_no_place_of_a_pipe_or_a_link(tmp_path: Path) -> None:
    out = tmp_path / "node.romfs"
    os.mkfifo(tmp_path / "node.romfs.sha256")
    done = CliRunner().invoke(command, ["--out", str(out)])
    assert done.exit_code == 2 and "node.romfs.sha256 is a pipe" in done.output and "next: --out" in done.output
    (tmp_path / "node.romfs.sha256").unlink()
    out.symlink_to(tmp_path / "elsewhere")
    done = CliRunner().invoke(command, ["--out", str(out)])
    assert done.exit_code == 2 and "is a symbolic link" in done.output
    assert out.is_symlink() and [f.name for f in tmp_path.iterdir()] == ["node.romfs"]

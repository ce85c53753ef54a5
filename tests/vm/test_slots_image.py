"""Update slots that hold a ROMFS image: what is not the image that was checked never runs, and the node comes back from the other slot (G4)."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from host_sim import compile as mpy
from host_sim import romfs
from host_sim.vm.run import run_vm
from tests.vm.test_engine_boot import BOARD, CONFIG, NVS, boot
from tests.vm.test_slots_boot import TELL

FILES = {"/config.json": json.dumps(CONFIG), "/board.json": BOARD}


@pytest.fixture(scope="module")
def image() -> romfs.Image:
    return romfs.image(mpy.compiled(mpy.firmware_root()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flash root without an application: what a node that runs from images has."""
    folder = tmp_path_factory.mktemp("root")
    for name in romfs.ROOT_FILES:
        shutil.copy(mpy.firmware_root() / name, folder / name)
    return folder


class Board:
    """A node whose partition and littlefs stay between calls; slot a has the image and is proven, b has it too and was staged."""

    def __init__(self, folder: Path, root: Path | None, image: romfs.Image) -> None:
        self.folder, self.root, self.image = folder, root, image
        self.part = folder / "romfs.img"
        self.part.write_bytes(image.data.ljust(romfs.HALF, b"\xff") * 2)
        first = image.proven()
        first |= {"/b/manifest.json": first["/a/manifest.json"], "/b/ok": first["/a/ok"]}
        first |= {name: text.encode() for name, text in FILES.items()}
        self.run(PUT % first)

    def run(self, script: str, **how) -> str:
        done = run_vm(script, node_dir=self.folder, firmware=self.root, partition=self.part, heap="130wK", **how)
        assert done.code == 0, done.out + done.err
        return done.out

    def write(self, slot: str, data: bytes, *, sha256: str = "", step: int = 1000, before: str = "", after: str = ""):
        """Boot, and write an image into a slot as an update does; before, after: what the script does besides."""
        given = self.folder / "given"
        given.mkdir(exist_ok=True)
        (given / "image").write_bytes(data)
        script = BEGIN + before + WRITE % (slot, sha256 or hashlib.sha256(data).hexdigest(), step) + after
        return run_vm(script, node_dir=self.folder, firmware=self.root, partition=self.part, heap="130wK", path=[given])

    def begin(self, **how) -> tuple[str, str, bool, str]:
        """(slot that boot.py chooses, what was put on sys.path, not the proven one, what is told)."""
        return tuple(json.loads(self.run(BEGIN, **how).split("\x1e")[1].split("\n")[0]))

    def boot(self, **how):
        return boot(self.folder, {}, nvs=NVS, firmware=self.root, partition=self.part, **how)

    def change(self, at: int, data: bytes) -> None:
        whole = bytearray(self.part.read_bytes())
        assert whole[at : at + len(data)] != data
        whole[at : at + len(data)] = data
        self.part.write_bytes(whole)

    def flip(self, at: int) -> None:
        self.change(at, bytes((self.part.read_bytes()[at] ^ 1,)))


PUT = """
import os
files = %r
for name in files:
    if name.rfind("/") > 0:
        try:
            os.mkdir(name[:name.rfind("/")])
        except OSError:
            pass
    with open(name, "wb") as f:
        f.write(files[name])
"""
BEGIN = """
import slots, sys, json
slots.begin()
assert "/rom" not in sys.path and "/rom/lib" not in sys.path, sys.path
try:
    with open("/problem.txt") as f:
        told = f.read()
except OSError:
    told = ""
assert slots.name in ("", sys.path[0][-1:]), sys.path
print("\\x1e" + json.dumps([slots.name, slots.path, slots.stray, slots.problem or told]))
"""


@pytest.fixture
def board(tmp_path: Path, root: Path, image: romfs.Image) -> Board:
    return Board(tmp_path, root, image)


def test_the_application_runs_in_place_from_the_image_of_the_proven_slot(board: Board) -> None:
    result = board.boot(prelude=TELL, seconds=900)
    assert (result["end"], result["crash"]) == ("running", "/rom_a/mote/app.mpy"), result


@pytest.mark.parametrize("where", ["its first byte", "its header", "a byte of a name", "the middle", "its last byte"])
def test_an_image_with_one_byte_changed_does_not_run_though_it_mounts(board: Board, where: str) -> None:
    data = board.image.data
    at = {"its first byte": 0, "its header": 3, "a byte of a name": data.index(b"sampler.mpy")}
    board.flip(at.get(where, len(data) // 2 if where == "the middle" else len(data) - 1))
    name, path, stray, told = board.begin()
    assert (name, path, stray) == ("b", "/rom_b", True) and told.startswith("slot a: "), told
    assert board.boot(prelude=TELL, seconds=900)["crash"] == "/rom_b/mote/app.mpy"


@pytest.mark.parametrize("kept", [0, 3, 4096, 70_000])
def test_an_image_that_was_cut_off_does_not_run(board: Board, kept: int) -> None:
    board.change(kept, b"\xff" * (len(board.image.data) - kept))
    assert board.begin()[:3] == ("b", "/rom_b", True)


def test_what_is_wrong_is_told_once_and_a_wake_takes_the_same_slot_as_the_boot_before(board: Board) -> None:
    board.flip(5000)
    assert board.begin()[3] == "slot a: SHA-256 differs"
    asleep = bytearray(300)
    asleep[0], asleep[7] = 0xC1, 1
    board.run("import os\nos.remove('/problem.txt')")
    for _ in range(2):
        assert board.begin(cause=4, rtc=asleep.hex()) == ("b", "/rom_b", True, "")


def test_a_wake_does_not_spend_its_time_on_the_hash_and_the_next_reset_does(board: Board) -> None:
    board.flip(5000)
    asleep = bytearray(300)
    asleep[0], asleep[7] = 0xC1, 1
    assert board.begin(cause=4, rtc=asleep.hex())[:3] == ("a", "/rom_a", False)
    assert board.begin(cause=2)[0] == "b"


def test_the_slot_that_took_over_is_proven_by_an_answer_and_the_rotten_one_may_be_written_again(board: Board) -> None:
    board.flip(5000)
    board.run(BEGIN + "slots.prove()\nassert not slots.stray\n")
    assert board.begin()[:3] == ("b", "/rom_b", False)
    assert "done 0.1.0" in board.write("a", board.image.data).out


def test_with_both_images_rotten_the_files_in_the_root_run(tmp_path: Path, image: romfs.Image) -> None:
    board = Board(tmp_path, None, image)
    board.flip(5000)
    board.flip(romfs.HALF + 5000)
    assert board.begin() == ("", "", True, "slot b: SHA-256 differs")
    result = board.boot(prelude=TELL, seconds=900)
    assert (result["end"], result["crash"]) == ("running", "/root/mote/app.mpy"), result
    assert result["problem"] == "", "it is in a status frame now"


def test_without_any_application_the_board_says_so_waits_for_a_technician_and_sleeps(board: Board) -> None:
    board.flip(5000)
    board.flip(romfs.HALF + 5000)
    result = board.boot()
    assert result["end"] == "Z3600000", result
    assert (
        "error: no application; slot a: SHA-256 differs; slot b: SHA-256 differs; slot /: ImportError" in result["log"]
    )
    assert "next: ctrl-C now" in result["log"]
    again = board.boot(prelude="import time\ndef visit(s):\n    raise KeyboardInterrupt\ntime.sleep = visit\n")
    assert again["end"] == "REPL", again
    assert "done 0.1.0" in board.write("a", board.image.data).out
    assert board.boot(seconds=600)["end"] == "running"


def test_a_corrupt_image_is_not_imported_from_where_the_port_mounts_it_unasked(board: Board) -> None:
    """The port mounts the first half at /rom and puts it on sys.path before boot.py: a board that gave both slots up must not run it all the same."""
    board.flip(5000)
    board.flip(romfs.HALF + 5000)
    assert "still there" in board.run("import os\nos.stat('/rom/mote/main.mpy')\nprint('still there')")
    name, path, _, told = board.begin()
    assert (name, path) == ("", "") and "no application" in told


@pytest.mark.parametrize("why", ["the MicroPython has no ROMFS", "there is no such partition"])
def test_a_board_that_lost_its_partition_runs_from_the_root_and_keeps_the_slots_marks(
    tmp_path: Path, image: romfs.Image, why: str
) -> None:
    Board(tmp_path, None, image)
    here = {"romfs": {"at": 0, "size": 0}} if why == "there is no such partition" else {}
    script = BEGIN + "assert slots.eligible('a') and slots.eligible('b')\n"
    done = run_vm(script, node_dir=tmp_path, heap="130wK", **here)
    assert done.code == 0, done.out + done.err
    assert json.loads(done.out.split("\x1e")[1]) == ["", "", True, ""]


def test_an_image_whose_application_fails_is_given_up_after_its_tries(board: Board) -> None:
    assert board.write("b", romfs.pack(BAD), after="slots.switch('b', 2)\n").code == 0
    rtc, ends = "", []
    for _ in range(2):
        result = board.boot(rtc=rtc, cause=2, seconds=5000)
        rtc = result["rtc"]
        ends.append(result["end"])
    assert all(e in ("soft", "Rhard") or e[0] == "Z" for e in ends), ends
    assert board.begin(cause=2)[:3] == ("a", "/rom_a", False)


def test_a_sound_image_on_trial_is_proven_by_an_answer(board: Board) -> None:
    assert board.write("b", board.image.data, step=4096, after="slots.switch('b')\n").code == 0
    board.run(BEGIN + "assert slots.trial == 'b'\nslots.prove()\n")
    assert board.begin()[:3] == ("b", "/rom_b", False)


def test_an_image_that_rots_while_it_is_on_trial_ends_the_trial(board: Board) -> None:
    assert board.write("b", board.image.data, step=700, after="slots.switch('b')\n").code == 0
    board.flip(romfs.HALF + 9000)
    board.run(BEGIN + "assert slots.name == 'a' and slots.rolled_back and not slots.trial and not slots.stray\n")


def test_the_power_goes_anywhere_while_an_image_is_written_and_the_slot_is_whole_or_never_runs(board: Board) -> None:
    """Every state a cut leaves behind boots the proven slot, and writing again succeeds."""
    began = "import sim_clock\nbegan = sim_clock.now\n"
    said = board.write("b", board.image.data, before=began, after="print('us', sim_clock.now - began)").out
    took = int(said.split("us ")[1])
    assert took > 1_000_000, "erasing and programming 31 blocks takes a second and a half"
    rng = random.Random(1)
    times = sorted([rng.randrange(took) for _ in range(20)] + [took - rng.randrange(200_000) for _ in range(20)])
    outcomes = {"never": 0, "whole": 0}
    for us in times:
        done = board.write("b", board.image.data, before=f"import sim\nsim.power_cut_in({us})\n")
        assert done.code and "Reset" in done.out, done.out
        said = board.run(BEGIN + "print('staged', slots.eligible('b'))")
        assert json.loads(said.split("\x1e")[1].split("\n")[0])[:3] == ["a", "/rom_a", False]
        there = board.part.read_bytes()[romfs.HALF :][: len(board.image.data)] == board.image.data
        if "staged True" in said:
            assert there, f"cut after {us} us"
        outcomes["whole" if "staged True" in said else "never"] += 1
    assert outcomes["never"] >= 30, outcomes
    assert "done 0.1.0" in board.write("b", board.image.data).out


REFUSED = {
    "another hash": ("b", b"\xd2\xcd\x31\x00" * 9, "0" * 64, "differs: image"),
    "no hash": ("b", b"\xd2\xcd\x31\x00" * 9, "00", "manifest"),
    "no ROMFS": ("b", b"#!/bin/sh\n", hashlib.sha256(b"#!/bin/sh\n").hexdigest(), "[Errno 19]"),
    "no application in it": ("b", romfs.pack({"x": b"1"}), hashlib.sha256(romfs.pack({"x": b"1"})).hexdigest(), "no app"),
    "too large": ("b", b"\0" * (romfs.HALF + 1), "0" * 64, "slot of 196608"),
    "the slot it runs from": ("a", b"\xd2\xcd\x31\x00" * 9, "0" * 64, "slot a"),
    "a slot that is not there": ("c", b"\xd2\xcd\x31\x00" * 9, "0" * 64, "slot c"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_an_image_is_refused_for(board: Board, why: str) -> None:
    slot, data, sha256, said = REFUSED[why]
    done = board.write(slot, data, sha256=sha256)
    assert done.code and said in done.out + done.err, done.out + done.err
    assert board.begin()[:3] == ("a", "/rom_a", False)
    if slot == "b" and why != "too large":
        assert "False" in board.run("import slots\nprint(slots.eligible('b'))")


@pytest.mark.parametrize(
    "manifest",
    [
        {"version": "1", "image": []},
        {"version": "1", "image": [1]},
        {"version": "1", "image": ["9", "0" * 64]},
        {"version": "1", "image": [9, 7]},
        {"version": "1", "image": [-1, "0" * 64]},
        {"version": "1", "image": [10**9, "0" * 64]},
        {"version": "1", "image": [9, "zz" * 32]},
        {"version": 1, "image": [9, "0" * 64]},
        {"version": "1", "image": [9, "0" * 64], "files": {}},
        {"version": "1"},
        [],
        7,
    ],
    ids=str,
)
def test_a_manifest_of_any_shape_is_refused_by_its_name(board: Board, manifest: object) -> None:
    script = PUT % {"/b/manifest.json": json.dumps(manifest).encode()}
    said = board.run(
        script + "import slots\ntry:\n    slots.stage('b')\nexcept ValueError as e:\n    print('refused', e)\n"
    )
    assert "refused" in said


def test_writing_less_or_more_than_was_announced_stages_nothing(board: Board) -> None:
    script = """
import slots, slotwork
slots.begin()
w = slotwork.Writer("b", 5000)
w.write(b"x" * 4999)
try:
    w.close("1", "0" * 64)
except ValueError as e:
    print("short:", e)
try:
    w.write(b"xx")
except ValueError as e:
    print("long:", e)
assert not slots.eligible("b")
"""
    said = board.run(script)
    assert "short: 4999 of 5000 bytes" in said and "long: more than 5000 bytes" in said


WRITE = """
import os, slotwork
slot, sha256, step = %r, %r, %r
w = slotwork.Writer(slot, os.stat("/host0/image")[6])
with open("/host0/image", "rb") as f:
    while True:
        data = f.read(step)
        if not data:
            break
        w.write(data)
print("done", w.close("0.1.0", sha256))
"""
BAD = {
    "mote/__init__.py": b"VERSION = '2'\ndef nobody(*args):\n    pass\n",
    "mote/main.mpy": b"no bytecode",
    "motewire/__init__.mpy": b"nor this",
}

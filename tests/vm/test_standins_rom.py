"""The partition "romfs" of the stand-ins: what the esp32 port does with it, and flash that is NOR."""

from pathlib import Path

import pytest

from host_sim.vm.run import VmResult, run_vm

EMPTY = b"\xd2\xcd\x31\x00"  # a ROMFS without files
HALF = 8192


def run(script: str, tmp_path: Path, content: bytes = EMPTY, **how) -> VmResult:
    part = tmp_path / "part"
    if not part.exists():
        part.write_bytes(content.ljust(2 * HALF, b"\xff"))
    return run_vm(script, partition=part, **how)


def test_an_image_at_the_start_is_mounted_before_anything_of_ours_runs(tmp_path: Path) -> None:
    done = run(
        "import sys, os\nos.listdir('/rom')\nprint(sys.path[sys.path.index('.frozen'):][:4])\n"
        "import vfs\nprint(vfs.rom_ioctl(1), len(memoryview(vfs.rom_ioctl(2, 0))), vfs.rom_ioctl(7))\n",
        tmp_path,
    )
    assert done.out.split("\n")[:2] == ["['.frozen', '/rom', '/rom/lib', '/lib']", f"1 {2 * HALF} -22"], done


def test_an_erased_partition_is_not_mounted(tmp_path: Path) -> None:
    done = run("import sys, os\nassert '/rom' not in sys.path\nos.listdir('/rom')\n", tmp_path, b"")
    assert done.code and "ENOENT" in done.out + done.err, done


def test_without_such_a_partition_the_ioctl_says_so_by_a_number(tmp_path: Path) -> None:
    done = run_vm(
        "import vfs, esp32\nprint(vfs.rom_ioctl(1), vfs.rom_ioctl(2, 0), esp32.Partition.find(1, label='romfs'))",
        romfs={"at": 0, "size": 0},
    )
    assert done.out == "0 -22 []\n", done
    done = run_vm("import vfs\nvfs.rom_ioctl(1)")
    assert "AttributeError" in done.out + done.err, "an image without MICROPY_VFS_ROM"


def test_what_is_programmed_without_an_erase_only_clears_bits_and_what_is_written_stays(tmp_path: Path) -> None:
    script = """
import esp32, vfs
part = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="romfs")[0]
rom = memoryview(vfs.rom_ioctl(2, 0))
part.writeblocks(2, bytes([0x0F]) * 4096)
part.writeblocks(2, bytes([0x3C]) * 16, 0)
assert rom[8192] == 0x0C and rom[8192 + 16] == 0x0F
part.writeblocks(2, bytes([0x3C]) * 16)
assert rom[8192] == 0x3C and rom[8192 + 16] == 0xFF, "erased first"
buf = bytearray(4)
part.readblocks(2, buf, 14)
assert buf == b"\\x3c\\x3c\\xff\\xff"
assert (part.ioctl(4, 0), part.ioctl(5, 0)) == (4, 4096)
try:
    part.writeblocks(4, b"x")
except OSError:
    print("ends")
"""
    done = run(script, tmp_path)
    assert done.out == "ends\n", done
    assert (tmp_path / "part").read_bytes()[8192:8209] == b"\x3c" * 16 + b"\xff"


@pytest.mark.parametrize("us", [10, 20_000, 44_000, 46_000, 51_000])
def test_a_power_cut_leaves_an_erase_or_a_program_done_in_part(tmp_path: Path, us: int) -> None:
    content = EMPTY.ljust(HALF, b"\0") * 2
    script = f"""
import esp32, sim
part = esp32.Partition.find(1, label="romfs")[0]
sim.power_cut_in({us})
part.writeblocks(2, b"\\x55" * 4096)
"""
    done = run(script, tmp_path, content)
    assert done.code and "Reset" in done.out + done.err, done
    block = (tmp_path / "part").read_bytes()[8192 : 8192 + 4096]
    if us < 45_000:
        erased = 4096 * us // 45_000
        assert block[:erased] == b"\xff" * erased and block[erased:] == content[8192 + erased : 8192 + 4096]
    else:
        assert 0 < block.count(0x55) < 4096 and set(block) == {0x55, 0xFF}, "programmed up to where there was time"

"""Where the radio driver is imported from: an image of MicroPython may freeze a part of `lora`, and a package comes from one place.

boards/LILYGO_T3_S3/manifest.py of MicroPython 1.29 freezes lora, lora-sx126x and lora-sync, not lora-async. The port's path is "", .frozen, /lib, so what
lies in the root (mip install --target /) or in a slot is found first, what lies in /lib never is.
"""

import json
import shutil
from pathlib import Path

import pytest

from host_sim import boards, romfs
from host_sim import compile as mpy
from host_sim.vm.run import run_vm
from tests.vm.test_engine_boot import BOARD, CONFIG, NVS, SCRIPT
from tests.vm.test_slots_image import PUT

CHIP = "sx1262"
INIT = "ORIGIN = %r\nfrom .sx126x import *\n"
SX126X = "try:\n    from .async_modem import AsyncModem\n    class AsyncSX1262(AsyncModem):\n        pass\nexcept ImportError:\n    pass\n"
ASYNC = "class AsyncModem:\n    def __init__(self, *args, **kwargs):\n        raise RuntimeError('made from ' + __import__('lora').ORIGIN)\n"
FREEZE = """
import sys, json, os
where = [p for p in sys.path if p[:5] == "/host" and "frozen" in os.listdir(p)][0]
sys.path.remove(where)
sys.path.insert(sys.path.index(".frozen"), where)  # what the image has frozen besides
def tell():
    try:
        from lora import AsyncSX1262
        import lora
        said = lora.ORIGIN
    except ImportError as e:
        said = "ImportError"
    print("\\x1e" + json.dumps(said))
"""
INSTALL = """
def install(folder, files):
    for name in ("/lib", folder) if folder[:5] == "/lib/" else (folder,):
        os.mkdir(name)
    for name in files:
        with open(folder + "/" + name, "w") as f:
            f.write(files[name])
install(%r, %r)
"""


def driver(origin: str) -> dict[str, str]:
    return {"__init__.py": INIT % origin, "modem.py": "", "async_modem.py": ASYNC, "sx126x.py": SX126X}


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """As the image has it: no async_modem."""
    folder = tmp_path / "image"
    (folder / "lora").mkdir(parents=True)
    (folder / "frozen").write_text("")
    for name, text in driver("frozen").items():
        if name != "async_modem.py":
            (folder / "lora" / name).write_text(text)
    return folder


def radio() -> dict[str, object]:
    return {"radio": boards.wiring("esp32_generic")["radio"]}


def told(out: str) -> object:
    return json.loads(out.split("\x1e")[1].split("\n")[0])


@pytest.mark.parametrize(("folder", "origin"), [("/lora", "root"), ("/lib/lora", "ImportError")])
def test_what_mip_puts_into_the_root_is_found_before_what_an_image_froze(
    frozen: Path, folder: str, origin: str
) -> None:
    script = FREEZE + INSTALL % (folder, driver("root")) + "tell()\n"
    done = run_vm(script, path=[frozen], hw=radio(), lora="driver")
    assert done.code == 0 and told(done.out) == origin, done.out + done.err


def test_the_driver_in_a_slots_image_is_found_before_what_an_image_froze(frozen: Path, tmp_path: Path) -> None:
    home = tmp_path / "driver"
    (home / "lora").mkdir(parents=True)
    for name, text in driver("slot").items():
        (home / "lora" / name).write_text(text)
    image = romfs.image(mpy.compiled(mpy.firmware_root()), romfs.driver_files(home, CHIP))
    part = tmp_path / "romfs.img"
    part.write_bytes(romfs.partition(image))
    put = PUT % image.proven()
    root = tmp_path / "root"
    root.mkdir()
    for name in romfs.ROOT_FILES:
        shutil.copy(mpy.firmware_root() / name, root / name)
    script = FREEZE + put + "exec(open('/root/boot.py').read())\ntell()\n"
    done = run_vm(script, path=[frozen], hw=radio(), lora="driver", partition=part, firmware=root, heap="130wK")
    assert done.code == 0 and told(done.out) == "slot", done.out + done.err


@pytest.mark.parametrize(("folder", "words"), [("/lib/lora", "ImportError"), ("/lora", "made from root")])
def test_a_node_without_its_radio_driver_says_so_and_measures_all_the_same(
    frozen: Path, tmp_path: Path, folder: str, words: str
) -> None:
    files = {"/config.json": json.dumps(CONFIG | {"log": 1}), "/board.json": BOARD}
    prelude = FREEZE + INSTALL % (folder, driver("root"))
    hw = {"i2c": {"0": {"0x0d": "qmc5883l"}}} | radio()
    done = run_vm(
        SCRIPT % (prelude, files, 900), path=[frozen], node_dir=tmp_path, heap="130wK", hw=hw, lora="driver", nvs=NVS
    )
    said = told(done.out)
    assert isinstance(said, dict) and said["end"] == "running" and said["level"] == 0, done.out + done.err
    assert "radio: " in done.out and words in done.out, done.out

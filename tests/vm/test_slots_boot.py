"""Update slots as the port boots them: a node on its proven slot is given an update that cannot work, and comes back by itself (G4)."""

import json
from pathlib import Path

import pytest

from host_sim import compile as mpy
from host_sim.vm.run import run_vm
from tests.vm.test_engine_boot import BOARD, CONFIG, NVS, boot

FILES = {"/config.json": json.dumps(CONFIG), "/board.json": BOARD}
FILL = """
import os, binascii, json
def fill(name, files):
    os.mkdir("/" + name)
    os.mkdir("/" + name + "/mote")
    listed = {}
    for file in files:
        with open("/" + name + "/" + file, "wb") as f:
            f.write(files[file])
        listed[file] = [len(files[file]), binascii.crc32(files[file])]
    with open("/" + name + "/manifest.json", "w") as f:
        json.dump({"version": "2", "files": listed}, f)
"""
SWITCH = FILL + "fill('b', %r)\nimport slots\nslots.stage('b')\nslots.switch('b', 3)\n"
INIT = b"VERSION = '2'\ndef nobody(*args):\n    pass\n"
BAD = {
    "its import fails": {"mote/main.py": b"def main(): pass\n", "mote/__init__.py": b"1 / 0\n"},
    "its import ends the program": {"mote/main.py": b"def main(): pass\n", "mote/__init__.py": b"raise SystemExit\n"},
    "its import never ends": {
        "mote/main.py": b"import time\nwhile True:\n    time.sleep(1)\n",
        "mote/__init__.py": INIT,
    },
    "its main() ends": {"mote/main.py": b"def main(): pass\n", "mote/__init__.py": INIT},
    "its main() fails": {"mote/main.py": b"def main(): {}[0]\n", "mote/__init__.py": INIT},
    "it is no Python": {"mote/main.py": b"\xff\x00\x80(", "mote/__init__.py": INIT},
    "it lives on without an answer": {
        "mote/main.py": b"import time, slots\ndef main():\n    import machine\n    dog = machine.WDT(timeout=9000)\n"
        b"    t = 0\n    while not slots.overdue(t):\n        time.sleep(5)\n        dog.feed()\n        t += 5\n    machine.reset()\n",
        "mote/__init__.py": INIT,
    },
}


def update(node: Path, script: str, **how) -> None:
    """What a technician or an update over the air does to the flash."""
    done = run_vm(script, node_dir=node, heap="130wK", **how)
    assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("why", BAD)
def test_an_update_that_cannot_work_is_given_up_after_its_tries(tmp_path: Path, why: str) -> None:
    boot(tmp_path, FILES, nvs=NVS, seconds=60)
    update(tmp_path, SWITCH % BAD[why])
    rtc, ends = "", []
    for _ in range(3):
        result = boot(tmp_path, {}, nvs=NVS, rtc=rtc, cause=2, seconds=5000)
        ends.append(result["end"])
        rtc = result["rtc"]
    assert all(e in ("soft", "Rhard", "Rwdt") or e[0] == "Z" for e in ends), ends
    result = boot(tmp_path, {}, nvs=NVS, rtc=rtc, cause=2, seconds=1200)
    assert result["end"] == "running", (ends, result)
    level = "from mote import supervisor\nassert supervisor.level == 0, supervisor.level\n"
    assert boot(tmp_path, {}, nvs=NVS, rtc=result["rtc"], cause=2, prelude=level, seconds=900)["end"] == "running"


WHOLE = (
    FILL.replace('os.mkdir("/" + name + "/mote")', "[os.mkdir('/' + name + '/' + d) for d in ['mote'] + %r]")
    + """
sources = {}
for name in %r:
    with open("/host0/" + name, "rb") as f:
        sources[name] = f.read()
fill("a", sources)
import slots
slots.stage("a")
slots.switch("a")
"""
)
TELL = """
import sim_clock, sys
def tell():
    with open("/crash.txt", "w") as f:
        f.write(sys.modules["mote.app"].__file__)
sim_clock.at(600 * 1000000, tell)
"""


def whole() -> dict[str, bytes]:
    """The application as it goes into a slot: compiled, without the files that live in the root."""
    rom = mpy.compiled(mpy.firmware_root())
    return {
        str(p.relative_to(rom)): p.read_bytes()
        for p in sorted(rom.rglob("*.mpy"))
        if p.relative_to(rom).parts[0] == "mote" and p.relative_to(rom).parts[1] not in ("drivers", "dsp", "profiles")
    } | {
        str(p.relative_to(rom)): p.read_bytes()
        for name in ("drivers", "dsp", "profiles")
        for p in sorted((rom / "mote" / name).glob("*.mpy"))
        if p.stem in ("__init__", "errors", "qmc5883l", "occupancy", "opening", "parking")
    }


def test_the_application_runs_from_the_slot_it_was_put_in(tmp_path: Path) -> None:
    files = whole()
    folders = sorted({str(Path(f).parent) for f in files} - {"mote"})
    data = tmp_path / "slot"
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    boot(tmp_path, FILES, nvs=NVS, seconds=60)
    update(tmp_path, WHOLE % (folders, sorted(files)), path=[data])
    result = boot(tmp_path, {}, nvs=NVS, cause=2, prelude=TELL, seconds=900)
    assert result["end"] == "running", (result["crash"], result["log"][-1500:])
    assert result["crash"] == "/a/mote/app.mpy", result

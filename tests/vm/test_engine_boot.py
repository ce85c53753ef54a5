"""boot.py and main.py as the port runs them: power-on, crash loops, lost keys, broken files. Never the REPL (G4)."""

import json
import tomllib
import zlib
from pathlib import Path

import pytest

from host_sim.vm.run import run_vm

ROOT = Path(__file__).resolve().parents[2]
BOARD = json.dumps(tomllib.loads((ROOT / "boards" / "esp32_generic.toml").read_text()))
CONFIG = {"node": 263, "profile": "parking", "sample_s": 10, "log": 0}
NVS = {"citymote": {"key": "00" * 16, "epoch": 0, "ceiling": 0}}
SCRIPT = """
%s
import json, sim, sim_clock, machine, esp32
sim.values["occupied"] = 0.0
FILES = %r
for name in FILES:
    with open(name, "w") as f:
        f.write(FILES[name])
class Enough(BaseException): pass
def enough(): raise Enough
sim_clock.at(%d * 1000000, enough)
end = "REPL"
try:
    for name in ("boot.py", "main.py"):
        with open("/rom/" + name) as f:
            source = f.read()
        exec(compile(source, name, "exec"), globals())
except sim.Reset as e:
    end = e.kind + str(e.arg)
except Enough:
    end = "running"
except SystemExit:
    end = "soft"
try:
    with open("/crash.txt") as f:
        crash = f.read()
except OSError:
    crash = ""
print("\\x1e" + json.dumps({"end": end, "rtc": machine._state["rtc"].hex(), "nvs": esp32._store, "crash": crash}))
"""


def with_known_time() -> str:
    """RTC memory (hex) of a node whose clock has been set: layout of mote/hal/rtc.py."""
    image = bytearray(300)
    image[0:2], image[4] = b"\xc1\x02", 2
    image[296:300] = zlib.crc32(image[:296]).to_bytes(4, "big")
    return image.hex()


def boot(node: Path, files: dict[str, str], *, seconds: int = 900, prelude: str = "", **how):
    done = run_vm(
        SCRIPT % (prelude, files, seconds), node_dir=node, heap="130wK", hw={"i2c": {"0": {"0x0d": "qmc5883l"}}}, **how
    )
    for line in done.out.split("\n"):
        if line.startswith("\x1e"):
            return json.loads(line[1:])
    raise AssertionError(done.out[-2000:] + done.err[-3000:])


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path


def whole(**config) -> dict[str, str]:
    return {"/config.json": json.dumps(CONFIG | config), "/board.json": BOARD}


def test_a_provisioned_node_comes_up_and_keeps_running_without_a_gateway(node: Path) -> None:
    result = boot(node, whole(), nvs=NVS, seconds=3600)
    assert result["end"] == "running", result
    assert result["nvs"]["citymote"]["boots"] == 1
    assert result["nvs"]["citymote"]["ceiling"] == 64 + 1
    assert bytes.fromhex(result["rtc"])[2] == 0, "ten minutes of work clear the crash counter"


@pytest.mark.parametrize(
    ("files", "nvs", "word"),
    [
        ({}, NVS, "config.json"),
        ({"/config.json": "{nonsense"}, NVS, "config.json"),
        (whole(profile="zebra"), NVS, "zebra"),
        (whole(link="pigeon"), NVS, "pigeon"),
        (whole() | {"/board.json": "{}"}, NVS, "radio"),
        (whole(alarms=[{"q": "pm10", "above": 5}]), NVS, "pm10"),
        (whole(sensors={"qmc5883l": {"speed": 9}}), NVS, "qmc5883l"),
    ],
)
def test_what_cannot_work_is_recorded_and_followed_by_a_reset(node: Path, files, nvs, word: str) -> None:
    result = boot(node, files, nvs=nvs)
    assert result["end"] == "Rhard", result
    assert word in result["crash"], result["crash"]


@pytest.mark.parametrize("nvs", [{}, {"citymote": {"key": "00" * 16, "epoch": 0}}])
def test_a_node_without_key_or_counter_sleeps_by_the_hour_and_starts_afresh_once_provisioned(node: Path, nvs) -> None:
    rtc = ""
    for _ in range(8):  # never the REPL, never a crash loop that sheds sensors
        result = boot(node, whole(), nvs=nvs, rtc=rtc, cause=4)
        rtc = result["rtc"]
        assert result["end"] == "Z3600000" and "NeedsKey" in result["crash"], result
        assert bytes.fromhex(rtc)[2] == 0
    fresh = {"citymote": {"key": "11" * 16, "epoch": 1, "ceiling": 0}}
    assert boot(node, whole(), nvs=fresh, rtc=rtc, cause=2)["end"] == "running"


def test_a_crash_loop_sleeps_ever_longer_and_ends_as_soon_as_the_cause_is_gone(node: Path) -> None:
    broken = whole(profile="zebra")
    rtc, ends = "", []
    for _ in range(5):
        result = boot(node, broken, nvs=NVS, rtc=rtc, cause=2)
        rtc = result["rtc"]
        ends.append(result["end"])
    assert ends == ["Rhard", "Rhard", "Z8000", "Z16000", "Z32000"], ends
    result = boot(node, whole(), nvs=NVS, rtc=rtc, cause=4, seconds=1200)
    assert result["end"] == "running" and bytes.fromhex(result["rtc"])[2] == 0


def test_a_broken_config_falls_back_to_the_one_that_reached_the_gateway(node: Path) -> None:
    good = {"/config.good": json.dumps(CONFIG), "/board.json": BOARD, "/config.json": '{"node": 263, "pro'}
    assert boot(node, good, nvs=NVS)["end"] == "running"


def test_a_full_flash_does_not_stop_a_node(node: Path) -> None:
    fill = "try:\n    with open('/fill', 'wb') as f:\n        while True:\n            f.write(bytes(4096))\nexcept OSError:\n    pass\n"
    done = run_vm(fill, node_dir=node, heap="130wK")
    assert done.code == 0, done.err
    result = boot(node, {}, nvs=NVS)
    assert result["end"] == "Rhard", "without a config there is nothing to run, and no room for last words"


def test_counters_go_on_above_the_ceiling_after_a_power_cut(node: Path) -> None:
    first = boot(node, whole(), nvs=NVS, seconds=300)
    second = boot(node, whole(), nvs=first["nvs"], seconds=300)
    assert second["nvs"]["citymote"]["ceiling"] == first["nvs"]["citymote"]["ceiling"] + 64
    assert second["nvs"]["citymote"]["boots"] == 2


HANG = """
import sim
import mote.drivers.qmc5883l as q

def hang(self, out):
    sim.advance_ms(10_000_000)

q.QMC5883L.wait_xyz_into = hang
sim.set_unix_time(1767225600)
"""


def test_a_sensor_that_hangs_the_processor_is_bitten_found_and_left_out(node: Path) -> None:
    """The watchdog resets; after three crashes in a row the sensor that was entered last is shed, and the node stays up."""
    rtc, ends = with_known_time(), []
    for _ in range(4):
        result = boot(node, whole(), nvs=NVS, rtc=rtc, cause=3, prelude=HANG, seconds=3000)
        rtc = result["rtc"]
        ends.append(result["end"])
    assert ends == ["Rwdt", "Rwdt", "Rwdt", "running"], ends

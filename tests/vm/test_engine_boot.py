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
# plays boot.py and main.py as the port runs them, for so many seconds; `end` is how that ended
UNTIL = """
class Enough(BaseException): pass
def enough(): raise Enough
sim_clock.at(%d * 1000000, enough)
"""
PLAYED = """
end = "REPL"
try:
    for name in ("boot.py", "main.py"):
        with open("/root/" + name) as f:
            source = f.read()
        exec(compile(source, name, "exec"), globals())
except sim.Reset as e:
    end = e.kind + str(e.arg)
except Enough:
    end = "running"
except SystemExit:
    end = "soft"
except KeyboardInterrupt:
    end = "REPL"
"""
SCRIPT = (
    """
%s
import json, sys, sim, sim_clock, machine, esp32
sim.values["occupied"] = 0.0
FILES = %r
for name in FILES:
    with open(name, "w") as f:
        f.write(FILES[name])
"""
    + UNTIL
    + PLAYED
    + """try:
    with open("/crash.txt") as f:
        crash = f.read()
except OSError:
    crash = ""
supervisor = sys.modules.get("mote.supervisor")  # an update may lack one
level = supervisor.level if supervisor else None
try:
    with open("/config.json") as f:
        config = json.load(f)
except (OSError, ValueError):
    config = None
try:
    with open("/problem.txt") as f:
        problem = f.read()
except OSError:
    problem = ""
print("\\x1e" + json.dumps({
    "end": end, "rtc": machine.RTC().memory().hex(), "nvs": esp32._store, "crash": crash, "level": level, "problem": problem,
    "config": config if isinstance(config, dict) else None, "interrupt": sys.modules["micropython"].interrupt_char,
}))
"""
)


def with_known_time() -> str:
    """RTC memory (hex) of a node whose clock has been set: layout of mote/hal/rtc.py."""
    image = bytearray(300)
    image[0:2], image[4] = b"\xc1\x02", 2
    image[296:300] = zlib.crc32(image[:296]).to_bytes(4, "big")
    return image.hex()


def boot(node: Path, files: dict[str, str], *, seconds: int = 900, prelude: str = "", digital=None, **how):
    hw = {"i2c": {"0": {"0x0d": "qmc5883l"}}, "digital": digital or {}}
    done = run_vm(SCRIPT % (prelude, files, seconds), node_dir=node, heap="130wK", hw=hw, **how)
    for line in done.out.split("\n"):
        if line.startswith("\x1e"):
            return json.loads(line[1:]) | {"log": done.out}
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
    assert bytes.fromhex(result["rtc"])[2] == 1, "an hour of work proves nothing"
    result = boot(node, whole(), nvs=NVS, seconds=7 * 3600)
    assert bytes.fromhex(result["rtc"])[2] == 0, "six hours of work take one crash back"


@pytest.mark.parametrize(
    ("files", "nvs", "word"),
    [
        ({}, NVS, "no configuration"),
        ({"/config.json": "{nonsense"}, NVS, "no configuration"),
        (whole(profile="zebra"), NVS, "zebra"),
        (whole() | {"/board.json": "{}"}, NVS, "no i2c"),
        (whole() | {"/board.json": BOARD.replace('"scl": 22', '"scl": 36')}, NVS, "board.json: pin 36"),  # an input
        (whole() | {"/board.json": BOARD.replace('"sda": 21', '"sda": 24')}, NVS, "board.json: pin 24"),  # not there
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


def boots(node: Path, files: dict[str, str], times: int, *, until: str = "running", **how):
    """Boot with RTC memory and NVS carried on, until one ends as wanted; the results."""
    rtc, nvs, results = how.pop("rtc", ""), how.pop("nvs", NVS), []
    for i in range(times):
        results.append(
            boot(
                node,
                files if not i else {},
                nvs=nvs,
                rtc=rtc,
                cause=how.get("cause", 2),
                **{k: v for k, v in how.items() if k != "cause"},
            )
        )
        rtc, nvs = results[-1]["rtc"], results[-1]["nvs"]
        if results[-1]["end"] == until:
            break
    return results


def test_a_crash_loop_sleeps_ever_longer_and_ends_as_soon_as_the_cause_is_gone(node: Path) -> None:
    broken = whole(profile="zebra")
    results = boots(node, broken, 5)
    assert [r["end"] for r in results] == ["Rhard", "Rhard", "Z8000", "Z16000", "Z32000"]
    result = boot(node, whole(), nvs=results[-1]["nvs"], rtc=results[-1]["rtc"], cause=4, seconds=1200)
    assert result["end"] == "running"


BROKEN_PROFILE = """
import mote
def borrow(name, what, *args, old=mote.borrow):
    if name == "mote.profiles.opening":
        raise ImportError("no module named 'mote.profiles.gone'")
    return old(name, what, *args)
mote.borrow = borrow
"""
BROKEN_ENGINE = """
import mote.staging as s
def broken(*args):
    raise ValueError("corrupt")
s.Staging.__init__ = broken
"""


@pytest.mark.parametrize(("prelude", "word"), [(BROKEN_PROFILE, "ImportError"), (BROKEN_ENGINE, "corrupt")])
def test_a_node_that_cannot_be_built_ends_as_a_safe_one_that_has_an_uplink(node: Path, prelude: str, word: str) -> None:
    """Bad modules and bad files end at link, downlinks and status; the outbox goes on with the same counters."""
    results = boots(node, whole(), 12, prelude=prelude)
    last = results[-1]
    assert last["end"] == "running" and last["level"] == 4 and "safe node" in last["log"], [r["end"] for r in results]
    assert len(results) == 6 and word in results[0]["crash"] and not last["crash"], "its words are in the outbox"
    assert last["nvs"]["citymote"]["ceiling"] > 1, "it has sealed its hello"


def test_a_safe_node_tries_to_be_whole_again_after_a_day(node: Path) -> None:
    results = boots(node, whole(), 12, prelude=BROKEN_PROFILE)
    day = boot(node, {}, nvs=results[-1]["nvs"], rtc=results[-1]["rtc"], cause=4, prelude=BROKEN_PROFILE, seconds=90000)
    assert day["end"] == "Rhard"
    mended = boot(node, {}, nvs=day["nvs"], rtc=day["rtc"], cause=2)
    assert mended["end"] == "running" and mended["level"] == 0 and "safe node" not in mended["log"]


def test_what_is_left_of_a_configuration_is_enough_for_a_safe_node_at_once(node: Path) -> None:
    result = boot(node, whole(profile=7), nvs=NVS)
    assert result["end"] == "running" and result["level"] == 4 and "safe node" in result["log"]


def test_a_node_takes_the_other_bearer_when_the_boards_file_is_gone(node: Path) -> None:
    files = whole(wifi={"ssid": "city", "password": "simulated", "host": "10.0.0.1"}) | {"/board.json": "rot"}
    results = boots(node, files, 12)
    assert results[-1]["end"] == "running" and "wifi: " in results[-1]["log"] and results[-1]["level"] == 3, results[
        -1
    ]["log"]


def test_a_safe_node_takes_the_other_bearer_too(node: Path) -> None:
    files = whole(profile=7, wifi={"ssid": "city", "password": "simulated", "host": "10.0.0.1"}) | {
        "/board.json": "rot"
    }
    result = boot(node, files, nvs=NVS)
    assert result["end"] == "running" and "safe node" in result["log"] and "wifi: " in result["log"]


def test_the_board_file_has_a_copy(node: Path) -> None:
    files = whole() | {"/board.json": "rot", "/board.good": BOARD}
    result = boot(node, files, nvs=NVS)
    assert result["end"] == "running" and result["level"] == 0


@pytest.mark.parametrize("cause", [2, 1])
def test_a_new_configuration_that_fails_three_boots_is_given_up_for_the_good_one(node: Path, cause: int) -> None:
    """Crashes and power cuts alike; what was refused is said, and its version never given again."""
    files = whole(profile="zebra", version=7) | {"/config.good": json.dumps(CONFIG | {"version": 6})}
    results = []
    rtc, nvs = "", NVS
    for i in range(4):
        results.append(boot(node, files if not i else {}, nvs=nvs, rtc="" if cause == 1 else rtc, cause=cause))
        rtc, nvs = results[-1]["rtc"], results[-1]["nvs"]
    assert [r["end"] for r in results] == ["Rhard", "Rhard", "Z8000" if cause == 2 else "Rhard", "running"]
    last = results[-1]
    assert last["config"] == CONFIG | {"version": 6, "refused": 7} and last["level"] == 0
    assert "7: 3 failed boots" in last["log"]
    assert (
        bytes.fromhex(last["rtc"])[2] <= 1
        and bytes.fromhex(last["rtc"])[5] == 0
        and not last["nvs"]["citymote"]["tries"]
    )


def test_a_configuration_without_a_good_one_before_it_is_kept(node: Path) -> None:
    results = boots(node, whole(profile="zebra", version=7), 5)
    assert results[-1]["config"]["version"] == 7


NOISE_ON_THE_LINE = """
import sim_clock
def ctrl_c():
    raise KeyboardInterrupt
sim_clock.at(%d * 1000000, ctrl_c)
"""


@pytest.mark.parametrize("second", [0, 1, 300])
def test_ctrl_c_in_the_field_is_a_reset(node: Path, second: int) -> None:
    result = boot(node, whole(), nvs=NVS, prelude=NOISE_ON_THE_LINE % second)
    assert result["end"] in ("Rhard", "soft") and result["interrupt"] == -1, result["end"]
    assert not result["rtc"] or bytes.fromhex(result["rtc"])[2] == 0, "noise is no crash"


def test_ctrl_c_ends_at_the_repl_where_the_configuration_the_bench_pin_or_a_blank_board_allow_it(node: Path) -> None:
    noise = NOISE_ON_THE_LINE % 20
    assert boot(node, whole(repl=1), nvs=NVS, prelude=noise)["end"] == "REPL"
    grounded = noise + "import sim\nsim.values['bench'] = 0.0\n"
    assert boot(node, whole(), nvs=NVS, prelude=grounded, digital={"13": "bench"}, cause=2)["end"] == "REPL"
    lifted = noise + "import sim\nsim.values['bench'] = 1.0\n"
    assert boot(node, whole(), nvs=NVS, prelude=lifted, digital={"13": "bench"}, cause=2)["end"] == "Rhard"
    blank = node / "blank"
    blank.mkdir()
    assert boot(blank, whole(), nvs={}, prelude=noise)["end"] == "REPL", "a board that was never provisioned"


GROUNDED = """
import sim, sim_clock
sim.values["bench"] = 0.0
def lift():
    sim.values["bench"] = 1.0
sim_clock.at(%d * 1000000, lift)
"""


@pytest.mark.parametrize(("seconds", "cause", "reset"), [(12, 1, True), (3, 1, False), (100, 1, False), (12, 2, False)])
def test_the_bench_pin_held_for_ten_seconds_at_power_on_is_a_factory_reset(node: Path, seconds, cause, reset) -> None:
    files = whole(sample_s=30, version=4) | {
        "/config.good": json.dumps(CONFIG | {"sample_s": 30, "version": 4}),
        "/bay.json": "{}",
    }
    files["/config.factory"] = json.dumps(CONFIG)
    result = boot(node, files, nvs=NVS, prelude=GROUNDED % seconds, digital={"13": "bench"}, cause=cause)
    assert result["end"] == "running", result["end"]
    assert result["config"] == (CONFIG | {"version": 5} if reset else json.loads(files["/config.json"]))
    kept = result["nvs"]["citymote"]
    assert kept["key"] == "00" * 16 and kept["ceiling"] >= 1


def test_a_broken_config_falls_back_to_the_one_that_reached_the_gateway(node: Path) -> None:
    good = {"/config.good": json.dumps(CONFIG), "/board.json": BOARD, "/config.json": '{"node": 263, "pro'}
    result = boot(node, good, nvs=NVS)
    assert result["end"] == "running" and result["level"] == 0


@pytest.mark.parametrize("good", ["rot", json.dumps(CONFIG | {"row_s": 61}), "[1]"])
def test_a_broken_config_whose_good_copy_is_broken_too_falls_back_to_the_factorys(node: Path, good: str) -> None:
    files = {"/config.json": "{", "/config.good": good, "/config.factory": json.dumps(CONFIG), "/board.json": BOARD}
    result = boot(node, files, nvs=NVS)
    assert result["end"] == "running" and result["level"] == 0, result["log"]


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

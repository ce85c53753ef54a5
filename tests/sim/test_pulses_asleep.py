"""A water meter of a page that sleeps deeply between two looks, on real boots: what the RTC domain keeps goes through the world."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest

from host_sim import provision, worlds
from host_sim.series import Series
from host_sim.vm.run import run_vm

from .conftest import plan

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware" / "mote"
MAIN = """
import machine, struct, time
import sim_clock, sim_hw
from esp32 import NVS
from mote.drivers.pulse import PulseMeter
from mote.hal.ulp import Counter

rtc, nvs = machine.RTC(), NVS("meter")
counter = Counter(34)
meter = PulseMeter(counter)
kept = rtc.memory()
resumed = len(kept) == 8 and meter.resume(*struct.unpack("<ii", kept))
if not resumed:
    try:
        meter.restore(nvs.get_i32("total"))
    except OSError:
        pass
meter.poll()
rtc.memory(struct.pack("<ii", *meter.state()))
nvs.set_i32("total", meter.total)
nvs.commit()
now = sim_clock.now
settled = int(sim_hw.sense("water_pulses", now - 60000))
print("look", machine.reset_cause(), int(resumed), meter.total, settled, int(sim_hw.sense("water_pulses", now)))
if settled % 5 == 0 and machine.reset_cause() != machine.HARD_RESET:
    machine.reset()
machine.deepsleep(20000 + settled % 7 * 60000)
"""


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    folder = tmp_path / "fw"
    for name in (
        "__init__.py",
        "errors.py",
        "hal/__init__.py",
        "hal/ulp.py",
        "hal/ulp_run.py",
        "drivers/__init__.py",
        "drivers/pulse.py",
    ):
        (folder / "mote" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FIRMWARE / name, folder / "mote" / name)
    (folder / "boot.py").write_text("")
    (folder / "main.py").write_text(MAIN)
    return folder


@pytest.fixture
def busy_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 900 pulses an hour in bursts; the installed CHIPS of the test scenario have none."""

    def world(seconds: float, *seed: object) -> dict[str, Series]:
        rng = random.Random(repr(seed))
        t, n, points = 0.0, 1000.0, [(0.0, 1000.0)]
        while t < seconds:
            t += rng.choice((3.0, 20.0, 120.0))
            n += rng.choice((0.0, 3.3, 30.1)) * rng.random()
            points.append((t, n))
        return {"water_pulses": Series(points), "battery_voltage": Series([(0.0, 3.9)])}

    monkeypatch.setitem(worlds.WORLDS, "water_meter", world)
    monkeypatch.setitem(provision.CHIPS, "water_meter", (("pulse", "", "pulse"),))


def looks(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, m.split())) for m in re.findall(r"^look (.*)$", text, re.M)]


def test_no_pulse_is_missed_over_deep_sleeps_and_resets_and_a_power_cut_loses_only_its_own(play, firmware, busy_meter):
    scenario = plan(
        group=[{"name": "wm", "profile": "water_meter", "count": 1}],
        power_cut=[{"nodes": ["wm-01"], "at_h": 2.0, "minutes": 30}],
    )
    played = play(scenario, hours=10, firmware=firmware)
    node = played.fleet.nodes[0]
    assert node.ended is None, node.ended
    seen = looks(node.console.read_text())
    assert len(seen) > 100 and {cause for cause, *_ in seen} == {1, 2, 4}
    offset, cuts = None, 0
    for cause, resumed, total, settled, now in seen:
        assert resumed == (cause != 1), "the counting goes on through everything but power-on"
        if cause == 1:
            cuts += 1
            offset = settled - total
        assert offset is not None
        assert settled - offset <= total <= now - offset, (cause, total, settled, now, offset)
    assert cuts == 2 and seen[-1][2] > 2000


def test_a_series_is_replayed_exactly(tmp_path: Path):
    """Series.when in the VM is the inverse of Series.value, also across its window of 32 points."""
    from host_sim import series

    rng = random.Random(5)
    points = [(0.0, 0.0)]
    for _ in range(400):
        points.append((points[-1][0] + rng.uniform(1, 90), points[-1][1] + rng.choice((0, 0, 1.7, 12.3))))
    series.write(tmp_path / "world.bin", {"water_pulses": Series(points)})
    script = (
        "import sim_hw\n"
        "t = 0\n"
        "for half in range(1, 4000):\n"
        "    e = sim_hw.when('water_pulses', half / 2, t, 1 << 40)\n"
        "    if e is None: break\n"
        "    assert sim_hw.sense('water_pulses', e) >= half / 2 - 1e-9, (half, e)\n"
        "    assert sim_hw.sense('water_pulses', e - 2) < half / 2 + 1e-9, (half, e)\n"
        "    assert sim_hw.when('water_pulses', half / 2, t, e - 1) is None\n"
        "    assert e > t\n"
        "    t = e\n"
        "print(half)\n"
    )
    done = run_vm(script, world=str(tmp_path / "world.bin"))
    assert done.code == 0, done.err
    assert int(done.out) == int(2 * points[-1][1]) + 1

"""Lock-step, power, radio and WiFi with a firmware of a page on the real VM."""

from __future__ import annotations

import signal

import pytest

from host_sim import lora
from host_sim.fleet import FleetError
from host_sim.node import PYTHON_US
from host_sim.protocol import EPOCH_2000, HARD, PWRON, WDT
from host_sim.vm.run import run_vm
from host_sim.zygote import Zygote

from .conftest import plan


def test_two_runs_are_the_same_to_the_last_byte_and_seeds_differ(play):
    lossy = plan(loss=[{"from_h": 1, "to_h": 2, "fraction": 0.4}])
    one, two, other = play(lossy, hours=3), play(lossy, hours=3), play(lossy, hours=3, seed=2)
    assert one.fleet.air.log.hexdigest() == two.fleet.air.log.hexdigest() != other.fleet.air.log.hexdigest()
    assert sorted(one.rows) == sorted(two.rows)
    assert one.fleet.air.stats == two.fleet.air.stats
    assert one.fleet.air.stats.faded > 0
    frames = [n.stats.frames for n in one.fleet.nodes if n.spec.link == "lora"]
    assert frames == [17, 17, 17]
    assert one.node("w-01").stats.wifi_frames == 17 and one.fleet.bridge.unanswered == 0


def test_stand_ins_outside_the_heap_change_nothing_but_the_heap(play):
    mapped, files = play(plan(), hours=1), play(plan(), hours=1, mapped=False)
    assert mapped.fleet.air.log.hexdigest() == files.fleet.air.log.hexdigest()
    assert sorted(mapped.rows) == sorted(files.rows) and mapped.rows
    for here, there in zip(mapped.fleet.nodes, files.fleet.nodes, strict=True):
        assert 40_000 < here.stats.standins_bytes < there.stats.standins_bytes - 20_000


def test_a_threshold_of_the_collector_counts_what_a_board_would_count(play, tmp_path):
    firmware = tmp_path / "fw"
    firmware.mkdir()
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text(
        "import gc\n"
        "gc.threshold(8192)\n"
        "gc.collect()\n"
        "least, before = gc.mem_alloc(), 0\n"
        "while gc.mem_alloc() > before:\n"
        "    before = gc.mem_alloc()\n"
        "    bytes(200)\n"
        "print('collected at', before - least, gc.threshold())\n"
        "gc.threshold(-1)\n"
        "print('never', gc.threshold())\n"
    )
    console = play(plan(), hours=0.1, firmware=firmware).node("aq-01").console.read_text()
    at, told = map(int, console.split("collected at ")[1].splitlines()[0].split())
    assert told == 8192 and 2 * 8192 - 1024 < at < 2 * 8192 + 1024
    assert "never -1" in console


def test_what_python_takes_of_a_start_passes_once_a_boot(play, tmp_path):
    firmware = tmp_path / "fw"
    (firmware / "mote").mkdir(parents=True)
    for name in ("__init__", "app", "nap", "other"):
        (firmware / "mote" / f"{name}.py").write_text("class Node:\n    pass\n")
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text(
        "from time import ticks_ms, ticks_diff\n"
        "at = ticks_ms()\n"
        "def passed():\n"
        "    global at\n"
        "    at, before = ticks_ms(), at\n"
        "    return ticks_diff(at, before)\n"
        "import mote.nap\nprint('nap', passed())\n"
        "import mote.other\nprint('other', passed())\n"
        "from mote.app import Node\nprint('app', passed())\n"
        "import mote.app\nprint('again', passed())\n"
    )
    console = play(plan(), hours=0.1, firmware=firmware).node("aq-01").console.read_text()
    took = dict(line.split() for line in console.splitlines() if len(line.split()) == 2)
    assert {name: int(took[name]) for name in ("nap", "other", "app", "again")} == {
        "nap": PYTHON_US["mote.nap"] // 1000,
        "other": 0,
        "app": PYTHON_US["mote.app"] // 1000,
        "again": 0,
    }


def test_answers_reach_the_nodes(play):
    played = play(plan(), hours=2)
    missed = []
    original = played.fleet.air.stats
    assert original.down_frames >= 30
    for node in played.fleet.nodes:
        assert node.ended is None, node.ended
        missed.append(node.nvs["tiny"]["n"])
    assert missed == [11, 11, 11, 11]


def test_a_power_cut_stops_the_node_and_its_flash_and_nvs_come_back(play):
    played = play(plan(power_cut=[{"nodes": ["aq-02"], "at_h": 1.0, "minutes": 30}]), hours=2)
    node = played.node("aq-02")
    assert node.stats.boots == 2 and node.stats.cuts == 1
    cut = next(e for e in played.events if e["event"] == "power_cut")
    assert cut["t"] == 3_600_000_000
    boots = [e for e in played.events if e["event"] == "boot" and e["node"] == "aq-02"]
    assert [b["cause"] for b in boots] == [PWRON, PWRON] and boots[1]["t"] == 5_400_000_000
    rows = [t for name, t, _ in played.rows if name == "aq-02"]
    assert rows == sorted(rows[:60]) + sorted(rows[60:])  # the clock starts again at 2000 after power-on
    assert node.nvs["tiny"]["n"] == 5 + 2
    played.fleet.close()
    kept = run_vm("print(len(open('/rows.txt').read().splitlines()))", node_dir=node.spec.folder)
    assert int(kept.out) == len(rows)


def test_a_watchdog_bite_and_a_reset_come_back_with_their_cause(play, tmp_path):
    firmware = tmp_path / "fw"
    firmware.mkdir()
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text(
        "import machine, time\n"
        "rtc = machine.RTC()\n"
        "n = len(rtc.memory())\n"
        "rtc.memory(rtc.memory() + bytes((machine.reset_cause(),)))\n"
        "if n == 0:\n"
        "    rtc.datetime((2026, 3, 2, 0, 12, 0, 0, 0))\n"
        "    machine.reset()\n"
        "if n == 1:\n"
        "    machine.WDT(timeout=3000)\n"
        "    time.sleep(10)\n"
        "if n == 2:\n"
        "    machine.deepsleep(60000)\n"
        "print(time.gmtime())\n"
        "raise ValueError('at the REPL')\n"
    )
    played = play(plan(group=[{"name": "aq", "profile": "air_quality", "count": 1}]), hours=0.5, firmware=firmware)
    node = played.fleet.nodes[0]
    assert bytes.fromhex(node.rtc) == bytes((PWRON, HARD, WDT, 4))
    assert "(2026, 3, 2, 12, 1, 3" in node.console_tail()  # the clock ran on through all of it
    assert node.ended is not None and "ValueError: at the REPL" in node.ended


ONE = {"group": [{"name": "aq", "profile": "air_quality", "count": 1}]}


def firmware_of(tmp_path, main: str):
    firmware = tmp_path / "fw"
    firmware.mkdir()
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text(main)
    return firmware


@pytest.mark.parametrize("ppm", [0, 20_000, -20_000])
def test_a_fast_clock_wakes_early_and_runs_ahead(play, tmp_path, ppm):
    firmware = firmware_of(
        tmp_path,
        "import machine, time\n"
        "rtc = machine.RTC()\n"
        "if not rtc.memory():\n"
        "    rtc.memory(b'x')\n"
        "    rtc.datetime((2026, 3, 2, 0, 12, 0, 0, 0))\n"
        "    machine.deepsleep(1000000)\n"
        "print('woke', time.time_ns() // 1000000)\n"
        "time.sleep(10000)\n",
    )
    group = [ONE["group"][0] | {"drift_ppm": ppm}]
    played = play(plan(group=group), hours=0.5, firmware=firmware)
    boots = [e["t"] for e in played.events if e["event"] == "boot"]
    slept = boots[1] - boots[0] - 300_000
    assert slept == pytest.approx(1e15 / (1e6 + ppm), abs=100_000)
    # by its own clock it slept exactly what it had asked for: 12:00:00 + 1000 s + the start-up
    woke = int(played.fleet.nodes[0].console_tail().split()[-1]) - (825_768_000_000 + 1_000_000)
    assert woke == pytest.approx(300, abs=50)


def test_a_power_cut_in_deep_sleep_forgets_the_drifted_clock(play, tmp_path):
    firmware = firmware_of(
        tmp_path,
        "import machine, time\n"
        "print('boot', machine.reset_cause(), time.time())\n"
        "if machine.reset_cause() == 1:\n"
        "    machine.deepsleep(1000000)\n"
        "time.sleep(10000)\n",
    )
    group = [ONE["group"][0] | {"drift_ppm": 20_000}]
    cut = {"nodes": ["aq"], "at_h": 0.1, "minutes": 6}
    played = play(plan(group=group, power_cut=[cut]), hours=0.5, firmware=firmware)
    boots = [line for line in played.fleet.nodes[0].console_tail().splitlines() if line.startswith("boot")]
    assert boots[:2] == ["boot 1 0", "boot 1 0"]
    assert played.fleet.nodes[0].stats.cuts == 1


def test_erases_of_every_boot_are_counted_and_those_of_the_factory_are_not(play, tmp_path):
    firmware = firmware_of(
        tmp_path,
        "import machine, time\n"
        "rtc = machine.RTC()\n"
        "n = len(rtc.memory())\n"
        "import sim_hw\n"
        "if n < 2:\n"
        "    for i in range(5):\n"
        "        with open('/f', 'wb') as f: f.write(bytes(4096))\n"
        "    print('erased', sim_hw.flash.erases)\n"
        "    rtc.memory(bytes(n + 1))\n"
        "    machine.reset()\n"
        "time.sleep(10000)\n",
    )
    played = play(plan(**ONE), hours=0.5, firmware=firmware)
    node = played.fleet.nodes[0]
    told = [int(line.split()[1]) for line in node.console_tail().splitlines() if line.startswith("erased")]
    assert len(told) == 2 and min(told) >= 5
    assert node.stats.erases == sum(told)


def test_erases_are_told_while_a_boot_lasts_and_not_counted_after_the_end(play, tmp_path):
    firmware = firmware_of(
        tmp_path,
        "import time\n"
        "for i in range(40):\n"
        "    with open('/f', 'wb') as f: f.write(bytes(4096))\n"
        "    time.sleep(60)\n"
        "time.sleep(10000)\n",
    )
    played = play(plan(**ONE), hours=0.5, firmware=firmware)
    half = played.fleet.nodes[0].stats.erases
    assert 28 <= half <= 70
    played.fleet.run_to(2 * 3_600_000_000)
    assert played.fleet.nodes[0].stats.erases == half


def test_the_deepest_outbox_is_kept(play, tmp_path):
    firmware = firmware_of(
        tmp_path,
        "import time\n"
        "from mote.outbox import Outbox\n"
        "box = Outbox()\n"
        "for n in (1, 3, 2): box.append(n)\n"
        "box.ack(2)\n"
        "time.sleep(10000)\n",
    )
    (firmware / "mote").mkdir()
    (firmware / "mote" / "outbox.py").write_text(
        "class Outbox:\n"
        "    def __init__(self):\n        self.depth = 0\n        self._scan()\n"
        "    def _scan(self): pass\n"
        "    def append(self, n): self.depth = n\n"
        "    def ack(self, n): self.depth -= n\n"
        "    def drop(self, n): pass\n"
    )
    assert play(plan(**ONE), hours=0.1, firmware=firmware).fleet.nodes[0].stats.peak_outbox == 3


def test_half_of_the_answers_are_lost_like_half_of_the_frames(play):
    played = play(plan(loss=[{"from_h": 0, "to_h": 12, "fraction": 0.5}]), hours=12)
    lora = [n for n in played.fleet.nodes if n.spec.link == "lora"]
    sent, down = sum(n.stats.frames for n in lora), played.fleet.air.stats.down_frames
    assert 0.35 < down / sent < 0.65  # what came up
    heard = [e for n in lora for e in n.console.read_text().split() if e == "answered"]
    assert 0.35 < len(heard) / down < 0.65  # what came down


def test_two_nodes_on_one_channel_in_the_same_moment_collide(play, tmp_path):
    firmware = tmp_path / "fw"
    firmware.mkdir()
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text(
        "import sim_clock, time\n"
        "import asyncio\n"
        "from lora import AsyncSX1262\n"
        "radio = AsyncSX1262(0, 0, 0, dio3_tcxo_millivolts=1800, lora_cfg={'freq_khz': 868100, 'preamble_len': 8})\n"
        "for start in (120, 240):\n"
        "    sim_clock.advance(start * 1000000)\n"
        "    if start == 240: time.sleep(N)\n"
        "    asyncio.run(radio.send(b'hello'))\n"
        "    print(asyncio.run(radio.recv(timeout_ms=3000)))\n"
        "time.sleep(10000)\n".replace("N", "__import__('machine').unique_id()[-1] * 5")
    )
    scenario = plan(group=[{"name": "aq", "profile": "air_quality", "count": 2}])
    played = play(scenario, hours=0.2, firmware=firmware)
    stats = played.fleet.air.stats
    assert stats.frames - stats.down_frames == 4
    assert stats.collisions >= 1
    assert stats.down_frames <= 3


def test_a_vm_that_burns_real_time_is_reported_with_its_name(play, tmp_path):
    firmware = tmp_path / "fw"
    firmware.mkdir()
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text("print('here')\nwhile True: pass\n")
    from host_sim import fleet as module

    original = module.Fleet.__init__

    def quick(self, *args, **kwargs):
        original(self, *args, **kwargs, hang_s=1.5)

    module.Fleet.__init__ = quick
    try:
        with pytest.raises(FleetError, match=r"(?s)aq-01.*no sign of life.*here"):
            play(plan(group=[{"name": "aq", "profile": "air_quality", "count": 1}]), hours=0.1, firmware=firmware)
    finally:
        module.Fleet.__init__ = original


class Deaf:
    """A socket whose reader is interrupted once."""

    def __init__(self, sock):
        self._sock, self._interrupts = sock, 1

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv(self, n):
        if self._interrupts:
            self._interrupts = 0
            raise KeyboardInterrupt
        return self._sock.recv(n)


def test_an_interrupt_between_question_and_answer_does_not_mix_up_the_zygotes_answers(tmp_path):
    with Zygote() as zygote, (tmp_path / "console").open("wb") as console:
        pid, line = zygote.spawn(["micropython", "-c", "while 1: pass"], [tmp_path], console.fileno())
        plain, zygote._sock = zygote._sock, Deaf(zygote._sock)
        with pytest.raises(KeyboardInterrupt):
            zygote.spawn(["micropython", "-c", "while 1: pass"], [tmp_path], console.fileno())
        zygote._sock = plain
        assert zygote.kill(pid) == signal.SIGKILL
        assert zygote.kill(pid) == 0
        line.close()


def test_unix_and_device_epochs_agree():
    assert EPOCH_2000 == 946_684_800
    assert lora.time_on_air_us(7, 51) == 102_656

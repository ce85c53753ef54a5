"""Lock-step, power, radio and WiFi with a firmware of a page on the real VM."""

from __future__ import annotations

import pytest

from host_sim import lora
from host_sim.fleet import FleetError
from host_sim.protocol import EPOCH_2000, HARD, PWRON, WDT
from host_sim.vm.run import run_vm

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


def test_two_nodes_on_one_channel_in_the_same_moment_collide(play, tmp_path):
    firmware = tmp_path / "fw"
    firmware.mkdir()
    (firmware / "boot.py").write_text("")
    (firmware / "main.py").write_text(
        "import sim_clock, time\n"
        "from lora import SX1262\n"
        "radio = SX1262(lora_cfg={'freq_khz': 868100, 'preamble_len': 8})\n"
        "for start in (120, 240):\n"
        "    sim_clock.advance(start * 1000000)\n"
        "    if start == 240: time.sleep(N)\n"
        "    radio.send(b'hello')\n"
        "    print(radio.recv(timeout_ms=3000))\n"
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


def test_unix_and_device_epochs_agree():
    assert EPOCH_2000 == 946_684_800
    assert lora.time_on_air_us(7, 51) == 102_656

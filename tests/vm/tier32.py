"""The 32-bit tier of tests/vm: which functions do not run on the 32-bit VM and why, and how the others do (CPython side)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from host_sim import compile as mpy
from host_sim.vm32.run import Job, missing, run_jobs

OFF = bool(
    os.environ.get("CITYMOTE_WITHOUT_VM32")
)  # tests/guards.py: what a removed guard makes hang is found on 64 bits, by its deadline
LITTLEFS = "needs littlefs itself (cuts, rot, a full flash), which the 32-bit VM lacks: its files are in memory"
HEAP = "needs a heap that ends, or is collected while Python runs: the 32-bit VM's does neither"
SLOW = "minutes without a native emitter (viper), which the 32-bit VM lacks"
VIPER = "compares with viper, which the 32-bit VM lacks"
WORDS = "reads microphone words of 2**30 and more, which bytecode makes big ints of (test_small_ints.py has smaller ones; boards run viper)"
CLOCK = "reads the stand-ins' clock, which is past small ints, with the heap locked"

SKIPPED = {
    "test_drivers_inmp441.py": {"test_model_twins_are_equal": VIPER},
    "test_dsp_aweight.py": {
        "test_viper_and_bytecode_are_equal_bit_for_bit": VIPER,
        "test_block_processing_allocates_nothing": WORDS,
        "test_response_is_inside_class_2_from_20_hz_to_16_khz": SLOW,
        "test_response_holds_at_low_levels": SLOW,
    },
    "test_engine_counter.py": {
        "test_a_counter_is_never_used_twice_when_the_power_goes_anywhere_in_a_reservation": LITTLEFS,
        "test_a_change_of_keys_cut_anywhere_neither_loses_the_node_nor_repeats_a_counter": LITTLEFS,
        "test_a_change_of_keys_torn_anywhere_neither_loses_the_node_nor_repeats_a_counter": LITTLEFS,
    },
    "test_engine_ladder.py": {
        "test_the_sensor_that_keeps_memory_is_found_though_both_read_at_once_and_is_blamed_for_the_memory_error": HEAP,
    },
    "test_engine_store.py": {"test_a_full_flash_evicts_too": LITTLEFS},
    "test_hal_ulp.py": {
        "test_a_look_allocates_nothing": CLOCK,
        "test_pulses_in_deep_sleep_are_counted": SLOW,
        "test_a_thousand_deep_sleeps_miss_no_pulse_and_count_none_twice": SLOW,
    },
    "test_standins_hw.py": {"test_power_cut_stops_a_flash_write": LITTLEFS},
    "test_standins_sleep.py": {"test_a_file_system_survives_a_torn_operation_at_any_time": LITTLEFS},
    "test_standins_ulp.py": {"test_leaving_out_idle_runs_changes_nothing": SLOW},
    "cuts.py": {
        "test_no_row_is_lost_or_doubled_when_the_power_goes_before_a_flash_operation": LITTLEFS,
        "test_no_row_is_lost_or_doubled_when_the_power_tears_a_flash_write": LITTLEFS,
        "test_a_second_cut_right_after_the_first_changes_nothing": LITTLEFS,
        "test_recovery_that_is_cut_itself_loses_and_doubles_nothing": LITTLEFS,
        "test_an_ack_that_is_cut_anywhere_leaves_frames_that_are_whole": LITTLEFS,
        "test_what_was_dropped_stays_dropped_wherever_the_power_goes_and_the_newest_alarm_is_never_missing": LITTLEFS,
    },
    "full.py": {
        "test_what_is_newest_finds_room_while_older_bulk_can_go": LITTLEFS,
        "test_rows_of_a_node_on_mains_are_delivered_or_counted_when_flash_is_full": LITTLEFS,
        "test_rows_without_a_time_are_delivered_or_counted_when_flash_is_full": LITTLEFS,
        "test_rows_held_in_rtc_memory_are_delivered_or_counted_when_flash_is_full": LITTLEFS,
        "test_rows_held_without_a_time_are_delivered_or_counted_when_flash_is_full": LITTLEFS,
    },
    "memory.py": {
        "test_what_a_sample_costs_with_its_driver_and_task_is_small": HEAP,
        "test_the_heap_is_flat_over_thirty_days": HEAP,
    },
    "profiles.py": {"test_noise_reports_levels": SLOW},
    "remote.py": {"test_a_driver_that_eats_the_memory_is_the_one_that_is_shed": HEAP},
    "steps.py": {
        "test_no_sequence_of_steps_drifts_and_resets_loses_a_row_uncounted": HEAP,
        "test_no_other_sequence_of_steps_drifts_and_resets_does_either": HEAP,
    },
    "undated.py": {
        "test_dating_that_is_cut_at_any_flash_operation_loses_and_doubles_nothing": LITTLEFS,
        "test_dating_that_is_cut_keeps_the_rows_of_two_power_ons_in_the_order_they_were_taken": LITTLEFS,
    },
}
ONLY_32 = ("test_small_ints.py",)  # of mpy/


def why_not(file: str, name: str) -> str | None:
    """Why this function cannot run on the 32-bit VM of this machine, or None."""
    return SKIPPED.get(file, {}).get(name) or missing()


def run_functions(
    path: Path,
    names: Sequence[str],
    *,
    more: Sequence[Path] = (),
    hw: Mapping[str, Any] | None = None,
    **boot: Any,
) -> dict[str, dict[str, Any]]:
    """Run each function in a 32-bit VM and on a flash of its own, all in one process: {name: report of sim_tests, with "out"}. boot: more keys of the boot file."""
    script = (mpy.VM_FOLDER / "sim_tests.py").read_text()
    todo, results = list(names), dict[str, dict[str, Any]]()
    while todo:
        jobs = [
            Job(n, script, [f"run({n!r})"], (path.parent, *more), argv=("/host0/" + path.name,), hw=hw or {}, boot=boot)
            for n in todo
        ]
        done = run_jobs(jobs, timeout_s=280)  # less than what pytest gives the item that brings them all
        for name, text in done.out.items():
            lines = text.split("\n")
            said = [line for line in lines if not line.startswith("\x1e")]
            records = [json.loads(line[1:]) for line in lines if line.startswith("\x1e")]
            found = next((r for r in records if r.get("name") == name), None)
            if found is not None:
                results[name] = found | {"out": "\n".join(said)}
            elif name in done.ms or name == list(done.out)[-1]:  # the VM died in it, or was ended
                end = "did not end in time" if done.timed_out else f"ended with code {done.code}"
                results[name] = {"ok": False, "skip": None, "out": "", "trace": f"the 32-bit VM {end}\n{text[-4000:]}"}
        todo = [n for n in todo if n not in results]
    return results

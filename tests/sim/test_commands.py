"""Two-way, the whole of it: people ask over MQTT, the gateway decides, nodes on the real VM obey or say why not. Situation (f) of the mission."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.store.audit import entries
from host_sim import runner
from host_sim.scenario import CommandSpec, Expect, GatewayDown, Group, LossSpec, ScenarioError, load, parse, unix
from tools.sim import verdict

pytestmark = pytest.mark.slow


def times(messages: list[dict[str, Any]], node: str, quantity: str) -> list[int]:
    """Unix seconds of a quantity's readings, in order, out of SenML."""
    found = set()
    for m in messages:
        if m["topic"] == f"city/v1/node/{node}/senml":
            base = 0
            for record in json.loads(m["payload"]):
                base = record.get("bt", base)
                if record["n"] == quantity:
                    found.add(base + record.get("t", 0))
    return sorted(found)


def test_commands_are_obeyed_once_and_valves_move_for_nobody_who_may_not(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []
    plan = load("commands")
    result = runner.run(
        plan, keep=tmp_path / "kept", on_event=lambda e: messages.append(e) if e["event"] == "message" else None
    )
    assert result.unmet == [] and verdict(result) == 0, result.unmet
    assert (result.lost, result.duplicates, result.at_repl, result.duty_violations) == (0, 0, [], [])
    assert result.per_node["aq-02"]["boots"] == 2, "rebooted once"
    assert result.resets == {"hard": 2}, "one reboot, one restart into a configuration; nobody crashed"
    # the interval: rows every 300 s before, every 60 s after, and everybody is told the new report interval
    start = unix(plan.head.start)
    rows = times(messages, "water-01", "water_volume")
    steps = [b - a for a, b in zip(rows, rows[1:], strict=False)]
    hour = [s for s, t in zip(steps, rows, strict=False) if t < start + 3600]
    after = [s for s, t in zip(steps, rows, strict=False) if t > start + 3600 + result.commands["1 c1"]["took_s"] + 60]
    assert set(hour) == {300} and set(after) == {60} and len(after) > 300
    meta = [json.loads(m["payload"]) for m in messages if m["topic"] == "city/v1/node/water-01/meta"]
    assert [m["interval"] for m in meta if m["interval"] != 900][-1] == 600
    # read_now: a row of its own, off the grid
    assert [t for t in times(messages, "aq-02", "pm10") if t % 300]
    log = list(entries(tmp_path / "kept" / "gateway.db", "water-01"))
    refused = [(e.requester, e.body.get("error")) for e in log if e.state == "refused" and e.number is None]
    assert refused == [
        ("water", "expired"), ("visitor", "unauthorised"), ("visitor", "wrong_requester"), ("water", "valve_policy"), ("operator", "unauthorised"),
    ]  # fmt: skip
    valves = [e for e in log if e.name == "valve" and e.number is not None]
    assert [e.state for e in valves] == ["accepted", "queued", "sent", "refused", "refused"] and valves[-1].body[
        "again"
    ]


def test_a_gateway_that_is_killed_and_air_that_loses_every_third_frame_change_nothing_but_the_time_it_takes() -> None:
    base = load("commands")
    commands = tuple(
        CommandSpec(node, 1.0 + i / 4, name, options=options, expires_h=8)
        for i, (node, name, options) in enumerate(
            [
                ("aq-01", "reboot", {}),
                ("aq-02", "reboot", {}),
                ("water-01", "interval", {"report_s": 600}),
                ("far-01", "reboot", {}),
                ("aq-01", "read_now", {}),
            ]
        )
    )
    downs = tuple(GatewayDown(h, h + 0.05, kill=True) for h in (1.1, 1.4, 1.7, 2.05, 2.3, 2.6))
    plan = replace(base, commands=commands, gateway_down=downs, losses=(LossSpec(0.5, 9, 0.3),))
    result = runner.run(plan, hours=9)
    assert result.unmet == [], (result.unmet, result.commands)
    assert (result.lost, result.duplicates) == (0, 0)
    assert [result.per_node[n]["boots"] for n in ("aq-01", "aq-02", "far-01")] == [2, 2, 2], "each reboot once"


def test_every_profile_takes_intervals_and_limits_on_either_bearer() -> None:
    """On a plain ESP32 from a ROMFS image, with what the board leaves."""
    head: dict[str, Any] = {"report_s": 900, "config": {"health_s": 1800}}
    groups = (
        Group("aq", "air_quality", 1, **head),
        Group("noise", "noise", 1, **head),
        Group("bay", "parking", 1, sample_s=10, row_s=0, **head),
        Group(
            "bin",
            "bin_fill",
            1,
            sample_s=300,
            row_s=900,
            sensors={"bin": {"empty_mm": 1000, "full_mm": 200}},
            **head,
        ),
        Group("wifi", "water_meter", 1, link="wifi", **head),
    )
    limits = {"aq": "pm10", "noise": "laeq", "bay": "occupied", "bin": "fill_level", "wifi": "water_flow"}
    commands = tuple(
        spec
        for g in groups
        for spec in (
            CommandSpec(f"{g.name}-01", 1.0, "interval", options={"report_s": 1800}),
            CommandSpec(f"{g.name}-01", 2.5, "limit", options={"q": limits[g.name], "above": 90.0}),
        )
    )
    result = runner.run(replace(load("commands"), groups=groups, commands=commands, expect=Expect()), hours=5)
    assert result.unmet == [] and result.boots == len(groups), (result.unmet, result.per_node)
    assert (result.lost, result.duplicates) == (0, 0)


def test_a_node_that_has_no_room_for_a_limit_refuses_it_and_loses_nothing() -> None:
    """It says so at once, so that it is sent once and not for hours; what the attempt leaves in the heap may cost one reset."""
    noise = Group("noise", "noise", 1, report_s=900, config={"health_s": 1800}, way="mpy", heap="102wK")
    limit = CommandSpec("noise-01", 1.0, "limit", options={"q": "laeq", "above": 90.0})
    result = runner.run(replace(load("commands"), groups=(noise,), commands=(limit,), expect=Expect()), hours=4)
    assert result.boots <= 2 and not result.per_node["noise-01"]["shed"], result.per_node
    assert (result.lost, result.duplicates) == (0, 0) and result.commands["1 c1"]["states"][-1] == "failed"
    assert result.commands["1 c1"]["sends"] == 1 and result.boots == 1, result.commands


def test_a_command_that_ends_otherwise_than_demanded_makes_the_run_fail() -> None:
    plan = replace(
        load("commands"),
        commands=(
            CommandSpec("aq-01", 0.1, "dance", ends="done"),
            CommandSpec("aq-01", 0.2, "valve", args=("close",), ends="done"),
        ),
    )
    result = runner.run(plan, hours=2)
    assert verdict(result) == 1 and len(result.unmet) == 2
    assert result.unmet[0] == "command c1 (dance to aq-01): refused: unknown, expected done"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"command": [{"node": "zz-01", "at_h": 1, "name": "reboot"}]}, 'node "zz-01" is unknown'),
        ({"command": [{"node": "aq-01", "at_h": 1, "name": "x", "args": [1], "options": {"a": 1}}]}, "not both"),
        ({"requesters": {"ana": "all"}}, "[requesters]"),
    ],
)
def test_wrong_commands_of_a_scenario_are_named(table: dict[str, Any], words: str) -> None:
    import tomllib

    from host_sim.scenario import FOLDER

    whole = tomllib.loads((FOLDER / "commands.toml").read_text())
    with pytest.raises(ScenarioError) as e:
        parse("commands", {**whole, **table}, "commands.toml")
    assert words in str(e.value)

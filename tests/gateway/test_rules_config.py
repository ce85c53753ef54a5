"""rules.toml: shipped files are right and cite their sources; whatever is wrong is named with line and fix."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from gateway.config.rules import DEFAULTS, load_rules, shipped
from gateway.core.model import Node
from tests.gateway.test_config import GOOD, NODES
from tests.gateway.town import config

NODE = [Node(1, "wm-1", b""), Node(2, "shaft", b""), Node(3, "gate-1", b"")]
RULE = '[rule.hot]\nquantity = "temperature"\nabove = 35\n'


def test_without_a_word_all_shipped_files_apply(tmp_path: Path) -> None:
    c = config(tmp_path, "", NODE)
    assert c.defaults == shipped() == ("eaqi", "eu_air", "faults", "noise_si", "water")
    names = {r.name for r in c.rules}
    assert {"o3-alert", "noise-zone-4-lden-critical", "night-flow"} <= names
    assert c.plan.index is not None and c.plan.capture == 75 and c.faults.stuck


def test_own_entries_replace_shipped_ones_and_can_switch_them_off(tmp_path: Path) -> None:
    text = '[rules]\ndefaults = ["eu_air"]\n[aggregates]\ncapture_percent = 90\n[rule.o3-alert]\noff = true\n'
    c = config(tmp_path, text + '[rule.o3-information]\nquantity = "o3"\naggregate = "hour"\nabove = 170\n', NODE)
    rules = {r.name: r for r in c.rules}
    assert "o3-alert" not in rules and rules["o3-information"].limit == 170 and "night-flow" not in rules
    assert c.plan.capture == 90 and c.plan.index is None and "pm10" in c.plan.kinds


def test_averaging_less_than_the_shipped_files_do_is_no_mistake(tmp_path: Path) -> None:
    plan = config(tmp_path, '[aggregates]\nmean = ["pm10", "temperature"]\n', NODE).plan
    assert (plan.day, plan.eight_hour, plan.max8h) == ({"pm10"}, frozenset(), frozenset())
    assert plan.index is not None and set(plan.index.scales) == {"pm10"} and plan.noise == {"laeq"}


def test_every_shipped_limit_names_its_source_and_every_file_its_licence_free_origin() -> None:
    for path in DEFAULTS.glob("*.toml"):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        assert path.read_text(encoding="utf-8").startswith("# ")
        for name, rule in data.get("rule", {}).items():
            assert rule["reference"], f"{path.name}: {name}"
            if path.name in ("eu_air.toml", "noise_si.toml"):
                assert rule["indicative"] and rule["visibility"] == "open", "low-cost sensors indicate"


def test_the_shipped_limits_are_those_of_the_directives() -> None:
    """Values of 2024/2881 Annex I and 2008/50/EC, written down here once more from the table in the source."""
    rules = tomllib.loads((DEFAULTS / "eu_air.toml").read_text(encoding="utf-8"))["rule"]
    table = """\
name,quantity,aggregate,above,hold
pm10-day-limit,pm10,day,50,1
pm10-day-limit-2030,pm10,day,45,1
pm25-day-limit-2030,pm25,day,25,1
no2-hour-limit,no2,hour,200,1
no2-hour-limit-2030,no2,hour,200,1
no2-day-limit-2030,no2,day,50,1
o3-target,o3,day-max8h,120,1
o3-information,o3,hour,180,1
o3-alert,o3,hour,240,1
no2-alert-2008,no2,hour,400,3
no2-information,no2,hour,150,1
no2-alert,no2,hour,200,3
pm25-information,pm25,day,50,1
pm25-alert,pm25,day,50,3
pm10-information,pm10,day,90,1
pm10-alert,pm10,day,90,3
"""
    expected = {r["name"]: r for r in csv.DictReader(table.splitlines())}
    assert rules.keys() == expected.keys()
    for name, r in expected.items():
        rule = rules[name]
        assert (rule["quantity"], rule["aggregate"], rule["above"], rule.get("hold", 1)) == (
            r["quantity"], r["aggregate"], int(r["above"]), int(r["hold"]),
        )  # fmt: skip


def test_the_gateway_reads_the_rules_it_is_told_to(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(GOOD.replace("[link.lora]", 'rules = "rules.toml"\n[link.lora]', 1))
    (tmp_path / "nodes.toml").write_text(NODES)
    with pytest.raises(ConfigError, match="rules .*rules.toml does not exist"):
        load(file)
    (tmp_path / "rules.toml").write_text(RULE)
    found = load(file).rules
    assert found is not None and "hot" in {r.name for r in found.rules}
    file.write_text(GOOD)
    assert load(file).rules is None


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("[rule]\n[ruls.x]\n", None, "did you mean `rules`?"),
        ('[rules]\ndefaults = ["eu_ari"]\n', 2, "did you mean `eu_air`?"),
        ('[rules]\ntime_zone = "Europe/Lubljana"\n', 2, "Europe/Ljubljana"),
        ('[rules]\ntime_zone = "Asia/Kolkata"\n', 2, "whole hours"),
        ("[rules]\nsettle_s = -1\n", 2, "choose 0..86400"),
        (RULE + "abve = 3\n", 4, "did you mean `above`?"),
        (RULE.replace("above", "over"), 3, "did you mean `over_s`?"),
        (RULE.replace("above = 35\n", ""), 1, "give one of above, below, rise_per_min"),
        (RULE + "below = 3\n", 1, "give one of"),
        (RULE.replace("temperature", "temperatur"), 2, "did you mean `temperature`?"),
        (RULE.replace("35", '"35"'), 3, "write above = a number"),
        (RULE + "clear = 36\n", 4, "where the value is good again"),
        (RULE.replace("above", "below") + "clear = 34\n", 4, "where the value is good again"),
        (RULE + 'severity = "emergncy"\n', 4, "did you mean `emergency`?"),
        (RULE + 'aggregate = "houre"\n', 4, "did you mean `hour`?"),
        (RULE.replace("temperature", "lnigt") + 'aggregate = "noise"\n', 2, "did you mean `lnight`?"),
        (RULE + "for_s = -5\n", 4, "choose 0.."),
        (RULE + 'hours = "22-6"\n', 4, '"22:00-06:00"'),
        (RULE + 'hours = "22:00-22:00"\n', 4, '"22:00-06:00"'),
        (RULE + 'season = "13-01..02-01"\n', 4, "05-01..09-30"),
        (RULE + 'weekdays = ["mon", "tus"]\n', 4, "did you mean `tue`?"),
        (RULE + "from = 2027-01-01\nuntil = 2026-01-01\n", 5, "the last day"),
        (RULE + 'from = "2027"\n', 4, "2026-12-11"),
        (RULE + 'visibility = "public"\n', 4, "open, restricted, personal"),
        (RULE + 'area = "old-twn"\n[area.old-town]\nnodes = ["wm-1"]\n', 4, "did you mean `old-town`?"),
        (RULE + 'node = ["Wm 1"]\n', 4, "a-z 0-9"),
        (RULE + 'text = { de = "x" }\n', 4, "sl, it, en"),
        (RULE + 'text = { sl = "{vrednost}" }\n', 4, "{label} {value} {limit} {unit}"),
        (RULE.replace("hot", "pm10-above"), 1, "pm10-above-rule"),
        (RULE.replace("hot", "Hot"), 1, "1 to 32 of a-z"),
        ('[area.x]\nkind = "lott"\n', 2, "did you mean `lot`?"),
        ('[area.x]\nnodes = ["nobody"]\n', 1, "check the names"),
        ('[area.x]\nkind = "balance"\ninflow = ["shaft"]\n', 1, "needs inflow and outflow|outflow ="),
        ('[area.x]\nkind = "gate-lot"\nentries = ["gate-1"]\n', 3, "gate-1:count"),
        ('[area.x]\nkind = "gate-lot"\nentries = ["gate-1:count"]\n', 1, "capacity = 120"),
        ('[aggregates]\nmean = ["pm10", "pm3"]\n', 2, "did you mean `pm"),
        ('[aggregates]\nmean = ["laeq"]\n', None, "a quantity is aggregated in one way"),
        ('[aggregates]\nday = ["laeq"]\n', 2, "choose from|did you mean"),
        ("[aggregates]\nnoise_hours = [6, 22, 18]\n", 2, "rising hours"),
        ('[aggregates]\nindex = "eea-revised-2042"\n', 2, "did you mean `eea-revised-2024`?"),
        ('[index.mine]\nnames = ["a", "b"]\n[index.mine.scale]\npm10 = [3, 4]\n[aggregates]\nindex = "mine"\n', 4, "1 rising upper bounds"),
        ('[fault]\nstuck = ["tilt", "temp"]\n', 2, "did you mean `temperature`?"),
        ("[fault]\nstuck_except = { pm10 = 0 }\n", 2, "pm10 = [0]"),
        ("[battery.noise]\nlow = 3.4\nclear = 3.3\nempty = 3\n", 2, "empty <= low < clear"),
        ("[rule.x\n", None, "starts with"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line_and_the_fix(
    tmp_path: Path, text: str, line: int | None, hint: str
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as e:
        load_rules(file, {n.id: n for n in NODE})
    assert any(part in f"{e.value} {e.value.hint}" for part in hint.split("|")), (str(e.value), e.value.hint)
    if line is not None:
        assert f"rules.toml:{line}:" in str(e.value), str(e.value)

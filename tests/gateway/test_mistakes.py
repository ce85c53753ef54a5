"""Every mistake of every file is named in one pass, and no file keeps `check` from ending."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import ConfigError, load
from tests.gateway.test_check import BASE, KEY, OUTPUT, fresh, node

MANY = {
    "gateway.toml": """\
[gateway]
id = "gw-1"
rules = "rules.toml"
drain = 4
[link.lora]
kind = "udp-forwarder"
bind = "127.0.0.1"
allow = ["xyz"]
[output.city]
kind = "mqtt"
broker = "127.0.0.1:1x"
formats = ["nativ", "senm"]
visibility = ["opn"]
""",
    "nodes.toml": """\
[[node]]
id = 1
name = "Aq 01"
key = "00"
profile = "air quality"
interval_s = 0
[[node]]
id = 1
name = "aq-02"
key = "9f8b3a51c07d2e64f1a9035be7c8d216"
visibility = "opn"
lat = 95.0
lon = 3
[[node]]
id = 70000000000
key = "9f8b3a51c07d2e64f1a9035be7c8d21"
nmae = "x"
[[node]]
name = "aq-02"
lat = 3
next_epoch = 3
area = ["A B", 3]
[[node]]
id = 5
name = "aq-05"
key = "af8b3a51c07d2e64f1a9035be7c8d216"
[[node]]
id = 5
name = "aq-05"
key = "af8b3a51c07d2e64f1a9035be7c8d216"
next_key = "af8b3a51c07d2e64f1a9035be7c8d216"
""",
    "rules.toml": """\
[rules]
time_zone = "Mars/Base"
setle_s = 3
[rule.a]
quantity = "pm11"
above = 50
severity = "warn"
[rule.b]
quantity = "pm10"
hours = "25:00-06:00"
[area.x]
kind = "lott"
nodes = ["nobody-*"]
[nonsense]
a = 1
""",
}


def mistakes(folder: Path, files: dict[str, str]) -> list[str]:
    """Return file:line of all that `check` names, in its order."""
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ConfigError) as e:
        load(folder / "gateway.toml")
    return [f"{m.file.name if m.file else None}:{m.line}" for m in (e.value, *e.value.more)]


def test_every_mistake_of_every_file_is_named_in_one_pass(tmp_path: Path) -> None:
    """Of entries with other mistakes too: a number given twice, the second wrong name of a list, rules beside a wrong configuration."""
    found = mistakes(tmp_path, MANY)
    assert sorted(x for x in found if x.startswith("nodes")) == sorted(
        f"nodes.toml:{n}" for n in (3, 4, 5, 6, 8, 11, 12, 15, 16, 17, 18, 18, 20, 21, 22, 22, 28, 31)
    )
    assert sorted(x for x in found if x.startswith("gateway")) == sorted(
        f"gateway.toml:{n}" for n in (4, 7, 8, 11, 12, 12, 13)
    )
    assert sorted(x for x in found if x.startswith("rules")) == sorted(
        f"rules.toml:{n}" for n in (None, 2, 3, 5, 8, 11, 12)
    )
    (tmp_path / "nodes.toml").write_text(MANY["nodes.toml"].replace("af8b3a51c07d2e64f1a9035be7c8d216", "00" * 16, 1))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(tmp_path / "gateway.toml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "key of 'aq-05' is all zeros" in done.stderr, "and keys that are no secret"


def test_lines_that_are_no_toml_are_all_named_and_hide_nothing_elsewhere(tmp_path: Path) -> None:
    broken = (
        node(1, KEY, "interval_s = 60s", "lat = 45,1")
        + node(2, "zz")
        + node(3, fresh(), "name = aq-3")
        + node(1, fresh())
    )
    config = (
        BASE.replace('"gw-7"', '"gw-7"\nrules = "rules.toml"') + OUTPUT.replace('"mqtt"', "mqtt") + "[log]\nlevle = 3\n"
    )
    rules = "[rule.a]\nabove = 5O\n[rule.b]\nbelow = 3\n"
    found = mistakes(tmp_path, {"nodes.toml": broken, "gateway.toml": config, "rules.toml": rules})
    assert found == [
        "gateway.toml:8", "nodes.toml:4", "nodes.toml:5", "nodes.toml:12", "nodes.toml:8", "nodes.toml:14",
        "gateway.toml:11", "rules.toml:2", "rules.toml:3",
    ]  # fmt: skip
    for text in (
        '[[node]]\nid = 1\narea = ["a",\nkey = 3\nname = "x"\n',
        '[[node]]\nname = """x\nid = 1\n',
        "[[node\nid = 1\n",
        "\0",
        "a = 1\na = 2\nb = \n",
    ):
        found = mistakes(tmp_path, {"nodes.toml": text, "gateway.toml": BASE + OUTPUT})
        assert 1 <= len(found) <= 3, (text, found)


@given(
    st.lists(
        st.sampled_from(
            [
                "[[node]]",
                "id = 1",
                "id = ",
                'name = "x"',
                'name = "',
                "key = [",
                "]",
                '"""',
                "lat = 1,5",
                "[",
                "a.b = 1",
                "\\",
            ]
        ),
        max_size=12,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_registry_keeps_check_from_ending(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "nodes.toml").write_text("\n".join(lines))
    (tmp_path / "gateway.toml").write_text(BASE + OUTPUT)
    try:
        load(tmp_path / "gateway.toml")
    except ConfigError as e:
        assert len({str(m) for m in (e, *e.more)}) == 1 + len(e.more) <= 100

"""[commands]: what is right is read, what is wrong is named with its line and the fix."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from gateway.core.authorise import Request, authorise
from gateway.core.model import Node
from tests.gateway.test_commands_process import COMMANDS
from tests.gateway.test_config import GOOD, write
from tests.gateway.world import REPO
from tools.gateway_command import arguments, order

MORE = """
[commands.valve."wm-*"]
auto_close = true
fail_safe = "open"
"""


def test_roles_requesters_and_valves_are_read(tmp_path: Path) -> None:
    c = load(write(tmp_path, GOOD + COMMANDS + MORE))
    assert c.commands is not None and c.commands.output == "city" and c.commands.console is None
    policy = c.commands.policy
    assert policy.requesters["boris"][0].nodes == ("w-*",) and policy.max_open == 4
    assert policy.requesters["ana"][0].areas == ("*",)
    valve = policy.valve(c.nodes[70000])
    assert valve is not None and valve.auto_close and valve.fail_safe == "open" and policy.valve(c.nodes[263]) is None
    assert load(write(tmp_path)).commands is None


def test_nothing_closes_by_itself_unless_the_file_says_so(tmp_path: Path) -> None:
    c = load(write(tmp_path, GOOD + COMMANDS + '[commands.valve."wm-*"]\n'))
    assert c.commands is not None
    valve = c.commands.policy.valve(c.nodes[70000])
    assert valve is not None and not valve.auto_close and valve.fail_safe is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('output = "city"', 'output = "town"', "choose from city"),
        ('output = "city"', 'outputs = "city"', "did you mean `output`?"),
        ('output = "city"', 'output = "city"\nconsole = "eve"', "choose from ana, boris"),
        ('output = "city"', 'output = "city"\nmax_open = 5', "choose 1..4"),
        ('commands = ["*"]', "commands = []", "is empty"),
        ('commands = ["*"]', 'commands = "*"', "must be a list"),
        ('commands = ["*"]', 'command = ["*"]', "did you mean `commands`?"),
        ('commands = ["*"]', 'commands = ["Read Now"]', "holds 'Read Now'"),
        ('commands = ["*"]', 'commands = ["*"]\narrears = 1', "true or false"),
        ('roles = ["operator"]', 'roles = ["operater"]', "did you mean `operator`?"),
        ('roles = ["operator"]', "roles = []", "is empty"),
        ("[commands.requester.ana]", "[commands.requester.gateway]", "no name for a requester"),
        ("[commands.requester.ana]", '[commands.requester."a/b"]', "no name for a requester"),
        ("auto_close = true", 'auto_close = "yes"', "true or false"),
        ('fail_safe = "open"', 'fail_safe = "opened"', "did you mean `open`?"),
        ('[commands.valve."wm-*"]', '[commands.valve."W M"]', "no name or pattern"),
        (
            'kind = "mqtt"\nbroker = "127.0.0.1:1884"\nformats = ["native", "senml"]',
            'kind = "files"\nfolder = "out"',
            "no output is one",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_the_fix(tmp_path: Path, old: str, new: str, words: str) -> None:
    good = GOOD + COMMANDS + MORE
    assert good.count(old) == 1
    with pytest.raises(ConfigError) as e:
        load(write(tmp_path, good.replace(old, new)))
    said = f"{e.value}\n{e.value.hint}"
    assert words in said and "gateway.toml" in said, said


def test_somebody_must_be_allowed_to_ask(tmp_path: Path) -> None:
    for text, words in (
        ("[commands]\n", "requester.NAME"),
        ("[commands.requester.ana]\nroles = []\n", "there is none"),
    ):
        with pytest.raises(ConfigError) as e:
            load(write(tmp_path, GOOD + text))
        assert words in f"{e.value} {e.value.hint}"


def test_the_commands_of_the_readme_are_allowed_by_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPO / "gateway" / "README.md").read_text()
    (example,) = [block for block in re.findall(r"```toml\n(.*?)```", text, re.S) if block.startswith("[commands]")]
    c = load(write(tmp_path, GOOD + example))
    assert c.commands is not None
    nodes = {
        "aq-01": Node(1, "aq-01", b"", profile="air_quality"),
        "water-07": Node(7, "water-07", b"", profile="water_meter"),
    }
    monkeypatch.chdir(tmp_path)
    for name in ("ca.pem", "pw"):
        (tmp_path / name).touch()
    lines = re.findall(r"^citymote gateway command (.*)$", text, re.M)
    assert len(lines) == 2
    for line in lines:
        asked = order.make_context("command", shlex.split(line)).params
        now = time.time()
        until = asked["expires"] and time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + asked["expires"]))
        given = arguments(asked["args"], None)
        request = Request("x", asked["name"], asked["requester"], given, until, asked["reason"])
        assert authorise(c.commands.policy, request, asked["requester"], nodes[asked["node"]], now) > now, line

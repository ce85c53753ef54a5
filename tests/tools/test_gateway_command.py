"""`citymote gateway command` and `audit` where no broker is needed: words become arguments, patience, and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from tools import gateway_command
from tools.duration import DURATION
from tools.gateway_audit import _since
from tools.gateway_command import Client, NoAnswer, Where, arguments


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ((), []),
        (("30",), [30]),
        (("close",), ["close"]),
        (("true", "null", "1.5", '"x"', "[1]"), [True, None, 1.5, '"x"', "[1]"]),
        (("q=pm10", "above=50", "clear=40.5", "boost=true"), {"q": "pm10", "above": 50, "clear": 40.5, "boost": True}),
        (("a=1", "b"), ["a=1", "b"]),
    ],
)
def test_words_become_arguments(words: tuple[str, ...], meant: Any) -> None:
    assert arguments(words, None) == meant


def test_a_file_holds_an_object(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"alarms": []}')
    assert arguments((), file) == {"alarms": []}
    for text in ("[]", "{"):
        file.write_text(text)
        with pytest.raises(ValueError):
            arguments((), file)


class Fake(Client):
    """A client whose gateway says what is given, None for nothing."""

    def __init__(self, *said: str | None) -> None:
        super().__init__(Where("127.0.0.1", 1, "city", "ana", None, None))
        self.said, self.asked, self.waited = list(said), 0, []

    def ask_again(self) -> None:
        self.asked += 1

    def answer(self, ident: str, seconds: float) -> dict[str, Any]:
        self.waited.append(seconds)
        state = self.said.pop(0)
        if state is None:
            raise NoAnswer("silence", "")
        return {"id": ident, "state": state, "t": "2026-01-01T00:00:00Z", "expires": "2999-01-01T00:00:00Z"}


def test_who_waits_long_asks_again_with_the_same_id_and_who_hears_nothing_at_all_gives_up() -> None:
    quiet = Console(quiet=True)
    f = Fake("accepted", None, None, "done")
    assert gateway_command._follow(f, "x", True, quiet)["state"] == "done" and f.asked == 2
    assert f.waited == [gateway_command.ANSWER_S, *[gateway_command.AGAIN_S] * 3]
    f = Fake(None)
    with pytest.raises(NoAnswer):
        gateway_command._follow(f, "x", True, quiet)
    assert f.asked == 0
    assert gateway_command._follow(Fake("accepted"), "x", False, quiet)["state"] == "accepted"


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [("refused", "valve_policy", 4), ("refused", None, 4), ("failed", None, 1), ("expired", None, 1)],
)
def test_an_end_that_is_none_of_ours_is_an_exit_code_and_one_document(
    state: str, error: str | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"node": "aq-01", "name": "reboot", "state": state} | ({"error": error} if error else {})
    with pytest.raises(SystemExit) as e:
        gateway_command._end(body, Where("127.0.0.1", 1, "city", "ana", None, None), True)
    told = json.loads(capsys.readouterr().out)
    assert (
        e.value.code == code
        and told["node"] == "aq-01"
        and told["error"] == (error or {"refused": "refused_by_node"}.get(state, state))
    )


def test_durations_and_times() -> None:
    assert [DURATION.convert(t, None, None) for t in ("90s", "10m", "2h", "7d")] == [90, 600, 7200, 604_800]
    for wrong in ("10", "m", "-1m", "1w", ""):
        with pytest.raises(click.BadParameter):
            DURATION.convert(wrong, None, None)
    assert _since("2026-01-01") == _since("2026-01-01T01:00:00+01:00") == 1767225600
    assert abs(_since("2h") - _since("3h") - 3600) < 5


@pytest.mark.parametrize(
    "words",
    [
        ("n-300/#", "read_now", "--as", "ana"),
        ("+", "read_now", "--as", "ana"),
        ("", "read_now", "--as", "ana"),
        ("n-300", "read_now", "--as", "a/b"),
        ("n-300", "read_now", "--as", "#"),
        ("n" * 70_000, "read_now", "--as", "ana"),
        ("n-300", "read_now", "--as", "ana", "--root", "city/#"),
        ("n-300\udcff", "read_now", "--as", "ana"),
    ],
)
def test_what_can_be_no_level_of_a_topic_is_asked_of_no_broker(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(gateway_command.order, [*words, "--broker", "127.0.0.1:1", "--json"])
    assert done.exit_code == 2 and "can be no level of a topic" in done.output and "next: " in done.output


def test_who_has_a_role_without_the_command_is_told_which_role_lacks_what() -> None:
    where = Where("broker", 1883, "city", "ana", None, None)
    body = {"name": "valve", "node": "w-1", "state": "refused", "error": "unauthorised"}
    hint = gateway_command._role(where, {**body, "detail": "ana may not send valve to w-1"})
    assert '"valve"' in hint and "commands.role" in hint and "commands.requester" not in hint
    assert "[commands.requester.ana]" in gateway_command._role(where, {**body, "detail": "ana has no role here"})

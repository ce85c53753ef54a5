"""How verbs end: with --json every one of them prints exactly one document, whatever its exit code; and `| head` is no mistake."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gateway import __main__ as entry
from gateway import outcome
from tests.gateway.world import until
from tests.tools.test_sim import family
from tools import cli

CITYMOTE = [sys.executable, "-m", "tools.cli"]


def verbs(
    group: click.Command = cli.cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every verb that has --json, with its words; the gateway's own verbs, which are handed on whole, among them."""
    context = click.Context(group)
    handed_on = any(isinstance(p, click.Argument) and p.type is click.UNPROCESSED for p in group.params)
    if handed_on or any("--json" in p.opts for p in group.params):
        yield path, group
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from verbs(found, (*path, name))


VERBS = dict(verbs())
NAMES = [" ".join(path) for path in VERBS]


def needed(verb: click.Command, folder: Path) -> list[str]:
    """Return what a verb cannot be called without."""
    file = folder / "some.toml"
    file.touch()
    words: list[str] = []
    for p in verb.params:
        if not p.required:
            continue
        kind = p.type
        value = str(file) if isinstance(kind, click.Path) else "1"
        words += [value] if isinstance(p, click.Argument) else [p.opts[0], value]
    return words


HANDED_ON = {
    "replay": ["--config", "x", "--output", "city", "--from", "2026-01-01"],
    "republish": ["--config", "x", "--output", "city"],
    "export": ["--config", "x", "--from", "2026-01-01", "--file", "y"],
}


def documents(text: str) -> list[dict[str, Any]]:
    found, at = [], 0
    while text[at:].strip():
        value, at = json.JSONDecoder().raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        found.append(value)
    return found


def call(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, Any]]:
    """Call `citymote` in this process, and what it becomes; return exit code and the one document."""
    became: list[list[str]] = []

    def execv(_: str, argv: list[str]) -> None:
        became.append(argv)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["citymote", *words])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with pytest.raises(SystemExit) as e:
            cli.main()
        code = e.value.code
        if became:
            monkeypatch.setattr(sys, "argv", ["gateway", *became[0][3:]])
            code = entry.main()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    out, _ = capsys.readouterr()
    found = documents(out)
    assert len(found) == 1, out
    assert found[0]["ok"] is (code == 0) and found[0]["exit_code"] == code
    assert isinstance(code, int)
    return code, found[0]


def words_of(name: str, folder: Path) -> list[str]:
    path = tuple(name.split())
    return [*path, *(HANDED_ON[path[-1]] if path[-1] in HANDED_ON else needed(VERBS[path], folder)), "--json"]


def test_the_walk_finds_the_verbs() -> None:
    assert {"sim run", "bench", "bench vm", "gateway check", "gateway export", "gateway command", "demo"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_in_the_words_is_one_document(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = call([*name.split(), "--no-such-option", "--json"], monkeypatch, capsys)
    assert code == 2 and found["reason"] == "usage" and found["text"] and "--help" in found["hint"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (KeyboardInterrupt("some things stay"), 130, "interrupted"),
        (SystemExit(4), 4, "refused"),
        (SystemExit(1), 1, "failed"),
        (ZeroDivisionError("of ours"), 1, "unforeseen"),
    ],
)
@pytest.mark.parametrize("said", [False, True])
def test_an_end_of_every_kind_is_one_document(
    name: str, end: BaseException, code: int, reason: str, said: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    """said: the verb had given its document already, and believed that all was well."""

    def ends(*_: object, **__: object) -> None:
        if said:
            outcome.document({"ok": True, "found": 3})
        raise end

    verb = VERBS[tuple(name.split())]
    if not {"as_json", "arguments"} & {p.name for p in verb.params}:
        pytest.fail(f"{name} has no --json")
    monkeypatch.setattr(verb, "callback", ends)
    monkeypatch.setattr(entry, "_run", ends)
    got, found = call(words_of(name, tmp_path), monkeypatch, capsys)
    assert (got, found["reason"]) == (code, reason)
    assert code != 130 or "stay" in found["hint"]
    assert not said or reason == "unforeseen" or found["found"] == 3


@pytest.mark.parametrize("name", [n for n in NAMES if n.split()[-1] in HANDED_ON])
def test_what_is_handed_on_ends_alike(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def ctrl_c(*_: object) -> None:
        outcome.document({"found": 3})
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", ctrl_c)
    code, found = call(words_of(name, tmp_path), monkeypatch, capsys)
    assert code == 130 and found["reason"] == "interrupted" and found["found"] == 3


def test_a_verb_that_is_done_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(["gateway", "key", "--json"], monkeypatch, capsys)
    assert code == 0 and found["reason"] is None and len(found["keys"]) == 1


def test_an_unknown_verb_is_a_document_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["simm"], ["sim", "rum"], []):
        code, found = call([*words, "--json"], monkeypatch, capsys)
        assert code == 2 and found["reason"] == "usage"


def interrupted(p: subprocess.Popen[str]) -> dict[str, Any]:
    """Press Ctrl-C: the whole group of processes gets it, as from a terminal."""
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130, err
    assert "Traceback" not in err, err
    (found,) = documents(out)
    assert not found["ok"] and found["exit_code"] == 130 and found["reason"] == "interrupted"
    return found


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CITYMOTE, *words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_in_a_simulation_is_one_document() -> None:
    p = start("sim", "run", "district")
    assert until(lambda: len(family(p.pid)) >= 10), "its broker, its gateway and some nodes are at work"
    interrupted(p)


def test_ctrl_c_in_a_command_is_one_document_and_says_what_stays() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(60)
        p = start(
            "gateway", "command", "aq-01", "read_now", "--as", "ana", "--broker", f"127.0.0.1:{mute.getsockname()[1]}"
        )
        connection, _ = mute.accept()
        with connection:
            assert "audit" in interrupted(p)["hint"]


def test_a_bench_that_is_interrupted_is_one_document(tmp_path: Path) -> None:
    series = tmp_path / "series.csv"
    os.mkfifo(series)
    p = start("bench", "wire", str(series))
    with series.open("w"):  # waits until the bench reads it, and keeps it waiting
        interrupted(p)


def test_a_reader_that_has_left_is_no_mistake(tmp_path: Path) -> None:
    for words in (
        ["gateway", "key", "--number", "5000"],
        ["gateway", "--help"],
        ["gateway", "key", "--number", "0", "--json"],
    ):
        command = " ".join([*CITYMOTE, *words])
        for pipe in ("| head -c 1", "2>&1 | head -c 1"):
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {command} {pipe} >{tmp_path}/out; echo ${{PIPESTATUS[0]}}"],
                capture_output=True, text=True,
            )  # fmt: skip
            assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr, done.stderr

"""The log: no key, no payload, no flood."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import structlog

from gateway import logstream
from gateway.logs import MAX_KINDS, WINDOW_S, Repeats, no_secrets
from gateway.logstream import END_S, LogStream
from tests.gateway.world import REPO


def test_a_flood_of_one_line_is_told_a_few_times_and_then_counted() -> None:
    now = [0.0]
    r = Repeats(3, lambda: now[0])
    told = []
    for n in range(1000):
        now[0] = n * 0.02
        try:
            told.append(r(None, "info", {"event": "uplink_refused", "reason": "bad_tag", "node": n}))
        except structlog.DropEvent:
            pass
    assert len(told) == 6 and told[3]["left_out"] == WINDOW_S / 0.02 - 3
    assert r(None, "info", {"event": "uplink_refused", "reason": "garbage"}) and r(
        None, "error", {"event": "uplink_refused", "reason": "bad_tag"}
    )
    for _ in range(100):
        assert r(None, "info", {"event": "uplink_committed"})


def test_kinds_of_lines_are_bounded() -> None:
    r = Repeats(1)
    for n in range(MAX_KINDS * 3):
        r(None, "info", {"event": f"e{n}"})
    assert len(r._seen) <= MAX_KINDS


@pytest.mark.parametrize("name", ["key", "next_key", "password", "mqtt_password", "token", "payload"])
def test_secrets_are_hidden_by_name_and_bytes_by_type(name: str) -> None:
    shown = no_secrets(None, "info", {"event": "e", name: "s3cret", "frame": b"s3cret", "monkey": "here"})
    assert shown == {"event": "e", name: "<hidden>", "frame": "<6 bytes>", "monkey": "here"}


def notice(lines: int) -> str:
    return f"dropped {lines}"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page; the reading end is closed by the test, or at its end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    with contextlib.suppress(OSError):
        os.close(
            reader
        )  # the writing end stays: a LogStream's thread may write to it yet, and its number would be another test's pipe


def read_all(reader: int, enough: bytes) -> list[str]:
    got = b""
    while not got.endswith(enough):
        assert select.select((reader,), (), (), 20)[0], got[-200:]
        got += os.read(reader, 1 << 16)
    return got.decode().splitlines()


def test_a_log_that_no_one_reads_holds_no_one_up_and_what_is_lost_is_counted_in_its_place(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    os.write(writer, b"x" * 4095 + b"\n")  # it is full: the first line waits already
    log = LogStream(writer, notice, most=20_000)
    began = time.monotonic()
    for n in range(4000):
        log.write(f"line {n:05d}\n")
    log.flush()
    log.flush()
    assert time.monotonic() - began < END_S * 1.5, "only the first flush waits"
    lost = log.dropped
    assert 0 < lost < 4000
    (problem,) = log.problems()
    assert problem.code == "log_unread" and "no one reads it" in problem.text
    log.write("one more\n" * 3000)  # there is no room for any of these
    assert log.dropped == lost + 3000
    kept = 4000 - lost
    found = read_all(reader, b"line %05d\n" % (kept - 1))[1:]
    assert found == [f"line {n:05d}" for n in range(kept)]
    log.write("again\n")
    assert read_all(reader, b"again\n") == [f"dropped {lost + 3000}", "again"]
    log.flush()
    assert log.dropped == lost + 3000


def test_a_reader_of_the_log_that_left_ends_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = LogStream(writer, notice)
    log.write("first\n")
    log.flush()
    os.close(reader)
    for _ in range(5):
        log.write("no one is there\n")
        log.flush()
    assert log.dropped == 5
    assert [p.text for p in log.problems()] == ["lines of the log wait or are lost: Broken pipe"]


def test_lines_of_the_log_are_whole_and_in_order_whoever_writes_them(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)  # who starts us may hand down such a pipe
    log = LogStream(writer, notice)
    lines = 400

    def write(who: str) -> None:
        for n in range(lines):
            log.write(f"{who} {n} {'x' * 300}\n")

    writers = [threading.Thread(target=write, args=(who,)) for who in "abc"]
    for t in writers:
        t.start()
    for t in writers:
        t.join()
    log.write("no end")  # print() writes the end apart
    log.write("\n")
    found = read_all(reader, b"no end\n")[:-1]
    assert len(found) == 3 * lines and {line[-300:] for line in found} == {"x" * 300} and log.dropped == 0
    for who in "abc":
        assert [int(line.split()[1]) for line in found if line[0] == who] == list(range(lines))


def test_without_stderr_lines_are_counted_and_no_file_is_written_to() -> None:
    log = LogStream(None, notice)
    log.write("a\nb\n")
    log.flush()
    assert log.dropped == 2 and [p.text for p in log.problems()] == [
        "lines of the log wait or are lost: stderr is closed"
    ]


async def test_no_flush_waits_in_an_event_loop(pipe: tuple[int, int]) -> None:
    log = LogStream(pipe[1], notice)
    log.write("x" * 10_000 + "\n")
    began = time.monotonic()
    log.flush()  # as the handlers of `logging` do
    assert time.monotonic() - began < END_S / 2


ENDS = """\
import sys
from gateway import logs, outcome
from gateway.config import LogConfig
import structlog
def verb():
    logs.setup(LogConfig(repeats=0, style="json"))
    log = structlog.get_logger("x")
    for n in range(int(sys.argv[1])):
        log.info("line", n=n, text="x" * 200)
    raise ValueError("the end")
sys.exit(outcome.run(verb, False))
"""


def run_to_its_end(log: int, lines: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", ENDS, str(lines)], cwd=REPO, stdout=log, stderr=log)


def test_the_last_lines_before_an_end_are_there_though_the_reader_is_slow(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    p = run_to_its_end(writer, 100)
    try:
        os.close(writer)
        got = b""
        while part := os.read(reader, 4096):
            got += part
            time.sleep(0.02)
        assert p.wait(30) == 1
    finally:
        p.kill()
        p.wait()
    found = got.decode().splitlines()
    assert [json.loads(line)["n"] for line in found if line.startswith("{")] == list(range(100))
    assert found[-1] == "ValueError: the end"


def test_a_reader_that_is_frozen_holds_up_no_end(pipe: tuple[int, int]) -> None:
    p = run_to_its_end(pipe[1], 3000)
    try:
        assert p.wait(30) == 1
    finally:
        p.kill()
        p.wait()


def test_a_line_that_was_written_in_part_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes what it has room for; the line that says how many are missing must be read."""
    written, room = bytearray(), [1000]

    def write(_fd: int, data: bytes) -> int:
        part = bytes(data[: room[0]])
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.extend(part)
        room[0] -= len(part)
        return len(part)

    monkeypatch.setattr(logstream, "os", SimpleNamespace(write=write))
    log = LogStream(99, notice)
    lines = [json.dumps({"event": "x", "n": n, "fill": "y" * 80}) for n in range(30)]
    log.write("".join(f"{line}\n" for line in lines))
    log.flush()
    assert log.dropped > 10
    room[0] = 10_000
    log.write('{"event": "y"}\n')
    log.flush()
    found = bytes(written).decode().splitlines()
    torn = [line for line in found if line and line not in lines and not line.endswith("}") and "dropped" not in line]
    assert len(torn) == 1 and found[-1] == '{"event": "y"}' and found[-2] == notice(log.dropped)

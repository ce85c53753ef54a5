"""sd_notify never waits, and what is said once is not lost for want of room."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from gateway.notify import STATUS_S, Notifier, notify


def test_a_supervisor_that_does_not_read_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deaf.bind(str(tmp_path / "n"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    said = Notifier()
    began = time.monotonic()
    taken = [said.say(f"STATUS={n}") for n in range(2000)]
    assert time.monotonic() - began < 2
    assert taken[0] and not taken[-1] and said.dropped == taken.count(False)
    assert not said.say("READY=1")
    said.again()
    while deaf.recv(4096) != f"STATUS={taken.index(False) - 1}".encode():
        pass
    said.again()
    assert deaf.recv(4096) == b"READY=1", "now there is room"
    said.again()
    deaf.setblocking(False)
    with pytest.raises(BlockingIOError):
        deaf.recv(4096)
    deaf.close()


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "@no-such-socket", "x" * 300])
def test_no_one_to_say_it_to_is_no_trouble(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not notify("READY=1")


class Kept:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.room, self.now = True, 0.0

    def send(self, text: str) -> bool:
        if self.room:
            self.said.append(text)
        return self.room


def test_a_number_that_changes_all_the_time_is_no_line_all_the_time_but_a_new_problem_is_told_at_once() -> None:
    k = Kept()
    n = Notifier(k.send, lambda: k.now)
    for waiting in range(100):
        k.now = waiting * 0.5
        n.status(f"output city is away, {waiting} wait", "output_away")
    assert len(k.said) == 10 and 99 * 0.5 // STATUS_S == 9
    n.status("no commits", "store_failed,output_away")
    assert k.said[-1] == "STATUS=no commits"
    n.status("no commits", "store_failed,output_away")
    assert len(k.said) == 11


def test_of_states_that_were_not_taken_the_newest_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "NOTIFY_SOCKET", "/x")
    k = Kept()
    n = Notifier(k.send, lambda: k.now)
    k.room = False
    n.say("RELOADING=1\nMONOTONIC_USEC=1")
    n.say("READY=1\nSTATUS=a")
    n.say("WATCHDOG=1")
    k.room = True
    n.again()
    n.again()
    assert k.said == ["READY=1\nSTATUS=a"]

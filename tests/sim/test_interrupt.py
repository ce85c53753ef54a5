"""Ctrl-C is noted at once and raised where nothing is half done."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from host_sim import interrupt


@pytest.fixture(autouse=True)
def _as_started() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def sigint() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_waits_for_a_check_and_is_raised_once() -> None:
    with interrupt.noted():
        interrupt.check()
        sigint()
        reached = sum(range(1000))
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.check()
    assert reached == 499500
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_is_raised_where_it_finds_us() -> None:
    with interrupt.noted():
        sigint()
        with pytest.raises(KeyboardInterrupt):
            sigint()
            time.sleep(1)


def test_one_that_no_check_met_is_forgotten_with_the_run() -> None:
    with interrupt.noted():
        sigint()
    with interrupt.noted():
        interrupt.check()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_host_that_has_its_own_way_with_it_keeps_it(handler: object) -> None:
    before = signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    try:
        with interrupt.noted():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_changes() -> None:
    seen: list[object] = []

    def run() -> None:
        with interrupt.noted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_waits_are_interrupted() -> None:
    with interrupt.noted():
        sigint()
        with pytest.raises(KeyboardInterrupt):
            interrupt.wait_event(threading.Event(), 30)
        assert not interrupt.wait_event(threading.Event(), 0.01)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            sigint()
            with pytest.raises(KeyboardInterrupt):
                interrupt.wait_end(process, 30)
            with pytest.raises(subprocess.TimeoutExpired):
                interrupt.wait_end(process, 0.01)
            process.kill()
            assert interrupt.wait_end(process, 30) == -signal.SIGKILL

"""No task of the rim ends unnoticed, and an exception of ours costs the one thing it met."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway import supervise
from gateway.metrics import Metrics
from gateway.supervise import STEPS, TRIES, Watch, caught


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.setattr(supervise, "BACKOFF_S", (0.0, 0.0))
    return Metrics()


@pytest.fixture(autouse=True)
def loud() -> Any:
    structlog.reset_defaults()  # a process test of the same worker may have bound loggers to its configuration
    supervise.log = structlog.get_logger("t")


def codes(watch: Watch) -> list[str]:
    return [p.code for p in watch.problems()]


async def turns(n: int = 50) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def ends_by_returning() -> None:
    await asyncio.sleep(0)


async def ends_by_raising() -> None:
    await asyncio.sleep(0)
    raise ValueError("of ours")


async def ends_by_cancelling() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


@pytest.mark.parametrize("end", [ends_by_returning, ends_by_raising, ends_by_cancelling])
async def test_however_a_part_ends_it_is_counted_logged_shown_and_made_anew(metrics: Metrics, end: Any) -> None:
    watch, runs = Watch(metrics), 0
    stays = asyncio.Event()

    async def part() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await end()
        else:
            await stays.wait()

    with capture_logs() as lines:
        kept = watch.keep("link wifi", part)
        await turns()
    assert runs == 2 and metrics.restarts["link-wifi"] == 1
    assert [line["event"] for line in lines if line["event"] == "part_ended"] == ["part_ended"]
    assert "part_restarted" in codes(watch) and watch.alive
    assert "link wifi" in next(watch.problems()).text
    await kept.stop()
    await turns()
    assert runs == 2 and "part_restarted" not in codes(watch)


async def test_a_task_that_anything_cancels_from_outside_is_made_anew(metrics: Metrics) -> None:
    watch, runs = Watch(metrics), 0

    async def part() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(3600)

    kept = watch.keep("output city", part)
    for n in range(1, 4):
        await turns(5)
        assert runs == n
        next(t for t in asyncio.all_tasks() if t.get_name() == "output city").cancel()
    await turns()
    assert runs == 4
    await kept.stop()


async def test_a_part_that_cannot_be_revived_withholds_the_watchdog_until_it_stands_again(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(supervise.time, "monotonic", lambda: now[0])
    watch, good = Watch(metrics), False

    async def part() -> None:
        if not good:
            raise KeyError("again")
        await asyncio.sleep(3600)

    kept = watch.keep("commands", part)
    while kept.restarts < TRIES - 1:
        await asyncio.sleep(0)
    assert watch.alive
    await turns()
    assert not watch.alive and codes(watch)[0] == "part_dead" and next(watch.problems()).level == "failing"
    good = True
    await turns()
    assert not watch.alive, "it may end again at once"
    now[0] += supervise.STEADY_S
    assert watch.alive
    await kept.stop()


async def test_what_ends_in_order_is_no_fault(metrics: Metrics) -> None:
    watch = Watch(metrics)
    kept = watch.keep("output city", ends_by_returning)
    kept.may_end()
    await turns()
    assert not metrics.restarts and codes(watch) == [] and watch.alive
    await kept.stop()


def test_a_step_that_fails_keeps_no_other_from_being_done_and_one_that_always_fails_is_not_alive(
    metrics: Metrics,
) -> None:
    watch, done = Watch(metrics), 0

    def bad() -> None:
        raise ZeroDivisionError

    def good() -> None:
        nonlocal done
        done += 1

    for _ in range(STEPS - 1):
        watch.step("presence", bad)
        watch.step("what is due", good)
    assert done == STEPS - 1 and watch.alive and metrics.refused["internal"] == STEPS - 1
    watch.step("presence", bad)
    assert not watch.alive
    watch.step("presence", good)
    assert watch.alive


def raises(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as e:
        return e


def test_an_exception_is_logged_once_per_place_and_counted_always(metrics: Metrics) -> None:
    with capture_logs() as lines:
        for _ in range(1000):
            caught(metrics, "link lora", raises("same place"))
        caught(metrics, "output city", raises("same place"))
    assert [(line["where"], line["count"]) for line in lines] == [("link lora", 1), ("output city", 1)]
    assert metrics.refused["internal"] == 1001
    assert [p.code for p in supervise.faults(metrics)] == ["internal"] * 2


def test_what_an_exception_quotes_is_not_logged(metrics: Metrics) -> None:
    with capture_logs() as lines:
        caught(metrics, "commands", raises("invalid literal 'hunter22' or \"hunter22\" or b'hunter22'"))
    assert "hunter22" not in str(lines) and "invalid literal" in str(lines)


def test_places_are_bounded(metrics: Metrics) -> None:
    for n in range(3 * supervise.MAX_FAULTS):
        caught(metrics, f"place {n}", raises("x"))
    assert len(metrics.faults) <= supervise.MAX_FAULTS

"""Daily files: whole, rotated, every row once whatever ends the process, and the same rows in every format."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import structlog

from gateway import backoff
from gateway.config import FilesOutputConfig, Filter
from gateway.core.model import Aggregate, AggregateValue, Alarm, Area, Column, Event
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.outputs.build import build
from gateway.outputs.files import FilesOutput
from gateway.outputs.records import COLUMNS, records
from gateway.parts import Outputs
from gateway.store.engine import Write
from gateway.store.memory import MemoryEngine
from gateway.store.sqlite import SqliteEngine
from tests.gateway.told import district
from tests.gateway.world import REPO, T0

NODES = district()
DAY = 86400


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(backoff, "LAST_S", 0.05)


def report(n: int, received: float, node: int = 300) -> Event:
    return Event(
        "report", f"{node}:0:{n}", node, NODES[node].name, "open", received, 600, n, times=(T0 + n, T0 + n + 1),
        columns=(Column("pm10", "ug/m3", (n, n + 0.5), (1,)), Column("temperature", "Cel", (None, 21.5))), latest=((0, 1),),
    )  # fmt: skip


@asynccontextmanager
async def output(
    engine: MemoryEngine | SqliteEngine, folder: Path, *formats: str, **more: Any
) -> AsyncIterator[FilesOutput]:
    made = build(
        FilesOutputConfig("days", folder, formats or ("jsonl",), **more), "gw-1", engine, Metrics(), dict, NODES
    )
    assert isinstance(made, FilesOutput)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.shut()


async def drained(made: FilesOutput) -> None:
    made.wake()
    async with asyncio.timeout(20):
        await made.drain()


async def commit(engine: MemoryEngine | SqliteEngine, *events: Event) -> None:
    await engine.commit([Write(e.node, None, e) for e in events])


def part(folder: Path, name: str = "2026-01-01") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.part").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


async def test_a_day_ends_in_whole_files_of_every_format_with_the_same_rows(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    alarm = Alarm("raised", "above", "warning", "pm10", "ug/m3", 181, 150, T0 + 90, T0 + 60, ("pm10-above",))
    raised = Event("alarm", "300:0:9", 300, "air-quality-1", "open", T0 + 100.25, 600, 9, alarm=alarm)
    async with output(engine, tmp_path, "jsonl", "csv", "parquet") as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)), raised)
        await drained(made)
        assert names(tmp_path) == [".lock", "2026-01-01.part"]
        await commit(engine, report(10, T0 + DAY + 400))
        await drained(made)
    assert names(tmp_path) == [
        ".lock", "2026-01-01.csv", "2026-01-01.jsonl", "2026-01-01.parquet", "2026-01-02.part",
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "2026-01-01.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "id": "300:0:1:0:pm10", "kind": "reading", "node": "air-quality-1", "profile": "air_quality", "lat": 45.54, "lon": 13.73,
        "t": "2026-01-01T00:00:01Z", "received": "2026-01-01T00:00:01Z", "quantity": "pm10", "value": 1.0, "unit": "ug/m3", "quality": "ok",
    }  # fmt: skip
    assert len(lines) == 10 and lines[-1]["state"] == "raised" and lines[-1]["limit"] == 150
    table = pyarrow.parquet.read_table(tmp_path / "2026-01-01.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in table] == lines
    with (tmp_path / "2026-01-01.csv").open(newline="") as f:
        assert [{k: v for k, v in row.items() if v} for row in csv.DictReader(f)] == [
            {k: str(v) for k, v in row.items()} for row in lines
        ]


async def test_every_row_is_there_once_after_any_crash(tmp_path: Path) -> None:
    """The journal may hold anything from nothing to all of what runs ahead of the cursor, and a torn line at its end."""
    rng = random.Random(5)
    engine = MemoryEngine(["days"])
    await commit(engine, *(report(n, T0 + n) for n in range(1, 101)))
    async with output(engine, tmp_path) as made:
        await drained(made)
    whole = (tmp_path / "2026-01-01.part").read_bytes()
    rows = [r["id"] for r in part(tmp_path)]
    assert len(rows) == len(set(rows)) == 300
    for _ in range(30):
        cut = rng.randrange(len(whole) + 1)
        (tmp_path / "2026-01-01.part").write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        events = {r.rsplit(":", 2)[0] for r in rows[:kept]}
        crashed = MemoryEngine(["days"])
        await commit(crashed, *(report(n, T0 + n) for n in range(1, 101)))
        done = max(
            [0, *(n for n in range(1, 101) if all(r in set(rows[:kept]) for r in rows if r.startswith(f"300:0:{n}:")))]
        )
        await crashed.ack(
            "days", rng.randint(max(0, done - 40), done)
        )  # the cursor on disk is never ahead of the journal
        async with output(crashed, tmp_path) as made:
            await drained(made)
        assert sorted(r["id"] for r in part(tmp_path)) == sorted(rows), (cut, len(events))


async def test_killed_while_it_makes_the_days_files_it_comes_to_the_same(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    await commit(engine, *(report(n, T0 + n) for n in range(1, 11)))
    async with output(engine, tmp_path) as made:
        await drained(made)
    (tmp_path / ".2026-01-01.csv.new").write_text("half")
    (tmp_path / "2026-01-01.jsonl").write_text("of the first try, renamed just before the cut")
    again = MemoryEngine(["days"])
    await commit(again, *(report(n, T0 + n) for n in range(1, 11)), report(20, T0 + DAY + 400))
    await again.ack("days", 10)
    async with output(again, tmp_path, "jsonl", "csv") as made:
        await drained(made)
    assert len((tmp_path / "2026-01-01.jsonl").read_text().splitlines()) == 30
    assert names(tmp_path) == [
        ".lock",
        "2026-01-01.csv",
        "2026-01-01.jsonl",
        "2026-01-02.part",
    ]


async def test_what_has_no_row_ends_a_day_that_is_over_and_begins_none(tmp_path: Path) -> None:
    """The running day would be finished as an empty whole file, and the day before stay open until the next row."""
    engine, today = MemoryEngine(["days"]), T0 + DAY + 400
    rowless = replace(report(1, today), kind="opaque", times=(), columns=(), latest=())
    await commit(engine, rowless, report(2, T0 + 2), report(3, T0 + 3))
    async with output(engine, tmp_path) as made:
        await drained(made)
        assert names(tmp_path) == [".lock", "2026-01-01.part"]
        await commit(engine, replace(rowless, id="300:0:4", counter=4))
        await drained(made)
        assert names(tmp_path) == [".lock", "2026-01-01.jsonl"]
        await commit(engine, report(5, today + 5))
        await drained(made)
        assert (
            names(tmp_path) == [".lock", "2026-01-01.jsonl", "2026-01-02.part"]
            and len(part(tmp_path, "2026-01-02")) == 3
        )
    async with output(engine, tmp_path) as made:
        await commit(engine, report(6, today + 6))
        await drained(made)
        assert len(part(tmp_path, "2026-01-02")) == 6 and engine.cursor("days") == engine.newest()


async def test_an_output_that_nothing_is_for_takes_everything_and_makes_no_file(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    await commit(engine, *(report(n, T0 + n * DAY) for n in range(1, 5)))
    async with output(engine, tmp_path, filter=Filter(quantities=frozenset(("no2",)))) as made:
        await drained(made)
    assert names(tmp_path) == [".lock"] and engine.cursor("days") == engine.newest()


async def test_a_clock_that_is_set_back_overwrites_nothing(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        for n, received in enumerate((T0 + 10, T0 + DAY + 400, T0 + 20, T0 + 2 * DAY + 400), 1):
            await commit(engine, report(n, received))
            await drained(made)
    assert names(tmp_path) == [".lock", "2026-01-01.2.jsonl", "2026-01-01.jsonl", "2026-01-02.jsonl", "2026-01-03.part"]


async def test_stragglers_of_yesterday_go_to_the_running_day(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, report(1, T0 + DAY + 1), report(2, T0 + DAY - 1), report(3, T0 + DAY + 2))
        await drained(made)
    assert names(tmp_path) == [".lock", "2026-01-02.part"]


async def test_damaged_lines_are_counted_and_kept_for_people(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, report(1, T0 + 1))
        await drained(made)
        with (tmp_path / "2026-01-01.part").open("ab") as f:
            f.write(b"\x00\x00garbage\n")
        await commit(engine, report(2, T0 + DAY + 400))
        await drained(made)
        assert made._metrics.totals["file_rows_damaged"] == 1
    assert (tmp_path / "2026-01-01.damaged").exists()
    assert len((tmp_path / "2026-01-01.jsonl").read_text().splitlines()) == 3


async def test_a_full_disk_stops_the_cursor_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MemoryEngine(["days"])
    full = True
    sync = os.fsync

    def fsync(fd: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    async with output(engine, tmp_path) as made:
        await commit(engine, report(1, T0 + 1))
        made.wake()
        await asyncio.sleep(0.2)
        assert made.cursor == 0 and made._metrics.totals["output_connects_failed"] >= 2
        full = False
        await drained(made)
    assert [r["id"] for r in part(tmp_path)] == ["300:0:1:0:pm10", "300:0:1:1:pm10", "300:0:1:1:temperature"]


async def test_a_folder_belongs_to_one_output(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as first:
        await commit(engine, report(1, T0 + 1))
        await drained(first)
        async with output(MemoryEngine(["days"]), tmp_path) as second:
            await asyncio.sleep(0.1)
            assert second._metrics.totals["output_connects_failed"] >= 1 and not second.connected


async def test_personal_data_stay_out(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    meter = Event(
        "report", "302:0:1", 302, "water-meter-1", "open", T0 + 1.0, 600, 1, times=(T0,),
        columns=(Column("water_volume", "l", (5.0,)), Column("temperature", "Cel", (9.0,))),
    )  # fmt: skip
    async with output(engine, tmp_path, filter=Filter()) as made:
        await commit(engine, meter)
        await drained(made)
    assert [r["quantity"] for r in part(tmp_path)] == ["temperature"]


def test_the_gateway_needs_no_pyarrow() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; import gateway.service, gateway.outputs.files, gateway.outputs.day"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=60).returncode == 0


def test_aggregates_and_areas_are_rows_too() -> None:
    values = (AggregateValue("pm10", "ug/m3", 21.5, 92.0), AggregateValue("pm25", "ug/m3", None, 40.0))
    base = report(7, T0 + 3700.0)
    e = replace(
        base, kind="aggregate", times=(), columns=(), aggregates=(Aggregate("hour", T0, T0 + 3600, 2, True, values),)
    )
    rows = [{k: v for k, v in row.items() if v is not None} for row in records(e, NODES)]
    assert rows[0] == {
        "id": f"300:0:7:hour.{T0}.2:pm10", "kind": "aggregate", "node": "air-quality-1", "profile": "air_quality", "lat": 45.54, "lon": 13.73,
        "t": "2026-01-01T01:00:00Z", "received": "2026-01-01T01:01:40Z", "quantity": "pm10", "value": 21.5, "unit": "ug/m3", "name": "hour",
        "start": "2026-01-01T00:00:00Z", "capture": 92.0, "revision": 2.0,
    }  # fmt: skip
    assert "value" not in rows[1] and rows[1]["capture"] == 40
    lot = replace(
        base, kind="area", node=0, times=(), columns=(), area=Area("lot-3", "lot", T0, {"free": 6, "capacity": 40})
    )
    assert [(r["area"], r["name"], r["quantity"], r["value"]) for r in records(lot, NODES)] == [
        ("lot-3", "lot", "free", 6), ("lot-3", "lot", "capacity", 40),
    ]  # fmt: skip


# someone changes files in the folder while the output works


def rows_of(folder: Path) -> list[str]:
    return sorted(f"{r['id']}" for r in part(folder))


def expected(first: int, last: int) -> list[str]:
    ends = (":0:pm10", ":1:pm10", ":1:temperature")
    return sorted(f"300:0:{n}{end}" for n in range(first, last + 1) for end in ends)


def removed(folder: Path) -> None:
    (folder / "2026-01-01.part").unlink()


def folder_removed(folder: Path) -> None:
    shutil.rmtree(folder)


def folder_moved(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def emptied(folder: Path) -> None:
    os.truncate(folder / "2026-01-01.part", 0)


def cut_in_a_line(folder: Path) -> None:
    file = folder / "2026-01-01.part"
    os.truncate(file, file.stat().st_size // 2 - 7)


def cut_at_a_row(folder: Path) -> None:
    file = folder / "2026-01-01.part"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:4]))  # an event whole, one in part


def last_newline_lost(folder: Path) -> None:
    file = folder / "2026-01-01.part"
    (folder / "x").write_bytes(file.read_bytes().rstrip())
    os.replace(folder / "x", file)


def edited(folder: Path) -> None:
    file = folder / "2026-01-01.part"
    lines = file.read_bytes().splitlines(keepends=True)
    (folder / "x").write_bytes(b"".join([*lines[5:11], b'{"seq":2}\n', *lines[1:3]]))
    os.replace(folder / "x", file)


def appended(folder: Path) -> None:
    with (folder / "2026-01-01.part").open("ab") as f:
        f.write(b"not ours\n")


CHANGES = (
    removed,
    folder_removed,
    folder_moved,
    emptied,
    cut_in_a_line,
    cut_at_a_row,
    last_newline_lost,
    edited,
    appended,
)


@pytest.mark.parametrize("change", CHANGES)
async def test_rows_that_someone_takes_out_of_the_growing_file_are_written_again_once(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    engine, folder = MemoryEngine(["days"]), tmp_path / "days"
    async with output(engine, folder) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        assert list(made.problems()) == []
        had = rows_of(folder)
        change(folder)
        await commit(engine, report(8, T0 + 8))
        await drained(made)
        (problem,) = made.problems()
        assert problem.code == "file_changed" and "0 are lost" in problem.text
        assert made._metrics.totals["files_changed"] == 1 and made._metrics.totals["file_rows_lost"] == 0
        await commit(engine, report(9, T0 + 9))
        await drained(made)
        assert made._metrics.totals["files_changed"] == 1
        lines = (folder / "2026-01-01.part").read_bytes().splitlines(keepends=True)
        assert all(line.endswith(b"\n") for line in lines)
        ids = sorted(json.loads(line)["id"] for line in lines if b'"id"' in line)
        assert had == expected(1, 7) and ids == expected(1, 9)


async def test_a_part_of_the_file_that_is_lost_in_the_middle_of_a_batch_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed between the look before the rows and the one behind their sync: the cursor waits for rows in the file of that name."""
    engine, sync, gone = MemoryEngine(["days"]), os.fsync, False

    def fsync(fd: int) -> None:
        nonlocal gone
        sync(fd)
        if not gone and (tmp_path / "2026-01-01.part").exists():
            gone = True
            (tmp_path / "2026-01-01.part").unlink()

    async with output(engine, tmp_path) as made:
        monkeypatch.setattr(os, "fsync", fsync)
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await drained(made)
        assert gone and rows_of(tmp_path) == expected(1, 3)


async def test_what_the_spool_no_longer_holds_is_named_and_counted(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        await engine.purge(T0 + DAY + 3.5)  # the first three are as old as what the spool drops
        (tmp_path / "2026-01-01.part").unlink()
        await commit(engine, report(8, T0 + 8))
        with structlog.testing.capture_logs() as logs:
            await drained(made)
        assert rows_of(tmp_path) == expected(4, 8)
        (problem,) = made.problems()
        assert "9 are lost" in problem.text and made._metrics.totals["file_rows_lost"] == 9
        (line,) = (x for x in logs if x["event"] == "file_rows_lost")
        assert line["rows_lost"] == 9 and line["rows_again"] == 12 and line["file"].endswith("2026-01-01.part")
        assert (line["events_above"], line["events_to"]) == (0, 3) and "export" in line["next"]


async def test_a_loss_that_cannot_be_mended_at_once_is_mended_later(tmp_path: Path) -> None:
    """Someone puts a file or a folder in the place of ours: it is away until that has gone, and everything is written then."""
    engine, folder = MemoryEngine(["days"]), tmp_path / "days"
    async with output(engine, folder) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await drained(made)
        for put in ("file", "folder", "pipe", "device"):
            ours = folder / "2026-01-01.part"
            if put == "file":
                shutil.rmtree(folder)
                folder.write_text("x")
            else:
                ours.unlink()
                {"folder": ours.mkdir, "pipe": lambda p=ours: os.mkfifo(p), "device": lambda p=ours: p.symlink_to("/dev/full")}[put]()  # fmt: skip
            await commit(engine, report(engine.newest() + 1, T0 + 9))
            made.wake()
            async with asyncio.timeout(20):
                while made.away is None:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert made.cursor < engine.newest() and [p.code for p in made.problems()] == ["file_changed"]
            (folder.unlink if put == "file" else ours.rmdir if put == "folder" else ours.unlink)()
            await drained(made)
            assert rows_of(folder) == expected(1, engine.newest()), put
        assert made._metrics.totals["files_changed"] == 4 and made._metrics.totals["file_rows_lost"] == 0


async def test_a_full_disk_in_the_midst_of_mending_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, sync, full = MemoryEngine(["days"]), os.fsync, False

    def fsync(fd: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 101)))
        await drained(made)
        (tmp_path / "2026-01-01.part").unlink()
        full = True
        await commit(engine, report(101, T0 + 101))
        made.wake()
        await asyncio.sleep(0.5)
        assert made.cursor == 100
        full = False
        await drained(made)
        assert rows_of(tmp_path) == expected(1, 101) and made._metrics.totals["file_rows_lost"] == 0


async def test_a_day_whose_file_was_cut_ends_whole(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        cut_in_a_line(tmp_path)
        await commit(engine, report(8, T0 + DAY + 400))
        await drained(made)
    lines = (tmp_path / "2026-01-01.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == expected(1, 7)
    assert [r["id"].split(":")[2] for r in part(tmp_path, "2026-01-02")] == ["8"] * 3


async def test_a_journal_that_an_earlier_life_began_is_mended_too(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
    async with output(engine, tmp_path) as made:
        await drained(made)
    async with output(engine, tmp_path) as made:
        await commit(engine, report(8, T0 + 8))
        await drained(made)
        (tmp_path / "2026-01-01.part").unlink()
        await commit(engine, report(9, T0 + 9))
        await drained(made)
    assert rows_of(tmp_path) == expected(1, 9)


async def test_our_own_turn_of_the_day_is_no_change_by_someone(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        for n in range(1, 4):
            await commit(engine, report(n, T0 + n * DAY))
            await drained(made)
        assert list(made.problems()) == [] and made._metrics.totals["files_changed"] == 0


# someone changes files in the folder while no gateway runs, or between a look and the next


def zeroed(folder: Path) -> None:
    file = folder / "2026-01-01.part"
    file.write_bytes(b"\0" * file.stat().st_size)


def moved_to_another_day(folder: Path) -> None:
    (folder / "2026-01-01.part").rename(folder / "2025-12-30.part")


def renamed_to_a_whole_file(folder: Path) -> None:
    (folder / "2026-01-01.part").rename(folder / "2026-01-01.jsonl")


def copied_back(folder: Path) -> None:
    shutil.copy(folder / "2026-01-01.part", folder / "x")
    os.replace(folder / "x", folder / "2026-01-01.part")


def one_value_edited(folder: Path) -> None:
    file = folder / "2026-01-01.part"
    file.write_bytes(file.read_bytes().replace(b'"seq":3', b'"seq":x'))


BETWEEN = (*CHANGES[:-2], edited, zeroed, moved_to_another_day, renamed_to_a_whole_file, one_value_edited)
OPEN_ONLY = Filter(visibility=frozenset(("open",)))


@pytest.mark.parametrize("change", BETWEEN)
async def test_rows_that_someone_takes_out_while_no_gateway_runs_are_written_again_once(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    engine, folder = MemoryEngine(["days"]), tmp_path / "days"
    async with output(engine, folder) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        had = rows_of(folder)
    change(folder)
    async with output(engine, folder) as made:
        await drained(made)
        await until(lambda: any("0 are lost" in p.text for p in made.problems()), 20)
        await commit(engine, report(8, T0 + 8))
        await drained(made)
        assert made._metrics.totals["files_changed"] == 1 and made._metrics.totals["file_rows_lost"] == 0
    lines = (folder / "2026-01-01.part").read_bytes().splitlines()
    ids = sorted(row["id"] for row in map(readable, lines) if row is not None)
    assert had == expected(1, 7) and ids == expected(1, 8)


def readable(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if "id" in row else None


async def until(true: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def test_what_is_as_it_was_is_no_change_by_someone(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
    copied_back(tmp_path)
    for n in range(8, 11):
        async with output(engine, tmp_path) as made:
            await commit(engine, report(n, T0 + n))
            await drained(made)
            assert list(made.problems()) == [] and made._metrics.totals["files_changed"] == 0
    assert rows_of(tmp_path) == expected(1, 10)


@pytest.mark.parametrize("sieve", (Filter(), OPEN_ONLY))
async def test_a_file_that_goes_before_the_next_event_is_mended_by_the_next_life(tmp_path: Path, sieve: Filter) -> None:
    """SIGTERM, or a reload of the filter, before anything has looked."""
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        removed(tmp_path)
    async with output(engine, tmp_path, filter=sieve) as made:
        await commit(engine, report(8, T0 + 8))
        await drained(made)
        assert [p.code for p in made.problems()] == ["file_changed"]
    assert rows_of(tmp_path) == expected(1, 8)


async def test_a_filter_that_allows_less_writes_less_again_and_nothing_is_called_lost(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        removed(tmp_path)
    with structlog.testing.capture_logs() as logs:
        async with output(engine, tmp_path, filter=Filter(quantities=frozenset(("pm10",)))) as made:
            await until(lambda: any(x["event"] == "file_mended" for x in logs), 20)
            assert made._metrics.totals["file_rows_lost"] == 0
    (line,) = (x for x in logs if x["event"] == "file_mended")
    assert line["rows_withheld"] == 7 and rows_of(tmp_path) == [i for i in expected(1, 7) if i.endswith("pm10")]


async def test_a_loss_that_was_found_and_not_mended_is_mended_by_the_next_life(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        removed(tmp_path)
        (tmp_path / "2026-01-01.part").mkdir()
        await commit(engine, report(8, T0 + 8))
        made.wake()
        await until(lambda: made.away is not None, 20)
    (tmp_path / "2026-01-01.part").rmdir()
    async with output(engine, tmp_path) as made:
        await drained(made)
        assert [p.code for p in made.problems()] == ["file_changed"]
    assert rows_of(tmp_path) == expected(1, 8)


async def test_what_is_noted_stays_as_it_was_while_the_file_is_not_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor that is kept in the midst of mending says nothing of what is there by then."""
    engine, sync, full = MemoryEngine(["days"]), os.fsync, False

    def fsync(fd: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        full = True
        removed(tmp_path)
        await commit(engine, report(8, T0 + 8))
        made.wake()
        await until(lambda: made._running is not None and made._running.size == 0, 20)
        await made._track.keep()
    full = False
    (tmp_path / "2026-01-01.part").unlink(missing_ok=True)
    async with output(engine, tmp_path) as made:
        await drained(made)
        assert [p.code for p in made.problems()] == ["file_changed"]
    assert rows_of(tmp_path) == expected(1, 8)


async def test_what_the_spool_no_longer_holds_is_counted_by_the_next_life(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
    await engine.purge(T0 + DAY + 3.5)
    removed(tmp_path)
    for again in (12, 0):
        async with output(engine, tmp_path) as made:
            await drained(made)
            await until(lambda: made.connected, 20)
            assert made._metrics.totals["file_rows_lost"] == (9 if again else 0)
            assert made._metrics.totals["file_rows_again"] == again
    assert rows_of(tmp_path) == expected(4, 7)


async def test_killed_between_the_sync_and_the_cursor_no_row_is_there_twice(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
        await drained(made)
        kept = dict(engine._notes), dict(engine._cursors)
        await commit(engine, *(report(n, T0 + n) for n in range(8, 20)))
        await drained(made)
    engine._notes, engine._cursors = kept
    async with output(engine, tmp_path) as made:
        await drained(made)
        assert made._metrics.totals["files_changed"] == 0
        engine._notes, engine._cursors = kept
    cut_in_a_line(tmp_path)
    async with output(engine, tmp_path) as made:
        await commit(engine, report(20, T0 + 20))
        await drained(made)
    assert rows_of(tmp_path) == expected(1, 20)


@pytest.mark.parametrize(
    "name", ("2026-01-01x.part", "2026-01-01.1.part", "2026-99-01.part", "copy.part", "2026-01-02.part")
)
async def test_what_is_no_day_of_ours_is_left_alone_and_never_chosen(tmp_path: Path, name: str) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await drained(made)
    shutil.copy(tmp_path / "2026-01-01.part", tmp_path / name)
    os.utime(tmp_path / name, (T0 + 10 * DAY, T0 + 10 * DAY))
    copy = (tmp_path / name).read_bytes()
    async with output(engine, tmp_path) as made:
        await commit(engine, report(4, T0 + 4))
        await drained(made)
        assert rows_of(tmp_path) == expected(1, 4) and (tmp_path / name).read_bytes() == copy
        await commit(engine, report(5, T0 + DAY + 400))
        await drained(made)
    running = "2026-01-02.2" if name == "2026-01-02.part" else "2026-01-02"
    assert names(tmp_path) == sorted([".lock", name, "2026-01-01.jsonl", f"{running}.part"])
    assert (tmp_path / name).read_bytes() == copy and len(part(tmp_path, running)) == 3


async def test_the_store_keeps_what_the_file_is_to_hold_with_the_cursor(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db", ["days"])
    await commit(engine, *(report(n, T0 + n) for n in range(1, 8)))
    async with output(engine, tmp_path / "days") as made:
        await drained(made)
    engine.close()
    removed(tmp_path / "days")
    engine = SqliteEngine(tmp_path / "g.db", ["days"])
    async with output(engine, tmp_path / "days") as made:
        await commit(engine, report(8, T0 + DAY))
        await drained(made)
    engine.close()
    lines = (tmp_path / "days" / "2026-01-01.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == expected(1, 7)


@pytest.mark.parametrize("name", ("2026-01-01x.part", "2026-01-01.1.part", "2026-99-01.part", "copy.part"))
async def test_what_is_no_day_of_ours_is_not_chosen_by_a_store_without_notes(tmp_path: Path, name: str) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await drained(made)
    shutil.copy(tmp_path / "2026-01-01.part", tmp_path / name)
    os.utime(tmp_path / name, (T0 + 10 * DAY, T0 + 10 * DAY))
    copy = (tmp_path / name).read_bytes()
    engine._notes.clear()  # as an older gateway leaves it
    async with output(engine, tmp_path) as made:
        await commit(engine, report(4, T0 + 4))
        await drained(made)
    assert rows_of(tmp_path) == expected(1, 4) and (tmp_path / name).read_bytes() == copy


async def test_a_store_of_another_life_is_not_believed(tmp_path: Path) -> None:
    """What a backup notes of the running day is older than what the folder holds: nothing is rewritten by it."""
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await drained(made)
        backup = dict(engine._notes)
        await commit(engine, report(4, T0 + DAY + 400))
        await drained(made)
    running = (tmp_path / "2026-01-02.part").read_bytes()
    restored = MemoryEngine(["days"])
    await commit(restored, *(report(n, T0 + n) for n in range(1, 4)))
    await restored.ack("days", 3, None, backup)
    async with output(restored, tmp_path) as made:
        await until(lambda: made.connected, 20)
        assert made._metrics.totals["files_changed"] == 0
    assert (tmp_path / "2026-01-02.part").read_bytes() == running
    assert names(tmp_path) == [".lock", "2026-01-01.jsonl", "2026-01-02.part"]


# a store that is lost or restored numbers its events anew, and the running day's file continues


def rows_cut(folder: Path, *kept: slice) -> None:
    """Leave some lines of the growing file, as whoever cuts its end or takes lines out."""
    lines = (folder / "2026-01-01.part").read_bytes().splitlines(keepends=True)
    (folder / "x").write_bytes(b"".join(line for part in kept for line in lines[part]))
    os.replace(folder / "x", folder / "2026-01-01.part")


def as_an_older_gateway(folder: Path) -> None:
    """Lines that do not name the store that numbered their events."""
    rows = [{k: v for k, v in row.items() if k != "life"} for row in part(folder)]
    (folder / "2026-01-01.part").write_text("".join(json.dumps(row) + "\n" for row in rows))


async def next_store(folder: Path, since: int, old: bool = False) -> MemoryEngine:
    """A store with events 1 to 6 that all went to the file, and the one that follows it: lost (since is 0), or of a backup when event `since`
    was the newest; more events come then under the same numbers."""
    first = MemoryEngine(["days"])
    async with output(first, folder) as made:
        await commit(first, *(report(n, T0 + n) for n in range(1, 7)))
        await drained(made)
    if old:
        as_an_older_gateway(folder)
    engine = MemoryEngine(["days"])
    await commit(engine, *(report(n, T0 + n) for n in range(1, since + 1)))
    await engine.ack("days", since)
    async with output(engine, folder) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(7, 12)))
        await drained(made)
        assert rows_of(folder) == expected(1, 11)
        assert made._metrics.totals["files_changed"] == 0
    return engine


@pytest.mark.parametrize("since", (0, 3))
@pytest.mark.parametrize("old", (False, True))
@pytest.mark.parametrize("stopped", (False, True))
async def test_rows_of_a_former_store_are_not_taken_for_those_of_this_one(
    tmp_path: Path, since: int, old: bool, stopped: bool
) -> None:
    engine = await next_store(tmp_path, since, old)
    if stopped:
        rows_cut(tmp_path, slice(-9))  # three events of this store, whose numbers rows of the former one have too
    async with output(engine, tmp_path) as made:
        await drained(made)
        if not stopped:
            await commit(engine, report(12, T0 + 12))
            await drained(made)
            rows_cut(tmp_path, slice(-13))
        await commit(engine, report(13, T0 + 13))
        await drained(made)
        await until(lambda: any(" 0 are lost" in p.text for p in made.problems()), 20)
        assert made._metrics.totals["file_rows_again"] == (9 if stopped else 13)
    assert rows_of(tmp_path) == sorted(expected(1, 11) + ([] if stopped else expected(12, 12)) + expected(13, 13))


async def test_rows_of_a_former_store_that_are_cut_are_counted_as_lost(tmp_path: Path) -> None:
    """This store has none of their events, though it has events of the same numbers."""
    engine = await next_store(tmp_path, 0)
    rows_cut(tmp_path, slice(3, 15), slice(21, None))  # events 1 and 6 of the former store, event 7 of this one
    with structlog.testing.capture_logs() as logs:
        async with output(engine, tmp_path) as made:
            await until(lambda: any(" 6 are lost" in p.text for p in made.problems()), 20)
            assert made._metrics.totals["file_rows_again"] == 3 and made._metrics.totals["file_rows_lost"] == 6
    (line,) = (x for x in logs if x["event"] == "file_rows_lost")
    assert line["rows_lost"] == line["of_a_former_store"] == 6 and "backup" in line["next"]
    assert rows_of(tmp_path) == sorted(expected(2, 5) + expected(7, 11))
    async with output(engine, tmp_path) as made:  # reported once
        await commit(engine, report(12, T0 + 12))
        await drained(made)
        assert made._metrics.totals["files_changed"] == made._metrics.totals["file_rows_lost"] == 0


async def test_what_a_restored_store_still_has_of_the_former_ones_rows_is_written_again(tmp_path: Path) -> None:
    engine = await next_store(tmp_path, 3)
    rows_cut(tmp_path, slice(4, None))  # event 1 whole, event 2 in part
    async with output(engine, tmp_path) as made:
        await drained(made)
        await until(lambda: any(" 0 are lost" in p.text for p in made.problems()), 20)
        assert made._metrics.totals["file_rows_again"] == 4
    assert rows_of(tmp_path) == expected(1, 11)


async def test_an_event_that_a_former_store_had_too_is_there_once_after_mending(tmp_path: Path) -> None:
    """A node sends again what the lost store had: the row stands in the file, under the number of the former store."""
    engine = await next_store(tmp_path, 0)
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in (2, 5, 6)))
        await drained(made)
    assert rows_of(tmp_path) == expected(1, 11)
    rows_cut(tmp_path, slice(5), slice(6, 28))  # a row of event 2 and the end of this store's
    async with output(engine, tmp_path) as made:
        await drained(made)
        await until(lambda: any(" 0 are lost" in p.text for p in made.problems()), 20)
    assert rows_of(tmp_path) == expected(1, 11)


async def test_lines_of_an_older_gateway_are_known_by_their_numbers_in_the_same_store(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with output(engine, tmp_path) as made:
        await commit(engine, *(report(n, T0 + n) for n in range(1, 7)))
        await drained(made)
    as_an_older_gateway(tmp_path)
    rows_cut(tmp_path, slice(4), slice(9, None))
    async with output(engine, tmp_path) as made:
        await drained(made)
        await until(lambda: any(" 0 are lost" in p.text for p in made.problems()), 20)
        assert made._metrics.totals["file_rows_again"] == 5
    assert rows_of(tmp_path) == expected(1, 6)


async def test_a_days_files_do_not_say_which_store_numbered_a_row(tmp_path: Path) -> None:
    engine = await next_store(tmp_path, 3)
    async with output(engine, tmp_path, "jsonl", "csv", "parquet") as made:
        await commit(engine, report(20, T0 + DAY + 400))
        await drained(made)
    whole = [json.loads(line) for line in (tmp_path / "2026-01-01.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in whole) == expected(1, 11)
    assert all(row.keys() <= set(COLUMNS) for row in whole)


# an output that leaves its folder


@asynccontextmanager
async def outputs(engine: MemoryEngine) -> AsyncIterator[tuple[Outputs, Callable[..., Any]]]:
    made = Outputs("gw-1", engine, Metrics(), dict)

    async def use(*wanted: FilesOutputConfig, absent: tuple[str, ...] = ()) -> None:
        await made.apply(wanted, NODES, {}, T0, absent=absent)

    try:
        yield made, use
    finally:
        await made.cancel()


async def caught_up(made: Outputs) -> None:
    made.wake()
    async with asyncio.timeout(20):
        await asyncio.gather(*(o.drain() for o in made))


def whole_rows(file: Path) -> list[str]:
    return sorted(json.loads(line)["id"] for line in file.read_text().splitlines())


@pytest.mark.parametrize("now", ("folder", "out"))
@pytest.mark.parametrize("when", ("reload", "start"))
async def test_the_running_day_of_a_folder_that_is_left_becomes_whole_files(
    tmp_path: Path, now: str, when: str
) -> None:
    engine, old = MemoryEngine(["days"]), tmp_path / "old"
    first = FilesOutputConfig("days", old, ("jsonl", "csv"))
    later = (FilesOutputConfig("days", tmp_path / "new"),) if now == "folder" else ()
    async with outputs(engine) as (made, use):
        await use(first)
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await caught_up(made)
        if when == "reload":
            await use(*later)
            await until(lambda: not engine.notes("files:days@" + str(old)), 20)
    async with outputs(engine) as (made, use):
        await use(*later)
        await commit(engine, report(4, T0 + 4))
        await caught_up(made)
        await until(lambda: not engine.notes("files:days@" + str(old)), 20)
        assert list(made.problems()) == []
    assert names(old) == [".lock", "2026-01-01.csv", "2026-01-01.jsonl"]
    assert whole_rows(old / "2026-01-01.jsonl") == expected(1, 3)
    if later:
        assert rows_of(tmp_path / "new") == expected(4, 4)


async def test_a_folder_that_is_left_and_away_is_told_and_made_whole_later(tmp_path: Path) -> None:
    engine, old = MemoryEngine(["days"]), tmp_path / "old"
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("days", old))
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await caught_up(made)
        shutil.rmtree(old)
        old.write_text("in the way")
        await use(FilesOutputConfig("days", tmp_path / "new"))
        await until(lambda: [p.code for p in made.problems()] == ["day_not_left"], 20)
        await commit(engine, report(4, T0 + 4))
        await caught_up(made)
        old.unlink()
        await until(lambda: list(made.problems()) == [], 20)
    assert whole_rows(old / "2026-01-01.jsonl") == expected(1, 3) and rows_of(tmp_path / "new") == expected(4, 4)


async def test_outputs_that_exchange_their_folders_end_their_days_there(tmp_path: Path) -> None:
    engine = MemoryEngine(["a", "b"])
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("a", tmp_path / "x"), FilesOutputConfig("b", tmp_path / "y"))
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await caught_up(made)
        await use(FilesOutputConfig("a", tmp_path / "y"), FilesOutputConfig("b", tmp_path / "x"))
        await commit(engine, report(4, T0 + 4))
        await caught_up(made)
    for folder in (tmp_path / "x", tmp_path / "y"):
        assert whole_rows(folder / "2026-01-01.jsonl") == expected(1, 3)
        assert sorted(r["id"] for r in part(folder, "2026-01-01.2")) == expected(4, 4)


@pytest.mark.parametrize("when", ["reload", "start"])
async def test_an_output_under_another_name_goes_on_in_its_folder_and_writes_no_row_twice(
    tmp_path: Path, when: str
) -> None:
    engine = MemoryEngine(["days", "archive"])
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("days", tmp_path / "x"))
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await caught_up(made)
        if when == "reload":
            await use(FilesOutputConfig("archive", tmp_path / "x"))
            await caught_up(made)
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("archive", tmp_path / "x"))
        await commit(engine, report(4, T0 + 4))
        await caught_up(made)
        assert list(made.problems()) == []
    assert names(tmp_path / "x") == [".lock", "2026-01-01.part"] and rows_of(tmp_path / "x") == expected(1, 4)
    assert list(engine.notes("files:")) == [f"files:archive@{tmp_path / 'x'}"]


@pytest.mark.parametrize("how", ["moved", "copied to another disk", "moved and edited"])
async def test_a_folder_that_was_moved_while_no_gateway_ran_is_gone_on_with_where_it_is(
    tmp_path: Path, how: str
) -> None:
    engine, old, new = MemoryEngine(["days"]), tmp_path / "old", tmp_path / "new"
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("days", old))
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await caught_up(made)
    if how == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
        shutil.rmtree(old)
    if "edited" in how:
        with (new / "2026-01-01.part").open("r+") as f:
            f.write("x")
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("days", new))
        await commit(engine, report(4, T0 + 4))
        await caught_up(made)
        if "edited" in how:  # it is another file then, and the day's is written again where it was
            await until(lambda: not engine.notes(f"files:days@{old}"), 20)
            assert whole_rows(old / "2026-01-01.jsonl") == expected(1, 3)
            return
        assert list(made.problems()) == []
    assert not old.exists() and rows_of(new) == expected(1, 4)


async def test_an_output_that_is_missing_and_has_not_gone_keeps_its_running_day(tmp_path: Path) -> None:
    engine = MemoryEngine(["days"])
    async with outputs(engine) as (made, use):
        await use(FilesOutputConfig("days", tmp_path))
        await commit(engine, *(report(n, T0 + n) for n in range(1, 4)))
        await caught_up(made)
    async with outputs(engine) as (made, use):
        await use(absent=("days",))
        assert made._folders is not None and not made._folders._tasks
        await use(FilesOutputConfig("days", tmp_path))
        await commit(engine, report(4, T0 + 4))
        await caught_up(made)
    assert names(tmp_path) == [".lock", "2026-01-01.part"] and rows_of(tmp_path) == expected(1, 4)


async def test_a_kill_around_any_commit_of_the_cursor_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the day turns: its end is noted before its files are made, and the note goes when they are there."""
    engine, folder = MemoryEngine(["days"]), tmp_path / "days"
    ack = engine.ack
    seen: list[tuple[dict[str, bytes], dict[str, int], Path]] = []

    def look() -> None:
        copy = tmp_path / f"copy-{len(seen)}"
        shutil.copytree(folder, copy)
        seen.append((dict(engine._notes), dict(engine._cursors), copy))

    def looked_at(*asked: Any) -> asyncio.Future[int]:
        look()
        done = ack(*asked)
        look()
        return done

    monkeypatch.setattr(engine, "ack", looked_at)
    async with output(engine, folder) as made:
        for n, received in ((1, T0 + 1), (2, T0 + 2), (3, T0 + DAY + 400)):
            await commit(engine, report(n, received))
            await drained(made)
    monkeypatch.setattr(engine, "ack", ack)
    assert len(seen) >= 10
    for notes, cursors, copy in seen:
        engine._notes, engine._cursors = dict(notes), dict(cursors)
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        async with output(engine, folder) as made:
            await drained(made)
            assert list(made.problems()) == [], copy
        assert names(folder) == [".lock", "2026-01-01.jsonl", "2026-01-02.part"], copy
        assert whole_rows(folder / "2026-01-01.jsonl") == expected(1, 2), copy
        assert sorted(r["id"] for r in part(folder, "2026-01-02")) == expected(3, 3), copy

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
from gateway.outputs.records import records
from gateway.store.engine import Write
from gateway.store.memory import MemoryEngine
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
async def output(engine: MemoryEngine, folder: Path, *formats: str, **more: Any) -> AsyncIterator[FilesOutput]:
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


async def commit(engine: MemoryEngine, *events: Event) -> None:
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

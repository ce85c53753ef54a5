# ruff: noqa: ASYNC240, F811 - `make` is a fixture of another file; files of a few pages, and nothing else in the loop
"""A store whose front is gone, or its end: what can be read of the rest is taken over."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.store import StoreConfig
from gateway.store import schema
from gateway.store.engine import STORE
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_store_care import NOW, count, filled, make  # noqa: F401 - make is a fixture

TABLES = {"nodes": 40, "frames": 1000, "rows": 1000, "spool": 1000}


def grow(path: Path, to: int) -> None:
    with path.open("r+b") as f:
        f.seek(0, os.SEEK_END)
        f.write(os.urandom(to))


def overwrite(n: int) -> Callable[[Path], None]:
    def bite(path: Path) -> None:
        with path.open("r+b") as f:
            f.write(os.urandom(n))

    return bite


def zero(n: int) -> Callable[[Path], None]:
    def bite(path: Path) -> None:
        with path.open("r+b") as f:
            f.write(bytes(n))

    return bite


def shorten(share: float) -> Callable[[Path], None]:
    def bite(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return bite


@pytest.mark.parametrize("bite", [overwrite(16), overwrite(100), zero(100), overwrite(4096), zero(4096)])
async def test_a_spoilt_first_page_costs_nothing_else(
    make: Callable[..., SqliteEngine],
    tmp_path: Path,
    bite: Callable[[Path], None],
) -> None:
    await filled(make)
    bite(tmp_path / "g.db")
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None
    assert {t: engine.recovered["kept"][t] for t in TABLES} == TABLES
    assert engine.cursor("city") == 700 and len(engine.notes("rules:")) == 40
    state = engine.load(7)
    assert state is not None and not any(state.replay.lacks(c) for c in range(1, 26))
    assert not [p for p in tmp_path.iterdir() if "mended" in p.name or "salvage" in p.name]
    assert [p for p in tmp_path.iterdir() if "damaged-" in p.name], "the file itself is kept as it was found"


@pytest.mark.parametrize("pages", [3, 8])
async def test_more_spoilt_pages_cost_what_began_on_them(
    make: Callable[..., SqliteEngine], tmp_path: Path, pages: int
) -> None:
    await filled(make)
    overwrite(4096 * pages)(tmp_path / "g.db")
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None
    kept = engine.recovered["kept"]
    assert sum(kept[t] == n for t, n in TABLES.items()) >= (2 if pages == 3 else 0)
    assert await engine.commit([]) == 0


@pytest.mark.parametrize("share", [0.97, 0.9, 0.5])
async def test_a_file_that_was_cut_keeps_what_stood_before_the_cut(
    make: Callable[..., SqliteEngine], tmp_path: Path, share: float
) -> None:
    await filled(make)
    shorten(share)(tmp_path / "g.db")
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None and engine.recovered["damaged"]
    kept = engine.recovered["kept"]
    for table in ("frames", "rows", "spool"):
        assert kept[table] >= TABLES[table] * (share - 0.15) * 0.5
    assert sum(kept[t] for t in TABLES) >= sum(TABLES.values()) * (share - 0.25)


async def test_a_file_that_was_padded_is_no_damage(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    await filled(make)
    grow(tmp_path / "g.db", 3 * 4096)
    engine = make(StoreConfig(reserve_mb=0))
    kept = (engine.recovered or {"kept": TABLES})["kept"]
    assert {t: kept[t] for t in TABLES} == TABLES


async def test_what_is_only_in_the_log_is_taken_over_with_a_mended_front(
    make: Callable[..., SqliteEngine],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    engine = make(StoreConfig(reserve_mb=0))
    from tests.gateway.test_store_care import aged
    from tests.gateway.test_store_floor import killed

    beside = sqlite3.connect(tmp_path / "g.db")
    beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    beside.close()
    await engine.commit([aged(c, NOW, 7) for c in range(1, 51)])
    killed(engine, tmp_path)
    overwrite(100)(tmp_path / "g.db")
    engine = make(StoreConfig(reserve_mb=0))
    assert len(engine.fetch(0, 99)) - sum(e.event.kind == STORE for e in engine.fetch(0, 99)) == 50


async def test_a_store_that_grew_up_through_versions_has_its_tables_found(
    make: Callable[..., SqliteEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables that were added to a full store begin anywhere in it, not where a new store has them."""
    db = sqlite3.connect(tmp_path / "g.db")
    db.executescript(f"BEGIN; {schema.MIGRATIONS[0]} PRAGMA user_version=1; COMMIT;")
    db.execute("INSERT INTO airtime SELECT 'x', 1, value, 3 FROM generate_series(1, 5000)") if _has_series(
        db
    ) else db.executemany("INSERT INTO airtime VALUES ('x', 1, ?, 3)", [(int(NOW * 1e6) + i,) for i in range(5000)])
    db.commit()
    db.close()
    await filled(make)
    overwrite(4096)(tmp_path / "g.db")
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None
    assert {t: engine.recovered["kept"][t] for t in TABLES} == TABLES and engine.recovered["kept"]["airtime"] == 5000
    assert engine.cursor("city") == 700 and len(engine.notes("rules:")) == 40


def _has_series(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1 FROM generate_series(1, 1)")
    except sqlite3.OperationalError:
        return False
    return True


async def test_without_room_for_a_copy_the_file_is_read_as_it_is(
    make: Callable[..., SqliteEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await filled(make)
    shorten(0.9)(tmp_path / "g.db")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.store.front.shutil.copyfile", full)
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None and count(tmp_path / "g.db", "spool") >= 1

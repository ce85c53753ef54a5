"""The tables of the store, one entry per version of the schema; and how a file is opened and brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog

from gateway.store import private
from gateway.store.audit import AUDIT
from gateway.store.engine import StoreError

MIGRATIONS = (
    """
CREATE TABLE nodes (node INTEGER PRIMARY KEY, online INTEGER NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX nodes_online ON nodes (node) WHERE online;
CREATE TABLE frames (node INTEGER, epoch INTEGER, counter INTEGER, kind INTEGER NOT NULL, received REAL NOT NULL, link TEXT NOT NULL,
  receiver TEXT NOT NULL, rssi INTEGER, snr REAL, reason TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (node, epoch, counter)) WITHOUT ROWID;
CREATE INDEX frames_unread ON frames (node) WHERE reason <> '';
CREATE TABLE rows (node INTEGER, epoch INTEGER, counter INTEGER, row INTEGER, t INTEGER NOT NULL, vals TEXT NOT NULL, suspect TEXT,
  PRIMARY KEY (node, epoch, counter, row)) WITHOUT ROWID;
CREATE INDEX rows_time ON rows (node, t);
CREATE TABLE spool (seq INTEGER PRIMARY KEY AUTOINCREMENT, received REAL NOT NULL, done INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL);
CREATE TABLE cursors (output TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE quarantine (id INTEGER PRIMARY KEY AUTOINCREMENT, received REAL NOT NULL, reason TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE airtime (transmitter TEXT NOT NULL, band INTEGER NOT NULL, start_us INTEGER NOT NULL, airtime_us INTEGER NOT NULL);
""",
    "CREATE TABLE notes (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;",
    AUDIT,
    # express: the lane of alarms, and each output's cursor in it. alarms: where they stay when they leave the spool. forgotten: up to
    # where retention has dropped a node's raw frames, so that a repeat of one of them is not taken for news
    """
ALTER TABLE spool ADD COLUMN express INTEGER NOT NULL DEFAULT 0;
CREATE INDEX spool_express ON spool (seq) WHERE express;
ALTER TABLE cursors ADD COLUMN express INTEGER NOT NULL DEFAULT 0;
UPDATE cursors SET express = seq;
CREATE TABLE alarms (seq INTEGER PRIMARY KEY, received REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE forgotten (node INTEGER, epoch INTEGER, below INTEGER NOT NULL, PRIMARY KEY (node, epoch)) WITHOUT ROWID;
""",
    # what is current of every subject, and under which registry entry and for which outputs (ledger.py)
    """
CREATE TABLE current (subject TEXT PRIMARY KEY, seq INTEGER NOT NULL, alarmed INTEGER NOT NULL, up INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE entries (subject TEXT PRIMARY KEY, generation INTEGER NOT NULL, gone INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE places (place TEXT PRIMARY KEY, generation INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE requests (id INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL, subject TEXT NOT NULL);
""",
)  # one per version of the schema, never changed once released; a store of version n has had the first n
SCHEMA_VERSION = len(MIGRATIONS)

BUSY_MS = 10_000
WAL_BYTES = 8 << 20
"""What stays of the log file once a slow reader beside the gateway has gone."""

log = structlog.get_logger(__name__)

DOWN_FLOOR = "store:down_floor"
CEILING = "store:ceiling"
CLOSED = "store:closed"
TIME = "store:time"
RESTORED = "store:restored"
BACKUP = "store:backup"
RECOVERED = "store:recovered"
SALVAGED = "store:salvaged"
"""Of which damaged file a salvage was made; only until it has taken that one's place."""
GAP = "store:gap"

BORN = 1_767_225_600
"""2026-01-01: no gateway is older. Nodes get no more than one downlink a second for years on end, so the seconds since then are above
any downlink counter that was ever used with their key."""
BUILT = 1_793_491_200
"""2026-11-01, when this version was made (moved on with every release): a clock that says less is wrong. tests/gateway/test_store_floor.py"""
DOWN_CAP = 1 << 31
"""A clock that is decades ahead uses up no more than half of the counters."""
LAST = (1 << 32) - 1
"""The last downlink counter there is."""
JUMP = 1 << 16
"""Downlinks that a copy of the store may be behind the truth, where nothing else says how far."""


def down_floor(unix: float) -> int:
    """Return a downlink counter that was never used before Unix time `unix`; never lower than that of the build, or above DOWN_CAP."""
    return min(max(int(unix), BUILT) - BORN, DOWN_CAP)


def connect(path: Path) -> sqlite3.Connection:
    """Open a store for one thread at a time; a new file is its user's alone. Raises sqlite3.Error."""
    try:
        private.create(path)
    except OSError as e:
        raise sqlite3.OperationalError(f"unable to open database file: {e.strerror}") from e
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        db.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        db.execute(
            "PRAGMA secure_delete=ON"
        )  # what a command's note held until it ended (a WiFi password) must not stay in free pages
    except BaseException:
        db.close()
        raise
    return db


def migrate(db: sqlite3.Connection, path: Path, now: float) -> None:
    """Bring a store up to date; a new one gets its downlink floor (DECISIONS.md). Raises StoreError (newer), sqlite3.Error."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"store {path} has version {version}, this gateway knows {SCHEMA_VERSION}", "run the newer gateway"
        )
    for done in range(version, SCHEMA_VERSION):
        born = f"INSERT INTO notes VALUES ('{DOWN_FLOOR}', '{down_floor(now)}');" if not version and done == 1 else ""
        db.executescript(f"BEGIN; {MIGRATIONS[done]} {born} PRAGMA user_version={done + 1}; COMMIT;")
    if 0 < version < SCHEMA_VERSION:
        log.info("store_migrated", store=str(path), version=version, to=SCHEMA_VERSION,
                 next="nothing; an older gateway does not open it any more")  # fmt: skip

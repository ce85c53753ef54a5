"""`export`: open data from the store, as JSON, CSV or GeoJSON. Only quantities whose visibility is open, of nodes that are open now, unless
--visibility says more; what was left out for it is counted on stderr. A node that has left the registry (a stolen one) is judged by its last entry,
as is one whose number is another's by now; what was taken while a node was shown to fewer stays with those.

JSON and CSV hold every reading of the time range; GeoJSON is a map: each node with its newest value of each quantity in the range.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress

from gateway import __version__
from gateway.config import Config, ConfigError, Filter, load
from gateway.config.outputs import PROFILES, QUANTITIES, meant
from gateway.core.model import OPEN, Event, Node
from gateway.core.registry import LANGUAGES, VISIBILITIES, label, strictest
from gateway.outcome import document, mistake
from gateway.outputs.filter import Sieve
from gateway.outputs.message import iso
from gateway.outputs.records import COLUMNS, Record, records
from gateway.period import add_period
from gateway.store import glance
from gateway.store.archive import config_files
from gateway.store.engine import StoreError
from gateway.store.history import History
from gateway.target import another, taken_by

_ALL = tuple(COLUMNS)
BESIDE = ("-wal", "-shm", "-journal", ".floor", ".lock", ".reserve")  # of a store
Device = tuple[int | None, Node]
"""A device that a number has been of, as History.owners() has it."""
READING = tuple(name for name in _ALL[: _ALL.index("quality") + 1] if name != "kind")  # what a reading has


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb's options."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--format", choices=("json", "csv", "geojson"), default="json")
    parser.add_argument("--file", type=Path, metavar="FILE", help="where to write; default stdout")
    add_period(parser, "time of measurement")
    for name, what in (("node", "nodes"), ("profile", "profiles"), ("area", "areas"), ("quantity", "quantities")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="NAME", help=f"only these {what}; may be repeated"
        )
    parser.add_argument(
        "--visibility",
        action="append",
        choices=VISIBILITIES,
        default=None,
        help="a circle whose readings are written, open by default; each that is wanted is named (--visibility open --visibility restricted)",
    )
    parser.add_argument("--licence", metavar="TEXT", help="said in the head of JSON and GeoJSON, for example CC-BY-4.0")
    parser.add_argument(
        "--json", action="store_true", help="with --file: print one JSON document about what was written"
    )


def run(args: argparse.Namespace) -> int:
    """Export; exit code 0 done, 1 the store or the file failed, 2 usage."""
    try:
        config = load(args.config)
        if args.until <= args.since:
            raise ConfigError(
                f"--to {iso(args.until)} is not after --from {iso(args.since)}", "give --from the earlier time"
            )
        if args.json and args.file is None:
            raise ConfigError("--json speaks on stdout, where the data would go", "add --file FILE")
        if args.file is not None:
            _whole_file(args.file)
            _not_ours(args.file, config)
    except ConfigError as e:
        return _fail("usage", e, e.hint, 2)
    try:
        former = glance.departed(config.store, config.nodes)
        with History(config.store, {**config.nodes, **former}) as history:
            devices = [(owner, n) for number in history.numbers() for owner, n in history.owners(number)]
            _known(args, [n for _, n in devices])
            with _sink(args.file) as f:
                written = _write(config, devices, history, f, args)
    except StoreError as e:
        return _fail("store", e, e.hint, 1)
    except ConfigError as e:  # something has taken the file's name meanwhile
        return _fail("usage", e, e.hint, 2)
    except BrokenPipeError:
        raise  # `| head` has read what it wanted: gateway.outcome ends the verb
    except OSError as e:
        return _fail(
            "file", f"{e.filename or args.file or 'stdout'}: {e.strerror}", "name another place with --file", 1
        )
    if written["hidden_nodes"] or written["hidden_readings"]:
        print(f"left out, since they are not {' or '.join(args.visibility or (OPEN,))}: {written['hidden_nodes']} nodes, and "
              f"{written['hidden_readings']} readings of other nodes (--visibility writes them)", file=sys.stderr)  # fmt: skip
    if written["without_frame"]:
        print(
            f"{written['without_frame']} rows have no frame any more ([store] frames_days), so when they were received is not known",
            file=sys.stderr,
        )
    if args.json:
        document({"file": str(args.file), "format": args.format, **written})
    elif args.file is not None:
        print(
            f"wrote {args.file}: {written['readings']} readings of {written['nodes']} nodes, {iso(args.since)} to {iso(args.until)}"
        )
    return 0


def _whole_file(file: Path) -> None:
    """Raise ConfigError when a file could not appear under this name without taking the place of something that is none."""
    with suppress(OSError):  # a folder that is not there or not ours to see: opening the file says so
        what = taken_by(file)
        if what is not None:
            hint = another(file, what)
            if what not in ("a folder", "a symbolic link") or not os.path.isfile(file):
                hint = f"without --file the data go to stdout: add > {file} instead"
            raise ConfigError(f"--file {file} is {what}, in whose place no file is put", hint)


def _not_ours(file: Path, c: Config) -> None:
    """Raise ConfigError for a file that the gateway lives by: what it was would be gone."""
    path = os.path.realpath(file)
    store = os.path.realpath(c.store)
    ours = {os.path.realpath(f) for f in config_files(c)}
    if path in ours or path == store or path in {f"{store}{end}" for end in BESIDE}:
        raise ConfigError(f"--file {file} is a file of this gateway, which would be replaced", "name a new file")


def _known(args: argparse.Namespace, nodes: Sequence[Node]) -> None:
    """Raise ConfigError for a name by which nothing could ever be chosen: an export of nothing looks like a time without readings."""
    chosen: tuple[tuple[str, set[str], str], ...] = (
        ("node", {n.name for n in nodes}, "no node, nor was one"),
        ("profile", {*PROFILES, *(n.profile for n in nodes)}, "no profile"),
        ("area", {a for n in nodes for a in n.area}, "no area of any node"),
        ("quantity", set(QUANTITIES), "no quantity"),
    )
    for option, known, what in chosen:
        for name in getattr(args, option):
            if name not in known and (option != "quantity" or name.partition("-")[0] not in known):
                raise ConfigError(f"--{option} {name!r} is {what}", meant(name, known, f"leave --{option} out"))


@contextmanager
def _sink(file: Path | None) -> Iterator[TextIO]:
    """Give stdout, or a file that appears under its name when it is whole.

    Nothing but a regular file is replaced (gateway.target). It is its owner's alone (0600), unless it takes the place of a file that is more open. The name beside it is random and must be new: the
    folder may be one that others write to, who could have put a link there.
    """
    if file is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8", newline="") as f:
            yield f
            f.flush()
            with suppress(FileNotFoundError):
                before = os.lstat(file)
                if stat.S_ISREG(before.st_mode):
                    os.fchmod(fd, stat.S_IMODE(before.st_mode) & 0o666)
            os.fsync(fd)
        _whole_file(file)
        os.replace(beside, file)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def _write(
    config: Config, devices: Sequence[Device], history: History, f: TextIO, args: argparse.Namespace
) -> dict[str, int]:
    chosen = [(owner, n) for owner, n in devices if not args.node or n.name in args.node]
    since, until = int(args.since), int(args.until)
    circles = frozenset(args.visibility or (OPEN,))
    sieve = Sieve(Filter(circles, frozenset(args.profile), frozenset(args.quantity), frozenset(args.area)))
    everything = Sieve(
        Filter(frozenset(VISIBILITIES), frozenset(args.profile), frozenset(args.quantity), frozenset(args.area))
    )
    counts = {"nodes": 0, "readings": 0, "hidden_nodes": 0, "hidden_readings": 0, "without_frame": 0}
    head = {
        "generated_by": f"citymote {__version__}",
        "gateway": config.id,
        "from": iso(args.since),
        "to": iso(args.until),
    }
    if args.licence:
        head["licence"] = args.licence

    def readings(owner: int | None, node: Node) -> Iterator[Record]:
        nodes = {node.id: node}  # a number may have been of several devices
        for event in history.reports_of(node.id, since, until, owner):
            seen, all_ = sieve.narrow(event, nodes), everything.narrow(event, nodes)
            counts["hidden_readings"] += _values(all_) - _values(seen)
            if seen is None:
                continue
            if not event.received:
                counts["without_frame"] += sum(since <= t < until for t in event.times)
            for t, record in ((r["t"], r) for r in records(seen, nodes)):
                if iso(since) <= t < iso(until):
                    yield {name: record[name] for name in READING}

    def each() -> Iterator[tuple[Node, Iterator[Record]]]:
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            for owner, node in bar.track(chosen, description="nodes"):
                if any(strictest(node.visibility, circle) == circle for circle in circles):
                    yield node, readings(owner, node)
                elif (owner is not None or node.id not in config.nodes) and next(
                    history.reports_of(node.id, since, until, owner), None
                ) is None:
                    continue  # it had left by then
                elif not args.area or not set(args.area).isdisjoint(node.area):
                    counts["hidden_nodes"] += not args.profile or node.profile in args.profile

    _FORMATS[args.format](f, head, each(), counts)
    return counts


def _values(event: Event | None) -> int:
    return 0 if event is None else sum(v is not None for c in event.columns for v in c.values)


Nodes = Iterator[tuple[Node, Iterator[Record]]]


def _flat(nodes: Nodes, counts: dict[str, int]) -> Iterator[Record]:
    for _, found in nodes:
        before = counts["readings"]
        for record in found:
            counts["readings"] += 1
            yield record
        counts["nodes"] += counts["readings"] > before


def _json(f: TextIO, head: dict[str, str], nodes: Nodes, counts: dict[str, int]) -> None:
    f.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "readings": [')
    for n, record in enumerate(_flat(nodes, counts)):
        f.write(
            (",\n" if n else "\n") + json.dumps({k: v for k, v in record.items() if v is not None}, ensure_ascii=False)
        )
    f.write("\n]}\n")


def _csv(f: TextIO, head: dict[str, str], nodes: Nodes, counts: dict[str, int]) -> None:
    writer = csv.DictWriter(f, READING, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(_flat(nodes, counts))


def _geojson(f: TextIO, head: dict[str, str], nodes: Nodes, counts: dict[str, int]) -> None:
    """RFC 7946: one Feature per node; geometry null where a node has no place."""
    f.write(json.dumps({"type": "FeatureCollection", **head}, ensure_ascii=False)[:-1] + ', "features": [')
    for node, found in nodes:
        newest: dict[str, dict[str, Any]] = {}
        for r in found:
            if r["quantity"] not in newest or r["t"] >= newest[r["quantity"]]["t"]:
                names = {language: label(r["quantity"], language) for language in LANGUAGES}
                newest[r["quantity"]] = {
                    "value": r["value"],
                    "unit": r["unit"],
                    "t": r["t"],
                    "quality": r["quality"],
                    "label": names,
                }
        if not newest:
            continue
        place = None if node.lat is None else {"type": "Point", "coordinates": [node.lon, node.lat]}
        properties = {"profile": node.profile, "area": list(node.area), "quantities": newest}
        feature = {"type": "Feature", "id": node.name, "geometry": place, "properties": properties}
        f.write((",\n" if counts["nodes"] else "\n") + json.dumps(feature, ensure_ascii=False))
        counts["nodes"] += 1
        counts["readings"] += len(newest)
    f.write("\n]}\n")


_FORMATS = {"json": _json, "csv": _csv, "geojson": _geojson}


def _fail(error: str, text: object, hint: str, code: int) -> int:
    mistake(error, str(text), hint)
    return code

"""`citymote gateway backup` and `check --store`: look after a gateway's store while the gateway works."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gateway.config import Config, ConfigError, load
from gateway.store.archive import archive
from gateway.store.backup import backup as copy_store
from gateway.store.backup import examine
from gateway.store.engine import StoreError
from gateway.store.restore import restore as put_back
from tools.named import NamedPath
from tools.report import FAILED, USAGE, document, fail


def config_of(config: Path, as_json: bool) -> Config:
    """Return a configuration; leaves with the complaint when it cannot be read."""
    try:
        return load(config)
    except ConfigError as e:
        fail("bad_config", str(e), hint=e.hint, as_json=as_json, code=USAGE)


@click.command("backup")
@click.argument("file", type=NamedPath())
@click.option("--config", type=NamedPath(), required=True, help="The gateway's TOML file.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="A tar file with configuration, registry, rules and secrets too: a box made anew needs no more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def backup(file: Path, config: Path, everything: bool, as_json: bool) -> None:
    """Copy the store to FILE (a new one), as of one moment, while the gateway works.

    To restore: stop the gateway, move gateway.db, gateway.db-wal and gateway.db-shm away, copy FILE to gateway.db, start. With --all:
    `citymote gateway restore FILE`. FILE holds all keys then: keep it as you keep them.
    """
    c = config_of(config, as_json)
    store = c.store
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"backup of {store.name}", total=None)
        try:
            made = (
                archive(c, file, time.time(), lambda done, all_: bar.update(task, completed=done, total=all_))
                if everything
                else copy_store(
                    store, file, time.time(), lambda done, all_: bar.update(task, completed=done, total=all_)
                )
            )
        except StoreError as e:
            bar.stop()
            fail("backup", str(e), hint=e.hint, as_json=as_json, code=FAILED)
    if as_json:
        document({"ok": True, **made})
    else:
        files = f", {len(made['files'])} files" if everything else ""
        click.echo(
            f"{made['file']}: {made['bytes']} bytes{files}, {made['events']} events, {made['frames']} frames, checked"
        )
        if everything:
            print("next: keep it where the keys are kept, encrypted: it holds all of them", file=sys.stderr)


@click.command("restore")
@click.argument("file", type=NamedPath())
@click.option("--root", type=NamedPath(), default=Path("/"), help="Root of an image instead of /.")
@click.option("--dry-run", is_flag=True, help="Say what would be written and kept, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def restore(file: Path, root: Path, dry_run: bool, as_json: bool) -> None:
    """Put back what `backup --all` wrote to FILE, while the gateway is stopped.

    What stands there is kept beside it as NAME.before-restore-TIME; when any file cannot be written, nothing is changed.
    """
    try:
        made = put_back(file, time.time(), root, dry_run)
    except StoreError as e:
        fail("restore", str(e), hint=e.hint, as_json=as_json, code=FAILED)
    if not made["checked"]:
        print(f"note: {file} was made by an older citymote and has no checksums, so its files could not be checked", file=sys.stderr)  # fmt: skip
    if dry_run and made["running"]:
        print("next: stop the gateway before you restore: systemctl stop citymote-gateway", file=sys.stderr)
    for x in made["left"] or ():
        discovery = f" and {x['discovery']}/device/" if x["discovery"] else ""
        print(f"warning: output {x['output']} has published below {x['root']}/{discovery} at {x['address']} since the backup: that stays there, household "
              "data too, and the restored gateway does not know of it\n"
              "next: after the start, give an output that root and that broker and reload, then take it back and reload: the gateway empties what "
              "it left (docs/operator/backup.md)", file=sys.stderr)  # fmt: skip
    if not dry_run and made["left"] is None:
        print("note: the store that stood there cannot be read, so it is not known what it published since the backup (docs/operator/backup.md)", file=sys.stderr)  # fmt: skip
    if as_json:
        document({"ok": True, **made})
        return
    would = "would write" if dry_run else "wrote"
    for verb, names in ((would, made["files"]), ("would keep" if dry_run else "kept", made["kept"])):
        click.echo("".join(f"{verb} {name}\n" for name in names), nl=False)
    if not dry_run:
        print(
            "next: citymote gateway check --config FILE, citymote gateway check --store --config FILE, then start the gateway",
            file=sys.stderr,
        )


def check_store(config: Path, as_json: bool) -> None:
    """Check a whole store and print what is in it. Exit code 1 when it is damaged."""
    store = config_of(config, as_json).store
    console = Console(stderr=True)
    try:
        with console.status(f"checking {store}"):
            found = examine(store)
    except StoreError as e:
        fail("store", str(e), hint=e.hint, as_json=as_json, code=FAILED)
    if as_json:
        document({"ok": not found["problems"] and not found["newer"], **found})
    else:
        click.echo(_short(found))
    for problem in found["problems"]:
        print(f"error: {store}: {problem}", file=sys.stderr)
    if found["newer"]:
        print(f"error: {store} has version {found['version']}, this program knows {found['known_version']}\n"
              "next: run the newer gateway; this one refuses the store and changes nothing in it", file=sys.stderr)  # fmt: skip
        sys.exit(FAILED)
    if found["problems"]:
        print("next: restart the gateway: it moves the file aside and takes over what can be read", file=sys.stderr)
        sys.exit(FAILED)


def _short(found: dict[str, Any]) -> str:
    rows = ", ".join(f"{n} {table}" for table, n in found["rows"].items() if n)
    state = "damaged" if found["problems"] else "sound"
    return (
        f"{found['store']}: {state}, version {found['version']}, {found['bytes_used'] / 1e6:.1f} MB in use, "
        f"{found['waiting']} events not taken by every output\n{rows}"
    )

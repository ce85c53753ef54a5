"""`citymote gateway audit`: who ordered what of which node, and what came of it; read from the store beside a running gateway."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gateway.config import Config, ConfigError, load
from gateway.config.outputs import meant
from gateway.store.audit import entries
from gateway.store.engine import StoreError
from gateway.store.glance import departed
from tools.duration import DURATION
from tools.named import NamedPath
from tools.report import USAGE, document, fail, plain


def _since(text: str | None) -> float:
    """Return Unix time of "2026-01-31", of RFC 3339, or of "2h" ago."""
    if text is None:
        return 0.0
    now = datetime.now(UTC)
    if text[-1:] in "smhd" and text[:-1].isdigit():
        return now.timestamp() - DURATION.convert(text, None, None)
    t = datetime.fromisoformat(text)
    return (t if t.tzinfo else t.replace(tzinfo=UTC)).timestamp()


def _known(c: Config, node: str) -> None:
    """Raise ConfigError for a name of no node, of none before and of no request: an empty log looks like a node that no one ordered anything of."""
    names = {n.name for n in (*c.nodes.values(), *departed(c.store, c.nodes).values())}
    if node not in names and next(entries(c.store, node), None) is None:
        raise ConfigError(f"--node {node!r} is no node, nor was one", meant(node, names, "leave --node out"))


@click.command("audit")
@click.option("--config", type=NamedPath(), required=True, help="The gateway's TOML file.")
@click.option("--node", help="Only what concerned this node.")
@click.option("--requester", help="Only what this one asked for.")
@click.option("--since", help="From this time on (2026-01-31, or RFC 3339), or so long ago (2h, 7d).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def audit(config: Path, node: str | None, requester: str | None, since: str | None, as_json: bool) -> None:
    """Every step of every command and every refusal, with its requester. The log is append-only."""
    try:
        start = _since(since)
    except ValueError:
        fail(
            "bad_time",
            f"--since is {since!r}",
            hint="write 2026-01-31, 2026-01-31T12:00:00Z, or 2h",
            as_json=as_json,
            code=USAGE,
        )
    try:
        c = load(config)
        found = list(entries(c.store, node, start, requester))
        if node is not None and not found:
            _known(c, node)
    except ConfigError as e:
        fail("bad_config", str(e), hint=e.hint, as_json=as_json, code=USAGE)
    except StoreError as e:
        fail("store", str(e), hint=e.hint, as_json=as_json)
    if as_json:
        document({"ok": True, "entries": [{**dataclasses.asdict(e), "t": _iso(e.t)} for e in found]})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("time", "node", "requester", "id", "command", "state", "detail"):
        table.add_column(title, overflow="fold")
    for e in found:
        args = e.body.get("args") or []
        words = " ".join(map(str, args)) if isinstance(args, list) else " ".join(f"{k}={v}" for k, v in args.items())
        why = e.body.get("reason")
        what = f"{e.name} {words}".strip() + (f" ({why})" if why else "")
        detail = e.body.get("error", "") + (": " if e.body.get("error") and e.detail else "") + e.detail
        cells = (
            _iso(e.t),
            e.node,
            e.requester,
            e.id,
            what,
            e.state + (" (asked again)" if e.body.get("again") else ""),
            detail,
        )
        table.add_row(*map(plain, cells))
    Console(width=None if Console().is_terminal else 200, highlight=False, markup=False).print(table)


def _iso(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

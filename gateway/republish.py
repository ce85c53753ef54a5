"""`republish`: have everything that is current published once more to one output, all of it or one node's.

A request is a row in the store, so it needs no socket and no signal, and no other right than to write there: run it as the gateway's own
user. A running gateway looks for requests every second; one that is stopped does it when it connects. What the output may say no more
under any former registry entry, format or filter is emptied at the same time.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from gateway.config import Config, ConfigError, MqttOutputConfig, load
from gateway.config.rights import denied
from gateway.outcome import DONE, FAILED, document, mistake, say
from gateway.outputs.refusal import NEXT
from gateway.store import ledger, private
from gateway.store.engine import StoreError
from gateway.store.place import index_of

NAMED = 5  # topics that a broker refuses
WAIT_S = 30.0  # for a running gateway to begin; a whole city takes longer to end


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb's options."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="NAME", help="the [output.NAME] whose broker is to have it")
    parser.add_argument("--node", metavar="NAME", help="one node, by name or number; all of them by default")
    parser.add_argument(
        "--forget",
        action="store_true",
        help="of an output that was taken out, or has another address now: the former broker is gone for good. NAME@HOST:PORT names one of several",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Ask for it; exit code 0 done or noted, 1 the store failed or the broker refuses some of it, 2 usage. Interrupted, it leaves what it has asked for."""
    try:
        config = load(args.config)
        subject = _subject(config, args)
        told = _forget(config, args.output) if args.forget else _ask(config, args.output, subject)
    except ConfigError as e:
        return _fail("usage", e, e.hint, 2)
    except StoreError as e:
        return _fail("failed", e, e.hint, 1)
    if args.json:
        document({"output": args.output, "node": args.node, **told})
    elif "refused" in told:
        say(str(told["text"]), NEXT)
    else:
        print(told["text"])
    return FAILED if "refused" in told else DONE


def _subject(config: Config, args: argparse.Namespace) -> str:
    if args.forget:
        return ""
    output = next((o for o in config.outputs if o.name == args.output), None)
    if not isinstance(output, MqttOutputConfig):
        known = ", ".join(o.name for o in config.outputs if isinstance(o, MqttOutputConfig)) or "none"
        raise ConfigError(f"there is no MQTT output {args.output!r}", f"MQTT outputs of this configuration: {known}")
    if args.node is None:
        return ""
    for number, node in config.nodes.items():
        if args.node in (node.name, str(number)):
            return str(number)
    raise ConfigError(f"there is no node {args.node!r}", "give a name or number of nodes.toml")


def _ask(config: Config, output: str, subject: str) -> dict[str, str | bool | list[str]]:
    with closing(_open(config.store)) as db, db:
        request = db.execute("INSERT INTO requests (output, subject) VALUES (?, ?)", (output, subject)).lastrowid
    if not _is_running(config.store):
        return {
            "running": False,
            "done": False,
            "text": "noted: the gateway is not running and will do it when it connects",
        }
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline:
            with closing(_open(config.store)) as db:
                if db.execute("SELECT 1 FROM requests WHERE id = ?", (request,)).fetchone() is None:
                    if refused := _refused(db, config, output, subject):
                        more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
                        text = f"{output} has all but what its broker refuses: {', '.join(refused[:NAMED])}{more}"
                        return {"running": True, "done": False, "refused": refused, "text": text}
                    return {"running": True, "done": True, "text": f"published again to {output}, and acknowledged"}
            time.sleep(0.2)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the request stays noted, and the gateway goes through with it; gw/{config.id}/health names an output that is away"
        ) from None
    return {"running": True, "done": False,
            "text": f"noted: under way, or {output} is away; gw/{config.id}/health says so"}  # fmt: skip


def _refused(db: sqlite3.Connection, config: Config, output: str, subject: str) -> list[str]:
    """Return the retained topics, of a subject or all, that an output's broker has refused."""
    found: list[str] = []
    for o in config.outputs:
        if o.name == output and isinstance(o, MqttOutputConfig):
            key = f"{ledger.REFUSED}{ledger.place_key(output, o.broker.host, o.broker.port)}"
            row = db.execute("SELECT body FROM notes WHERE key = ?", (key,)).fetchone()
            known = ledger.read_refused(None if row is None else row[0])
            for about, topics in known.items():
                found += (topics or ["further topics"]) if subject in ("", about) or not about else []
    return sorted(found)


def _forget(config: Config, output: str) -> dict[str, str | bool]:
    """Forget what an output has left at brokers where it is no more; where it is now is never forgotten. output: its name, or NAME@ADDRESS.

    Raises StoreError, and ConfigError when there is nothing of the kind.
    """
    with closing(_open(config.store)) as db, db:
        places = {key: ledger.read_place(body) for key, body in db.execute("SELECT place, body FROM places")}
        left = [key for key, place in places.items() if place.now is None]
        gone = [key for key in left if output in (key, places[key].output)]
        db.executemany("DELETE FROM places WHERE place = ?", [(key,) for key in gone])
    if not gone:
        there = [key for key, place in places.items() if place.now is not None and output in (key, place.output)]
        known = f"left behind: {', '.join(left)}" if left else "the store knows of none that left anything behind"
        if there:
            raise ConfigError(f"output {output} is in use at {places[there[0]].address}",
                              f"--forget is for one that was taken out or moved; {known}")  # fmt: skip
        raise StoreError(f"the store knows of no output {output!r} that was taken out", known)
    return {"done": True, "text": f"forgotten: what was published by {', '.join(gone)}"}


def _open(path: Path) -> sqlite3.Connection:
    """Open an existing store beside a running gateway. Raises StoreError."""
    index = index_of(Path(os.path.realpath(path)))
    if _is_running(path) and not index.exists():
        raise StoreError(f"{index} was removed under the gateway", "restart the gateway, then ask again")
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=10.0)
        db.execute("SELECT count(*) FROM requests")
    except sqlite3.Error as e:
        raise StoreError(
            f"store {path}: {e}",
            denied(path, "run this as the gateway's own user; a gateway that never ran has no store", write=True),
        ) from e
    return db


def _is_running(store: Path) -> bool:
    try:
        return private.in_use(store)
    except OSError:
        return False  # another user's lock: the request is noted, and served by whoever holds it


def _fail(error: str, text: object, hint: str, code: int) -> int:
    mistake(error, str(text), hint)
    return code

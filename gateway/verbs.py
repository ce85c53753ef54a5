"""`check`, `init` and `key`: what an operator does before the gateway runs. Results on stdout, complaints on stderr, one document with --json."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gateway import install as system
from gateway import states, tls
from gateway.config import Broker, Config, ConfigError, MqttLinkConfig, MqttOutputConfig, load
from gateway.config.advice import MOST, Finding, Lines, findings, keys_beside
from gateway.config.identity import host_id
from gateway.config.keys import weak
from gateway.config.template import config_text, registry_text
from gateway.links.link import LinkError
from gateway.mqtt_ask import NO_RETAIN_NEXT, NoMqtt, ask
from gateway.outcome import DONE, FAILED, USAGE, document, mistake
from gateway.store import glance
from gateway.store.engine import StoreError

MOST_KEYS = 100_000
SHORT = 16 << 10  # bytes of a packet that Home Assistant's discovery of a node with many quantities needs


def complain(error: ConfigError | StoreError | LinkError) -> None:
    """Print what is wrong and what to do next; of a configuration, everything that is."""
    more = error.more if isinstance(error, ConfigError) else ()
    for e in (error, *more):
        print(f"error: {e}", file=sys.stderr)
        if e.hint:
            print(f"next: {e.hint}", file=sys.stderr)


def check(file: Path, as_json: bool = False, strict: bool = False, brokers: bool = False) -> int:
    """Read the configuration and the registry; print what a run would do. Exit code 0, or 2 with all complaints.

    Dangerous findings (advice.py) are refused, others are warnings on stderr; strict: those are refused too. brokers: connect to each once and
    leave again, without publishing anything.
    """
    try:
        c = load(file)
    except ConfigError as e:
        beside = keys_beside(e)
        if as_json:
            mistakes = [*(m.document() for m in (e, *e.more)), *(f.document() for f in beside)]
            document({"ok": False, "error": "bad_config", "text": str(e), "hint": e.hint, "mistakes": mistakes})
        complain(e)
        _mention(beside, strict)
        _count(1 + len(e.more) + sum(f.refuses or strict for f in beside))
        return USAGE
    found = sorted([*findings(c), *_stored(c), *(_asked(c) if brokers else ())], key=lambda f: not f.refuses)
    refused = [f for f in found if f.refuses or strict]
    _mention(found, strict)
    if refused:
        if as_json:
            first, mistakes = refused[0], [f.document() for f in refused]
            document({"ok": False, "error": first.code, "text": first.text, "hint": first.hint, "mistakes": mistakes})
        return USAGE
    told = _told(c)
    if as_json:
        document({"ok": True, **told, "warnings": [f.document() for f in found]})
        return DONE
    outputs = ", ".join(f"{name} ({what})" for name, what in told["outputs"].items())
    print(
        f"{c.file}: gateway {c.id}, {len(c.nodes)} nodes, links {', '.join(told['links'])}, outputs {outputs}, "
        f"store {c.store}, http {told['http'] or 'off'}"
    )
    return DONE


def _stored(c: Config) -> list[Finding]:
    """Compare the registry with what the store knows of its nodes: a gateway refuses all frames under a key that was changed without its epoch."""
    try:
        known = glance.described(c.store)
    except StoreError as e:
        return [Finding("store_unread", f"{e}, so the nodes' keys were not compared with those in use", e.hint)]
    at = Lines(c.gateway.registry)
    found: list[Finding] = []
    for node in c.nodes.values():
        for changed in states.changed_keys([node], known):
            text, hint = states.tell([changed])
            found.append(Finding("key_changed", f"{at(node.id)}: {text}; its frames would be refused", hint, True))
    return found[:MOST]


def _asked(c: Config) -> Iterator[Finding]:
    """What the brokers report of themselves: an output whose broker retains nothing leaves late subscribers without anything."""
    outputs = [o for o in c.outputs if isinstance(o, MqttOutputConfig)]
    named: dict[Broker, list[str]] = {}
    for kind, x in (
        *(("output", o) for o in outputs),
        *(("link", x) for x in c.links if isinstance(x, MqttLinkConfig)),
    ):
        named.setdefault(x.broker, []).append(f"{kind}.{x.name}")
    for broker, names in named.items():
        place = f"{c.file}: {', '.join(names)}: broker {broker.host}:{broker.port}"
        try:
            answer = ask(broker)
        except NoMqtt as e:
            yield Finding(
                "no_mqtt",
                f"{place} is no MQTT broker as far as we can tell: {e}",
                "correct host and port; a port with TLS (often 8883) needs ca_file, one without (1883) must not have it",
                True,
            )
            continue
        except (OSError, ValueError) as e:
            reason, hint = tls.explain(e)
            yield Finding(
                "broker_away", f"{place} cannot be reached: {reason}", hint or "start it, or correct the address"
            )
            continue
        if answer is None:
            continue  # it speaks 3.1.1 alone, which has no words for this
        if answer.refused:
            yield Finding("broker_refuses", f"{place} lets us not in: {answer.refused}", "correct username, password_file or the broker's users", True)  # fmt: skip
        if not answer.retains and any(o.broker == broker for o in outputs):
            yield Finding("broker_keeps_nothing", f"{place} keeps no retained messages", NO_RETAIN_NEXT, True)
        if answer.longest is not None and answer.longest < SHORT and any(o.broker == broker for o in outputs):
            yield Finding("broker_takes_short", f"{place} takes at most {answer.longest} bytes a packet; discovery and whole packs may be longer",
                          "raise it (mosquitto: max_packet_size); what does not fit is set aside and named in health")  # fmt: skip


def dangerous(file: Path) -> tuple[int | None, Path | None]:
    """For a reload: complain of what `check` refuses without --strict. How many findings that were, None when the file cannot be used; and the store."""
    try:
        c = load(file)
    except ConfigError as e:
        complain(e)
        _count(1 + len(e.more))
        return None, None
    refused = [f for f in findings(c) if f.refuses]
    _mention(refused, False)
    return len(refused), c.store


def _count(mistakes: int) -> None:
    """How many there are, as the last line: the first ones may have left the screen."""
    if mistakes > 1:
        print(f"{mistakes} mistakes", file=sys.stderr)


def _mention(found: list[Finding], strict: bool) -> None:
    for f in found:
        print(f"{'error' if f.refuses or strict else 'warning'}: {f.text}\nnext: {f.hint}", file=sys.stderr)


def _told(c: Config) -> dict[str, Any]:
    return {
        "file": str(c.file),
        "gateway": c.id,
        "nodes": len(c.nodes),
        "links": [link.name for link in c.links],
        "outputs": {o.name: o.describe() for o in c.outputs},
        "store": str(c.store),
        "http": f"{c.http.host}:{c.http.port}" if c.http else None,
    }


def init(folder: Path, as_json: bool = False) -> int:
    """Write gateway.toml and an empty nodes.toml (mode 0600) into a folder. Refuses, exit code 1, when one of them is there."""
    files = {
        folder / "gateway.toml": (config_text({"gateway.id": host_id()}), 0o644),
        folder / "nodes.toml": (registry_text(), 0o600),
    }
    there = [f for f in files if f.exists() or f.is_symlink()]
    if there:
        return _refuse("exists", f"{', '.join(map(str, there))} is there already",
                       "name another folder with --dir, or move it away", as_json)  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, (text, mode) in files.items():
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                os.fchmod(fd, mode)
                f.write(text)
    except OSError as e:
        return _refuse("cannot_write", f"{e.filename or folder}: {e.strerror}", "name a folder you may write to with --dir", as_json)  # fmt: skip
    if as_json:
        document({"ok": True, "files": [str(f) for f in files]})
    else:
        print("\n".join(f"wrote {f}" for f in files))
        print(f"next: enter nodes in {folder / 'nodes.toml'}, then citymote gateway check --config {folder / 'gateway.toml'}", file=sys.stderr)  # fmt: skip
    return DONE


def key(number: int, as_json: bool = False) -> int:
    """Print keys of 16 random bytes as hex, one a line; exit code 2 for a number that is none of 1..MOST_KEYS. Nothing keeps them."""
    if not 1 <= number <= MOST_KEYS:
        mistake("usage", f"--number is {number}", f"choose 1..{MOST_KEYS}", as_json)
        return USAGE
    made: list[str] = []
    while len(made) < number:
        one = secrets.token_bytes(16)
        if weak(one) is None:  # `check` would refuse it: one of a thousand million looks like a pattern
            made.append(one.hex())
    if as_json:
        document({"ok": True, "keys": made})
    else:
        print("\n".join(made))
        if sys.stdout.isatty():
            print('next: key = "..." in nodes.toml and in the node\'s provisioning, and nowhere else', file=sys.stderr)
    return DONE


def install(root: Path, python: str | None, dry_run: bool, as_json: bool) -> int:
    """Write unit, user, folders and a first configuration below `root`; exit code 1 when something is in the way."""
    return _change(lambda: system.install(root, python, dry_run), dry_run, as_json)


def uninstall(root: Path, dry_run: bool, as_json: bool) -> int:
    """Take away what install wrote; configuration and store stay."""
    return _change(lambda: system.uninstall(root, dry_run), dry_run, as_json)


def _change(change: Callable[[], system.Done], dry_run: bool, as_json: bool) -> int:
    try:
        done = change()
    except system.InstallError as e:
        return _refuse("install", str(e), e.hint, as_json)
    if as_json:
        document(done.document())
        return DONE
    would = "would " if dry_run else ""
    for verb, names in ((f"{would}write" if dry_run else "wrote", done.wrote), ("kept", done.kept), ("ran", done.ran),
                        (f"{would}remove" if dry_run else "removed", done.removed)):  # fmt: skip
        print("".join(f"{verb} {name}\n" for name in names), end="")
    print("".join(f"next: {text}\n" for text in done.next), end="", file=sys.stderr)
    return DONE


def _refuse(error: str, text: str, hint: str, as_json: bool) -> int:
    mistake(error, text, hint, as_json)
    return FAILED

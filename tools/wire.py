"""`citymote wire`: read frames by hand. `decode` explains one to a human."""

from __future__ import annotations

import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.duration import Number
from tools.report import document, plain
from tools.wire_explain import EXIT_CODES, KINDS, Key, Refused, explain_frame, explain_payload, unhex


@click.group("wire")
def command() -> None:
    """Frames and payloads of the wire contract, by hand."""


def _schemas(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
    out: dict[int, tuple[int, ...]] = {}
    for value in values:
        number, _, ids = value.partition("=")
        try:
            out[int(number)] = tuple(int(q) for q in ids.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not NUMBER=ID,ID,... such as 20=4,5,6") from None
    return out


@command.command("decode")
@click.argument("text", metavar="HEX")
@click.option("--key-file", type=click.Path(path_type=Path), help="32 hex digits, 16 bytes, or a gateway's nodes.toml.")
@click.option(
    "--epoch", type=click.IntRange(0, 2**32 - 1), help="Key epoch (default: the registry's, else it is searched)."
)
@click.option(
    "--received",
    type=Number(0, 2**32 - 1),
    help="Unix time of receipt, for short and age stamps (default: now).",
)
@click.option("--payload", "bare", is_flag=True, help="HEX is a bare payload, without header and tag.")
@click.option(
    "--type", "kind", type=click.Choice(KINDS), help="What a bare payload is (default: found from its shape)."
)
@click.option(
    "--schema", "schemas", multiple=True, callback=_schemas, metavar="N=ID,...", help="Columns of an unknown schema."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, also on failure.")
def decode(
    text: str,
    key_file: Path | None,
    epoch: int | None,
    received: float | None,
    bare: bool,
    kind: str | None,
    schemas: dict[int, tuple[int, ...]],
    as_json: bool,
) -> None:
    """Explain a frame: header, seal, CBOR diagnostic notation, columns with units and times. HEX of - reads stdin.

    Exit codes: 2 no hex or no key, 5 the tag does not fit, 10 truncated, 11 other version, 12 unknown schema, 13 malformed, 14 too long.
    """
    found: dict[str, Any] = {}
    refused: Refused | None = None
    try:
        data = unhex(sys.stdin.read() if text == "-" else text)
        key = None if bare or key_file is None else _key(key_file, epoch, data)

        def explain(at: float, out: dict[str, Any]) -> None:
            if bare:
                explain_payload(data, kind, at, schemas, out)
            else:
                explain_frame(data, key, at, schemas, out)

        explain(time.time() if received is None else received, found)
        if received is None and (newest := _newest(found)) is not None:
            # an old frame is no wrong one: without a time of receipt its own stamp says when that was
            explain(newest, found)
            found["payload"]["received"] = "taken from the newest time in it, --received was not given"
        elif received is None and "stamp" in found.get("payload", {}):
            found["payload"]["received"] = "now, --received was not given: of an older frame the times are wrong"
    except Refused as e:
        refused = e
    if as_json:
        head = (
            {"ok": True}
            if refused is None
            else {"ok": False, "error": refused.name, "text": str(refused), "hint": refused.hint}
        )
        document(head | found)
    else:
        show(found)
    if refused is not None:
        print(f"error: {refused}", file=sys.stderr)
        print(f"next: {refused.hint}", file=sys.stderr)
        sys.exit(EXIT_CODES[refused.name])


def _newest(found: dict[str, Any]) -> float | None:
    """Return the newest time in a report or alarm that says so without the time of receipt, None in others."""
    payload = found.get("payload", {})
    unix = payload.get("unix")
    return (
        float(max([unix] if isinstance(unix, int) else unix)) if payload.get("stamp") == "absolute" and unix else None
    )


def _key(path: Path, epoch: int | None, data: bytes) -> Key:
    """The key in a file: hex, raw, or the line of the frame's node in a registry. Its content never reaches an error text."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise Refused("bad_key", f"{path}: {e.strerror}", "name a readable key file") from None
    if len(raw) == 16:
        return Key(raw, epoch)
    text = raw.decode("utf-8", "replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return _registered(path, text, epoch, data)
    if len(key) != 16:
        raise Refused("bad_key", f"{path}: {len(key)} bytes, and a key has 16", "write 32 hex digits")
    return Key(key, epoch)


def _registered(path: Path, text: str, epoch: int | None, data: bytes) -> Key:
    try:
        nodes = tomllib.loads(text).get("node", [])
    except (ValueError, RecursionError):  # no TOML, a number of thousands of digits, thousands of levels
        raise Refused(
            "bad_key", f"{path}: neither 32 hex digits, 16 bytes nor a nodes.toml", "write 32 hex digits"
        ) from None
    wide = data[0] & 4 if data else 0
    number = int.from_bytes(data[1 : 5 if wide else 3], "big")
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, dict) and node.get("id") == number:
            try:
                key = bytes.fromhex(node.get("key", ""))
            except (ValueError, TypeError):
                key = b""
            if len(key) != 16:
                raise Refused(
                    "bad_key", f"{path}: the key of node {number} is not 32 hex digits", "correct the registry"
                )
            known = node.get("epoch", 0)
            return Key(key, epoch if epoch is not None else known if isinstance(known, int) else 0)
    raise Refused(
        "bad_key", f"{path}: node {number} is not in it", "name the registry of the node's gateway, or its key file"
    )


def show(found: dict[str, Any]) -> None:
    """Print what was found out, for people."""
    console = Console(width=None if Console().is_terminal else 200, highlight=False)

    def say(head: str, text: str) -> None:
        console.print(f"[bold]{head:9}[/]{escape(plain(text))}", soft_wrap=True)

    if "bytes" in found:
        say("frame", f"{found['bytes']} bytes, wire version {found['version']}")
    if header := found.get("header"):
        short = "" if header["counter_bits"] == 32 else " (its low 16 bits)"
        say(
            "header",
            f"{header['hex']}: {header['type']}, {header['direction']}; node {header['node']} (0x{header['node']:04x}); "
            f"counter {header['counter']}{short}; key slot {header['key_slot']}",
        )
    if seal := found.get("seal"):
        say("seal", _seal(seal))
    if payload := found.get("payload"):
        say("payload", f"{payload['bytes']} bytes: {payload['hex']}")
        if "diagnostic" in payload:
            say("CBOR", payload["diagnostic"])
        _body(payload, say, console)


def _seal(seal: dict[str, Any]) -> str:
    match seal["state"]:
        case "opened":
            return f"opened: epoch {seal['epoch']}, counter {seal['counter']} (0x{seal['counter']:08x}); tag {seal['tag']} fits"
        case "sealed":
            return f"sealed: {seal['ciphertext_bytes']} bytes of ciphertext, tag {seal['tag']} (--key-file opens it)"
        case state:
            return f"{state.replace('_', ' ')}: {seal['ciphertext_bytes']} bytes of ciphertext, tag {seal['tag']}"


def _body(payload: dict[str, Any], say: Any, console: Console) -> None:
    if "received" in payload:
        say("received", payload["received"])
    match payload.get("type"):
        case "report" if "columns" in payload:
            schema = "columns listed in the report" if payload["schema"] is None else f"schema {payload['schema']}"
            say(
                "report",
                f"{payload['form']}, {schema}, {payload['rhythm']}, {payload['rows']} rows; stamp {payload['stamp']}",
            )
            if "ext" in payload:
                say("ext", payload["ext"])
            table = Table()
            table.add_column("time")
            for c in payload["columns"]:
                table.add_column(
                    escape(f"{plain(c['quantity'])}\n{plain(c['unit'] or 'raw')} (id {c['id']})"), justify="right"
                )
            for i, t in enumerate(payload["times"]):
                table.add_row(t, *(_cell(c, i) for c in payload["columns"]))
            console.print(table)
            if any(c["suspect_rows"] for c in payload["columns"]):
                console.print("! outside the quantity's valid range, or a time ahead of receipt")
        case "alarm" if "meaning" in payload:
            limit = "" if payload["limit"] is None else f", limit {payload['limit']}"
            value = "no value" if payload["value"] is None else f"{payload['value']} {payload['unit']}"
            say(
                "alarm",
                f"{payload['meaning']}: {payload['quantity']} {value}{limit}, {payload['time']} ({payload['stamp']})",
            )
        case ("status" | "downlink") as kind if "values" in payload:
            for key, value in payload["values"].items():
                say(kind, f"{key} = {value}")
            if ack := payload.get("ack"):
                but = f", but {', '.join(map(str, ack['missing']))} missing" if ack["missing"] else ""
                say(
                    "ack",
                    f"every counter from {ack['committed_from']} to {ack['committed_below'] - 1} is committed{but}",
                )
            for name in payload.get("wrong", ()):
                say("wrong", f"{name}: the value has no shape that a node believes; the other keys count")
            for number, names in payload.get("schemas", {}).items():
                say(kind, f"schema {number} = {', '.join(names)}")


def _cell(column: dict[str, Any], row: int) -> str:
    value = column["values"][row]
    return "-" if value is None else escape(f"{plain(value)}{' !' if row in column['suspect_rows'] else ''}")

"""`citymote gateway command`: an operator's client. Publishes a request, shows each step as the gateway tells it, ends with the outcome."""

import json
import queue
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from gateway.config import ConfigError, load
from tools.duration import DURATION
from tools.report import FAILED, REFUSED, USAGE, document, fail, leaves, plain

ANSWER_S = 10.0
AGAIN_S = 300.0  # a step may have been told while nobody could hear it: the same id again asks for the state
GRACE_S = 60.0  # after the expiry, for the gateway to say so
ENDED = ("done", "failed", "expired", "refused")


@dataclass(frozen=True, slots=True)
class Where:
    """Broker, topic root and who asks."""

    host: str
    port: int
    root: str
    requester: str
    password: str | None
    ca_file: Path | None
    login: bool = True


class NoAnswer(Exception):
    """The broker or the gateway did not answer; `hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def arguments(words: tuple[str, ...], file: Path | None) -> list[Any] | dict[str, Any]:
    """Return the arguments: a JSON file's, or KEY=VALUE ... as an object, or a list. Numbers, true, false, null are what they look like."""
    if file is not None:
        made = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(made, dict):
            raise ValueError(f"{file} holds no JSON object")
        return made
    if words and all("=" in w for w in words):
        return {key: _value(text) for key, _, text in (w.partition("=") for w in words)}
    return [_value(w) for w in words]


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str | list | dict) else value


class Client:
    """One request and its answers, as a context manager. Raises NoAnswer."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        c = self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"citymote-command-{secrets.token_hex(4)}")
        if where.login:
            c.username_pw_set(where.requester, where.password)
        if where.ca_file is not None:
            c.tls_set(ca_certs=str(where.ca_file))
        c.on_connect = lambda _c, _d, _f, code, _p: self._inbox.put(("connected", code))
        c.on_subscribe = lambda _c, _d, _m, codes, _p: self._inbox.put(("subscribed", codes))
        c.on_message = lambda _c, _d, m: self._inbox.put(("message", bytes(m.payload)))

    def __enter__(self) -> "Client":
        place = f"{self._where.host}:{self._where.port}"
        try:
            self._client.connect(self._where.host, self._where.port)
        except OSError as e:
            raise NoAnswer(f"no broker at {place}: {e.strerror or e}", "start it, or correct --broker") from e
        self._client.loop_start()
        code = self._next("connected", ANSWER_S, f"the broker at {place} does not answer")
        if code.is_failure:
            self.__exit__()
            raise NoAnswer(f"the broker at {place} says: {code}", "check --as and --password-file")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _next(self, kind: str, seconds: float, otherwise: str) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                got, value = self._inbox.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise NoAnswer(otherwise, "is the gateway running, and is [commands] in its configuration? may this user publish there?") from None  # fmt: skip
            if got == kind:
                return value

    def ask(self, node: str, request: dict[str, Any]) -> None:
        """Subscribe to the node's answers, then publish the request."""
        w = self._where
        self._client.subscribe(f"{w.root}/v1/cmd/{w.requester}/{node}/ack", 1)
        if any(
            code.is_failure
            for code in self._next("subscribed", ANSWER_S, "the broker does not confirm the subscription")
        ):
            raise NoAnswer(
                f"the broker does not let {w.requester} read answers to it", "see the ACL in gateway/README.md"
            )
        self._request = f"{w.root}/v1/cmd/{w.requester}/{node}", json.dumps(request)
        self.ask_again()

    def ask_again(self) -> None:
        """Publish the request, which is executed once."""
        self._client.publish(*self._request, 1)

    def answer(self, ident: str, seconds: float) -> dict[str, Any]:
        """Return the next step of the request."""
        deadline = time.monotonic() + seconds
        while True:
            body = json.loads(
                self._next("message", deadline - time.monotonic(), f"no answer from the gateway within {seconds:.0f} s")
            )
            if body.get("id") == ident and body.get("requester") == self._where.requester:
                return body


@click.command("command")
@click.argument("node")
@click.argument("name")
@click.argument("args", nargs=-1)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The gateway's TOML file, on the gateway itself: broker and root are there.",
)
@click.option("--broker", help="HOST or HOST:PORT, elsewhere.")
@click.option("--root", default="city", show_default=True, help="Topic root of the output.")
@click.option("--as", "requester", help="Who asks: the user name at the broker.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Holds the password."
)
@click.option(
    "--ca-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CA of the broker: use TLS."
)
@click.option(
    "--args-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON object with the arguments (config).",
)
@click.option("--expires", type=DURATION, help="Must not begin later than so: 10m. Without it three report intervals.")
@click.option("--reason", default="", help="Why; a valve command needs one of the list.")
@click.option("--id", "ident", help="Your id of the command: the same one again only asks for its state.")
@click.option("--wait", is_flag=True, help="Wait until it is done, failed or expired.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def order(
    node: str,
    name: str,
    args: tuple[str, ...],
    config: Path | None,
    broker: str | None,
    root: str,
    requester: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    args_file: Path | None,
    expires: int | None,
    reason: str,
    ident: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Send a command to a node: read_now, identify 30, interval report_s=3600, limit q=pm10 above=50 clear=40, valve close.

    Exit codes: 0 done (or accepted, without --wait), 1 failed, expired or no answer, 4 refused.
    """
    where = _where(config, broker, root, requester, password_file, ca_file, as_json)
    try:
        given = arguments(args, args_file)
    except ValueError as e:
        fail("bad_arguments", str(e), hint="give a JSON object", as_json=as_json, code=USAGE)
    request: dict[str, Any] = {
        "id": ident or f"cli-{secrets.token_hex(6)}",
        "name": name,
        "requester": where.requester,
        "args": given,
    }
    if reason:
        request["reason"] = reason
    if expires is not None:
        request["expires"] = (datetime.now(UTC) + timedelta(seconds=expires)).strftime("%Y-%m-%dT%H:%M:%SZ")
    console = Console(stderr=True, highlight=False, markup=False)
    leaves(
        f"if it was sent, the gateway goes through with it: citymote gateway audit --config FILE, id {request['id']}"
    )
    try:
        with Client(where) as client:
            client.ask(node, request)
            with console.status(f"{name} to {node}, id {request['id']}: ctrl-C leaves it to the gateway"):
                body = _follow(client, request["id"], wait, console)
    except NoAnswer as e:
        fail("no_answer", str(e), hint=e.hint, as_json=as_json)
    _end(body, wait, as_json)


def _follow(client: Client, ident: str, wait: bool, console: Console) -> dict[str, Any]:
    """Show the steps until the one that ends it, or the first when nobody waits."""
    seconds = ANSWER_S
    while True:
        try:
            body = client.answer(ident, min(seconds, AGAIN_S))
        except NoAnswer:
            if seconds <= AGAIN_S:
                raise
            seconds -= AGAIN_S
            client.ask_again()
            continue
        detail = body.get("detail") or body.get("error") or ""
        again = " (asked before)" if body.get("again") else ""
        console.print(plain(f"{body['t']}  {body['state']}{': ' + detail if detail else ''}{again}"))
        if body["state"] in ENDED or not wait:
            return body
        left = datetime.fromisoformat(body["expires"]).timestamp() - time.time() if "expires" in body else ANSWER_S
        seconds = max(left, 0.0) + GRACE_S


def _end(body: dict[str, Any], wait: bool, as_json: bool) -> None:
    state = body["state"]
    text = f"{body.get('name', 'command')} to {body['node']}: {state}" + (
        f", {body['detail']}" if body.get("detail") else ""
    )
    if state == "refused":
        _failed(str(body.get("error", "refused_by_node")), text, body, REFUSED, as_json)
    if state in ("failed", "expired"):
        _failed(state, text, body, FAILED, as_json)
    if as_json:
        document({"ok": True, **body})
    else:
        print(plain(text))


def _failed(error: str, text: str, body: dict[str, Any], code: int, as_json: bool) -> NoReturn:
    if as_json:
        document({"ok": False, "error": error, "text": text, "hint": "citymote gateway audit --config FILE", **{k: v for k, v in body.items() if k != "error"}})  # fmt: skip
        raise SystemExit(code)
    fail(error, text, hint="see `citymote gateway audit` on the gateway for every step", code=code)


def _where(
    config: Path | None, broker: str | None, root: str, requester: str | None, password_file: Path | None, ca_file: Path | None, as_json: bool
) -> Where:  # fmt: skip
    password = password_file.read_text().strip() if password_file else None
    if config is not None:
        try:
            c = load(config)
        except ConfigError as e:
            fail("bad_config", str(e), hint=e.hint, as_json=as_json, code=USAGE)
        o = c.asked_through()
        if c.commands is None or o is None:
            fail(
                "no_commands",
                f"{config} has no [commands]",
                hint="gateway/README.md shows one",
                as_json=as_json,
                code=USAGE,
            )
        known = list(c.commands.policy.requesters)
        who = requester or (known[0] if len(known) == 1 else None)
        if who is None:
            fail("no_requester", "several may ask", hint="add --as " + " or ".join(known), as_json=as_json, code=USAGE)
        return Where(
            o.broker.host, o.broker.port, o.root, who, password, ca_file or o.broker.ca_file, password is not None
        )
    if broker is None or requester is None:
        fail("usage", "where to, and who asks?", hint="give --config FILE, or --broker HOST:PORT and --as NAME", as_json=as_json, code=USAGE)  # fmt: skip
    host, _, port = broker.rpartition(":") if broker.rpartition(":")[2].isdigit() else (broker, "", "")
    return Where(host, int(port or (8883 if ca_file else 1883)), root, requester, password, ca_file)

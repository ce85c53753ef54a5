"""`citymote gateway command`: an operator's client. Publishes a request, shows each step as the gateway publishes it, ends with the outcome."""

import json
import queue
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from rich.console import Console

from gateway.config import ConfigError, load
from gateway.outcome import say
from tools.duration import DURATION
from tools.report import FAILED, REFUSED, USAGE, document, fail, leaves, plain

ANSWER_S = 10.0
AGAIN_S = 300.0  # a step may have been published while no one listened: the same id again asks for the state
GRACE_S = 60.0  # after the expiry, for the gateway to publish that
OWN_S = 2.0  # a refusal without an id may be another request's of the same person: ours, if it is answered, is answered by then
LEVEL = re.compile(r"[^/+#\x00-\x1f\x7f\ud800-\udfff]{1,256}")  # whether such a name is known, the gateway says
ENDED = ("done", "failed", "expired", "refused", "superseded", "withdrawn")


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
    stranger: bool = False  # the configuration that was read gives the requester no role


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


class Forbidden(Exception):
    """The broker does not let this person ask."""


class Client:
    """One request and its answers, as a context manager. Raises NoAnswer, and Forbidden.

    It speaks MQTT 5 where the broker does: only there a broker says that a message was not let through.
    """

    def __init__(self, where: Where) -> None:
        self._where = where
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._client = self._made(MQTTProtocolVersion.MQTTv5)

    def _made(self, protocol: MQTTProtocolVersion) -> mqtt.Client:
        where = self._where
        name = f"citymote-command-{secrets.token_hex(4)}"
        c = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=protocol)
        if where.login:
            c.username_pw_set(where.requester, where.password)
        if where.ca_file is not None:
            c.tls_set(ca_certs=str(where.ca_file))
        c.on_connect = lambda _c, _d, _f, code, _p: self._inbox.put(("connected", code))
        c.on_connect_fail = lambda *_: self._inbox.put(("connected", None))
        c.on_subscribe = lambda _c, _d, _m, codes, _p: self._inbox.put(("subscribed", codes))
        c.on_message = lambda _c, _d, m: self._inbox.put(("message", bytes(m.payload)))
        c.on_publish = lambda _c, _d, _m, code, _p: self._inbox.put(("message", code)) if code.is_failure else None
        return c

    def __enter__(self) -> "Client":
        place = f"{self._where.host}:{self._where.port}"
        code = self._connected(place)
        if code is None or "rotocol" in str(code):  # a broker of 3.1.1 alone closes, or says so
            self.__exit__()
            self._client = self._made(MQTTProtocolVersion.MQTTv311)
            code = self._connected(place)
        if code is None or code.is_failure:
            self.__exit__()
            if code is None:
                raise NoAnswer(
                    f"the broker at {place} does not answer", "is it an MQTT broker? with TLS give --ca-file"
                )
            raise NoAnswer(f"the broker at {place} says: {code}", "check --as and --password-file")
        return self

    def _connected(self, place: str) -> ReasonCode | None:
        """Return the broker's answer, None when it closes the connection or is silent."""
        try:
            self._client.connect(self._where.host, self._where.port)
        except OSError as e:
            raise NoAnswer(f"no broker at {place}: {e.strerror or e}", "start it, or correct --broker") from e
        self._client.on_disconnect = lambda *_: self._inbox.put(("connected", None))
        self._client.loop_start()
        try:
            return self._next("connected", ANSWER_S / 2, "")
        except NoAnswer:
            return None
        finally:
            self._client.on_disconnect = None

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
            raise Forbidden(f"the broker does not let {w.requester} read {w.root}/v1/cmd/{w.requester}/{node}/ack")
        self._request = f"{w.root}/v1/cmd/{w.requester}/{node}", json.dumps(request)
        self.ask_again()

    def ask_again(self) -> None:
        """Publish the request, which is executed once."""
        self._client.publish(*self._request, 1)

    def answer(self, ident: str, seconds: float) -> dict[str, Any]:
        """Return the next step of the request.

        A refusal before the request was read (its sender has no role, its text is no request) has no id: it is ours when no answer with our id comes.
        """
        deadline = time.monotonic() + seconds
        refused: dict[str, Any] | None = None
        while True:
            try:
                said = self._next(
                    "message", deadline - time.monotonic(), f"no answer from the gateway within {seconds:.0f} s"
                )
            except NoAnswer:
                if refused is not None:
                    return refused
                raise
            if isinstance(said, ReasonCode):
                raise Forbidden(
                    f"the broker does not let {self._where.requester} publish on {self._request[0]}: {said}"
                )
            body = json.loads(said)
            if body.get("requester") != self._where.requester:
                continue
            if body.get("id") == ident:
                return body
            if "id" not in body and body.get("state") == "refused":
                refused = body
                deadline = min(deadline, time.monotonic() + OWN_S)


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
@click.option(
    "--as",
    "requester",
    help="Who asks: the user name at the broker. With --config it may be left out where one alone may ask.",
)
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
@click.option(
    "--expires",
    type=DURATION,
    help="Must not begin later than so: 10m. Without it three report intervals (configuration: a day), or what the role allows (longest_s) when that is less.",
)
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
    for what, level in (("NODE", node), ("--as", where.requester), ("--root", where.root)):
        if not LEVEL.fullmatch(level):
            fail(
                "bad_name",
                f"{what} is {level!r}, which can be no level of a topic",
                hint="names have 1 to 32 of a-z 0-9 _ -: see nodes.toml and [commands.requester.NAME]",
                as_json=as_json,
                code=USAGE,
            )
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
        if where.stranger:  # who has no role is answered seldom (a flood), and by no gateway that is stopped
            fail(
                "unauthorised",
                f"{where.requester} has no role in {config}, and {e}",
                hint=_grant(where),
                as_json=as_json,
                code=REFUSED,
            )
        fail("no_answer", str(e), hint=e.hint, as_json=as_json)
    except Forbidden as e:
        fail(
            "broker_acl",
            str(e),
            hint="the broker's ACL forbids it; gateway/README.md shows the lines of a person's ACL",
            as_json=as_json,
            code=REFUSED,
        )
    _end(body, where, as_json)


def _grant(where: Where) -> str:
    return f"who runs the gateway adds [commands.requester.{where.requester}] with roles = [...] to its configuration"


def _role(where: Where, body: dict[str, Any]) -> str:
    if "may not send" not in str(body.get("detail", "")):
        return _grant(where)
    return (
        f'who runs the gateway adds "{body.get("name")}" to the commands of a role that {where.requester} has and that covers the node '
        '([commands.role.NAME]; "*" does not stand for valve)'
    )


def _follow(client: Client, ident: str, wait: bool, console: Console) -> dict[str, Any]:
    """Show the steps until the one that ends it, or the first without --wait."""
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


def _end(body: dict[str, Any], where: Where, as_json: bool) -> None:
    """Print the outcome. In the document the requester's own reason is `why`: `reason` is how the verb ended (gateway.outcome)."""
    state = body["state"]
    text = f"{body.get('name', 'command')} to {body['node']}: {state}" + (
        f", {body['detail']}" if body.get("detail") else ""
    )
    told = {("why" if key == "reason" else key): value for key, value in body.items()}
    if state == "refused":
        error = str(body.get("error", "refused_by_node"))
        _failed(error, text, told, REFUSED, as_json, _role(where, body) if error == "unauthorised" else "")
    if state in ("failed", "expired", "superseded", "withdrawn"):
        _failed(state, text, told, FAILED, as_json)
    if as_json:
        document(told)
    else:
        print(plain(text))


def _failed(error: str, text: str, told: dict[str, Any], code: int, as_json: bool, hint: str = "") -> NoReturn:
    hint = hint or "citymote gateway audit --config FILE, on the gateway, has every step"
    text = f"{text} ({error})" if error not in text else text
    if as_json:
        document({**told, "error": error, "text": text, "hint": hint})
    say(plain(text), hint)
    raise SystemExit(code)


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
            o.broker.host,
            o.broker.port,
            o.root,
            who,
            password,
            ca_file or o.broker.ca_file,
            password is not None,
            who not in known,
        )
    if broker is None or requester is None:
        fail("usage", "where to, and who asks?", hint="give --config FILE, or --broker HOST:PORT and --as NAME", as_json=as_json, code=USAGE)  # fmt: skip
    host, _, port = broker.rpartition(":") if broker.rpartition(":")[2].isdigit() else (broker, "", "")
    return Where(host, int(port or (8883 if ca_file else 1883)), root, requester, password, ca_file)

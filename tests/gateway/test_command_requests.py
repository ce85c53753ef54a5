"""Any request is judged and answered, whatever is in it; and no secret of its arguments is kept or published longer than the node needs it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.caretaker import Caretaker
from gateway.core import order_book, orders
from gateway.core.authorise import MAX_DEPTH, MAX_ITEMS, Policy, Role
from gateway.core.command import Command
from gateway.core.commands import Desk
from gateway.core.model import Node
from gateway.core.redact import HIDDEN, is_secret, redact, scrub, secrets
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.store.backup import backup
from gateway.store.sqlite import SqliteEngine
from tests.gateway.desk_bench import NODES, Bench, iso
from tests.gateway.test_commands_pipeline import Orders
from tests.gateway.world import T0

SECRET = "hunter22"
POLICY = Policy({"ana": (Role("all", ("*", "valve", "factory_reset")),), "reader": (Role("narrow", ("read_now",)),)})
CONFIG = {"wifi": {"ssid": "city", "password": SECRET}, "log": 3}


def bench() -> Bench:
    return Bench(POLICY)


def nested(depth: int, value: Any = 1) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("who", ["ana", "reader"])
@pytest.mark.parametrize(
    "args",
    [
        [2**63], [-(2**63) - 1], [2**70], {"x": 2**70}, {"wifi": {"deep": [2**64]}}, [-(2**64)], nested(MAX_DEPTH), nested(100), nested(600),
        {"a": nested(50)}, list(range(MAX_ITEMS + 1)), {str(n): n for n in range(MAX_ITEMS + 1)}, [[0] * 40, [0] * 40],
    ],
    ids=range(13),
)  # fmt: skip
def test_arguments_beyond_what_can_be_kept_are_malformed(who: str, args: Any) -> None:
    b = bench()
    body = {"id": "a", "name": "config" if isinstance(args, dict) else "read_now", "requester": who, "args": args}
    assert b.raw(who, "aq-01", json.dumps(body).encode()) == "malformed"
    assert b.states() == ["refused"] and b.notes == {}
    assert msgspec.msgpack.encode(b.events)


@pytest.mark.parametrize(
    "expires", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "", "\0", "-1"]
)  # fmt: skip
def test_any_expiry_is_judged(expires: str) -> None:
    unforeseen: list[BaseException] = []
    b = bench()
    b.desk = Desk(NODES, POLICY, unforeseen.append)
    judged = b.ask("ana", "aq-01", "read_now", expires=expires)
    assert judged in ("malformed", "expired", "expires_too_far") and unforeseen == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=12)
    | st.sampled_from(["close", "pm10", SECRET]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["q", "above", "below", "report_s", "wifi", "valve", "password", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
times = st.datetimes().map(lambda d: d.isoformat()) | st.sampled_from(["Z", "+23:59", "-23:59"]).flatmap(
    lambda zone: st.datetimes().map(lambda d: d.isoformat() + zone)
)
requests = st.fixed_dictionaries(
    {"id": st.text("ab-.", min_size=1, max_size=3), "name": st.sampled_from(["read_now", "config", "limit", "interval", "valve", "reboot", "own"]),
     "requester": st.sampled_from(["ana", "reader"]), "args": values},
    optional={"expires": times | values, "reason": st.sampled_from(["leak", ""]) | st.text(max_size=8)},
)  # fmt: skip
bodies = (
    requests.map(lambda r: json.dumps(r).encode())
    | st.binary(max_size=60)
    | requests.map(lambda r: json.dumps(r)[:-3].encode())
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["ana", "reader", "thief"]), st.sampled_from(["aq-01", "water-01", "none"]), bodies),
        max_size=4,
    )
)
@example([("ana", "aq-01", b'{"id":"a","name":"own","requester":"ana","args":[1e308]}')])
def test_any_request_is_judged_and_what_follows_can_be_kept_and_sent(asked: list[tuple[str, str, bytes]]) -> None:
    unforeseen: list[BaseException] = []
    desk = Desk(NODES, POLICY, unforeseen.append)
    for n, (who, node, body) in enumerate(asked):
        follow, judged = desk.request(who, node, body, T0 + n)
        assert judged and (judged == "flood" or follow.events)
        assert msgspec.msgpack.encode(follow.events) and msgspec.json.encode(follow.events)
        again = Desk(NODES, POLICY)
        again.load({k: v for k, v in follow.notes.items() if v is not None})
    for node in NODES.values():
        for room in (14, 60, 200, 900):
            desk.offer(node, room, T0 + 10, (0, 10))
    desk.tick(T0 + 90_000_000)
    assert not unforeseen


def test_what_is_unforeseen_is_one_requests_fault_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[BaseException] = []
    b = bench()
    b.desk = Desk(NODES, POLICY, caught.append)
    real = order_book._encode

    def fails_late(value: Any) -> bytes:
        if isinstance(value, Command) and value.state == "queued":
            raise OverflowError("can't serialize")
        return real(value)

    monkeypatch.setattr(order_book, "_encode", fails_late)
    assert b.ask("ana", "aq-01", "read_now", id="a") == "malformed"
    assert [type(e) for e in caught] == [OverflowError] and b.states() == ["refused"] and b.notes == {}
    assert b.desk.open == 0 and b.desk.get("ana", "a") is None
    monkeypatch.setattr(order_book, "_encode", real)
    assert b.offer() is None, "nothing of it is sent"
    assert b.ask("ana", "aq-01", "read_now", id="a") == "accepted", "and the id is free"
    assert b.offer() is not None


# secrets


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ({"wifi": {"ssid": "a", "password": SECRET}}, {"wifi": {"ssid": "a", "password": HIDDEN}}),
        ({"mqtt_password": SECRET, "Key": 7, "api-token": [SECRET], "report_s": 60}, {"mqtt_password": HIDDEN, "Key": HIDDEN, "api-token": HIDDEN, "report_s": 60}),
        ({"a": [{"b": [{"wifiPassword": SECRET}]}]}, {"a": [{"b": [{"wifiPassword": HIDDEN}]}]}),
        (["set", "psk", SECRET, "ssid", "a"], ["set", "psk", HIDDEN, HIDDEN, HIDDEN]),
        ([f'{{"wifi":{{"password":"{SECRET}","ssid":"a"}}}}'], [f'{{"wifi":{{"password":"{HIDDEN}","ssid":"a"}}}}']),
        ([f'rd":"x","password":"{SECRET}"', 1], [f'rd":"x","password":"{HIDDEN}', HIDDEN]),
        ([f"ssid=a password={SECRET} x=1"], [f"ssid=a password={HIDDEN}"]),
        ([f"mqtts://node:{SECRET}@broker:8883/x"], [f"mqtts://node:{HIDDEN}@broker:8883/x"]),
        (["000102030405060708090a0b0c0d0e0f"], [HIDDEN]),
        ({"password": None, "token": "", "secret": True}, {"password": None, "token": "", "secret": True}),
        ({"q": "pm10", "above": 50, "spin": 4, "keep": 1}, {"q": "pm10", "above": 50, "spin": 4, "keep": 1}),
        ({"profile": "air_quality", "at": "2026-11-29T21:40:53Z", "rows": list(range(250, 265))}, {"profile": "air_quality", "at": "2026-11-29T21:40:53Z", "rows": list(range(250, 265))}),
    ],
    ids=range(12),
)  # fmt: skip
def test_secrets_are_hidden_wherever_they_stand_and_nothing_else_is(args: Any, shown: Any) -> None:
    assert redact(args) == shown


trees = st.recursive(
    st.integers() | st.text("xyz", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "ssid", "wifi", "n"]), inner, max_size=3)
    ),
)
names = st.sampled_from(
    [
        "password",
        "PASSWORD",
        "wifi_password",
        "apiKey",
        "key",
        "next_key",
        "psk",
        "token",
        "client-secret",
        "pw",
        "passphrase",
    ]
)


@given(names, trees, st.lists(st.sampled_from(["dict", "list", "text", "beside"]), max_size=5), trees)
def test_at_any_depth_in_any_wrapping(name: str, beside: Any, wraps: list[str], under: Any) -> None:
    value: Any = {name: [SECRET, under], "b": beside}
    for wrap in wraps:
        value = {
            "dict": lambda v: {"a": v},
            "list": lambda v: [1, v],
            "text": json.dumps,
            "beside": lambda v: {"c": beside, "a": v},
        }[wrap](value)
    hidden = redact(value)
    assert SECRET not in json.dumps(hidden) and is_secret(name)
    assert SECRET not in json.dumps(redact(hidden))
    assert SECRET not in scrub(f"bad {SECRET}!", secrets(value))


PHRASE = ("correct", "h0rse", "battery")
KEY = bytes(range(0, 256, 17))
as_pairs = st.sampled_from(
    [
        lambda n, v: {"name": n, "value": v},
        lambda n, v: {"value": v, "key": n},
        lambda n, v: {"a": n, "b": {"c": [v]}},
        lambda n, v: {"names": ["ssid", n], "values": ["home", v]},
        lambda n, v: [n, v],
        lambda n, v: [n, None, "", v],
        lambda n, v: [f"wifi {n}", v],
        lambda n, v: [{"name": n}, {"value": v}],
        lambda n, v: [["ssid", n], ["home", v]],
        lambda n, v: {n: {v: 1}},
        lambda n, v: {f"{n}={v}": 1},
        lambda n, v: {"t": f"{n}={v}"},
        lambda n, v: {"t": f"--{n} {v}"},
        lambda n, v: {"t": f"set {n}: '{v}' now"},
        lambda n, v: f'x","{n}":"{v}',
        lambda n, v: f'x","\\u00{ord(n[0]):02x}{n[1:]}":"{v}","key":1',
        lambda n, v: [f"{n}={v.split(' ')[0]}", *v.split(" ")[1:]],
    ]
)


@given(
    names | st.sampled_from(["pin", "wifiPin", "PIN", "bearer", "-psk"]),
    as_pairs,
    st.sampled_from([" ", "@", ", ", ":", "/"]),
    trees,
)
def test_no_word_of_a_secret_is_shown_however_it_is_paired_with_its_name(
    name: str, pair: Callable[[str, str], Any], gap: str, beside: Any
) -> None:
    value = {"x": [pair(name, gap.join(PHRASE))], "echo": gap.join(PHRASE), "beside": beside}
    shown = json.dumps(redact(value))
    assert not [word for word in PHRASE if word in shown]
    text = scrub(f"rejected: {gap.join(PHRASE)}", secrets(value))
    assert not [word for word in PHRASE if word in text]
    assert not [word for word in PHRASE if word in json.dumps(redact(redact(value)))]


@pytest.mark.parametrize("user", ["node:", ""])
@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p ss", "p:ss@x", "s3cr3t"])
def test_the_password_of_a_url_is_hidden_whatever_it_is_made_of(user: str, password: str) -> None:
    if user or not set(password) & set("/ :"):
        assert redact([f"see mqtts://{user}{password}@host:1/x"]) == [f"see mqtts://{user}{HIDDEN}@host:1/x"]


spellings = [
    lambda k: k.hex(),
    lambda k: k.hex(" "),
    lambda k: k.hex(":").upper(),
    lambda k: k.hex("-", 4),
    lambda k: ", ".join(f"0x{b:02x}" for b in k),
    lambda k: "".join(f"\\x{b:02x}" for b in k),
    lambda k: " ".join(map(str, k)),
    lambda k: list(k),
    lambda k: str(list(k)),
    lambda k: [f"{b:02x}" for b in k],
    lambda k: [f"0x{b:02X}" for b in k],
    lambda k: [k[:8].hex(), k[8:].hex()],
    lambda k: [list(k[:8]), list(k[8:])],
    lambda k: [float(b) for b in k],
    lambda k: {str(i): b for i, b in enumerate(k)},
    lambda k: [int.from_bytes(k, "big") | 1 << 127],
    lambda k: "-----BEGIN CERTIFICATE-----\nMHcC\n" + k.hex("\n") + "\n-----END",
    lambda k: base64.b64encode(k).decode(),
]


@pytest.mark.parametrize("spell", spellings, ids=range(len(spellings)))
@given(st.binary(min_size=16, max_size=32), st.booleans())
def test_a_key_is_hidden_in_every_spelling(spell: Callable[[bytes], Any], key: bytes, inside: bool) -> None:
    spelt = spell(KEY[:8] + key + KEY[8:])
    shown = redact({"blob": spelt} if inside else [1000, spelt])
    assert shown in ({"blob": HIDDEN}, {"blob": [HIDDEN]}, [1000, HIDDEN], [1000, [HIDDEN]]) or _digits(shown) == ""


def _digits(shown: Any) -> str:
    return "".join(re.findall(r"[0-9A-Fa-f]{2}", json.dumps(shown).replace("1000", "").replace(HIDDEN, "")))


in_base64 = st.sampled_from(
    [
        lambda raw: base64.b64encode(raw).decode(),
        lambda raw: base64.urlsafe_b64encode(raw).decode(),
        lambda raw: base64.b64encode(raw).decode().rstrip("="),
        lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="),
        lambda raw: base64.b64encode(raw).decode().replace("/", "\\/"),
        lambda raw: base64.encodebytes(raw).decode(),
    ]
)


@given(
    st.binary(min_size=16, max_size=32),
    st.binary(max_size=70),
    st.binary(max_size=70),
    in_base64,
    st.sampled_from(["", "set ", "a:", "../", "x=", "(", "\u00e9", "00:11:22:33:44:"]),
    st.sampled_from(["", " now", ";", ".", ")", "\n", ":00:11:22:33:44"]),
    st.sampled_from([lambda t: [1000, t], lambda t: {"blob": t}, lambda t: {t: 1}, lambda t: [json.dumps({"a": [t]})]]),
)
@example(b"\0" * 16, b"", b"", lambda raw: base64.b64encode(raw).decode(), "", "", lambda t: [t])
@example(b"\xff" * 16, b"", b"", lambda raw: base64.b64encode(raw).decode(), "", "", lambda t: [t])
@example(
    KEY[:8] + b"\x0f\xc3\xe0" + bytes(13), b"", b"", lambda raw: base64.b64encode(raw).decode(), "", "", lambda t: [t]
)
def test_a_key_in_base64_is_hidden_at_any_offset_in_more(
    key: bytes,
    before: bytes,
    behind: bytes,
    spell: Callable[[bytes], str],
    head: str,
    tail: str,
    wrap: Callable[[str], Any],
) -> None:
    spelt = spell(before + key + behind)
    shown = json.dumps(redact(wrap(head + spelt + tail)))
    digits = re.sub(r"[\n\\=]", "", spelt)[-(-len(before) * 8 // 6) : (len(before) + len(key)) * 8 // 6]
    assert len(digits) >= 20, "digits that are of the key alone"
    plain = shown.replace("\\\\", "").replace("\\n", "").replace("00:11:22:33:44", "")
    assert not [digits[i : i + 4] for i in range(len(digits) - 3) if digits[i : i + 4] in plain]
    assert HIDDEN in shown and (not spelt.strip() or spelt.strip() not in scrub(f"bad {spelt}", secrets(spelt)))


@given(
    st.lists(st.from_regex(r"[A-Z]?[a-z]{2,9}[0-9]{0,4}", fullmatch=True), min_size=2, max_size=8),
    st.sampled_from("-_/"),
)
def test_names_of_several_words_are_shown_however_long_they_are(words: list[str], gap: str) -> None:
    name = gap.join(words)
    assert redact([name]) == [name] or is_secret(name) or re.search(r"[0-9a-fA-F_-]{32}", name)


def test_random_keys_are_not_taken_for_names() -> None:
    draw = random.Random(3)
    for _ in range(20_000):
        key = draw.randbytes(16)
        assert redact([base64.urlsafe_b64encode(key).decode().rstrip("=")]) == [HIDDEN]


def test_a_pem_block_is_hidden_with_what_follows() -> None:
    pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrY\n-----END EC PRIVATE KEY-----"
    assert redact({"a": f"x {pem}"}) == {"a": f"x {HIDDEN}"}
    assert redact(pem.split("\n")) == [HIDDEN] * 3


@pytest.mark.parametrize(
    "text", ["a:" * 4000, "a," * 4000, "0x" * 4000, "00:" * 9 + "z" * 8000, ":@" * 4000, "%41" * 3000]
)
def test_long_texts_are_searched_in_time_that_grows_with_their_length(text: str) -> None:
    start = time.process_time()
    redact([text])
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", ["", "set_psk"])
@pytest.mark.parametrize("args", [["a", SECRET], {"a": SECRET}, list(KEY), {str(i): b for i, b in enumerate(KEY)}])
def test_arguments_stay_a_list_or_an_object(name: str, args: Any) -> None:
    assert type(redact(args, name)) is type(args)


def test_a_secret_is_sent_and_neither_told_nor_kept_once_it_has_ended() -> None:
    b = bench()
    body = {"id": "a", "name": "config", "requester": "ana", "args": CONFIG, "expires": iso(b.now + 600)}
    assert b.raw("ana", "aq-01", json.dumps(body).encode()) == "accepted"
    assert SECRET.encode() in b"".join(b.notes.values()), "it waits in the note to be sent"
    b.restart()
    pieces = []
    while (offer := b.offer(room=200)) is not None:
        pieces.append(str(offer))
        b.now += 30
        if len(pieces) > 3:
            break
    assert any(SECRET in p for p in pieces), "what is sent is whole"
    assert b.raw("ana", "aq-01", json.dumps(body).encode()) == "again"
    other = {**body, "args": {**CONFIG, "log": 4}}
    assert b.raw("ana", "aq-01", json.dumps(other).encode()) == "id_conflict"
    b.hear(config_problem=f"password {SECRET} is too short")
    assert b.published()[-1] == ("failed", f"password {HIDDEN} is too short")
    assert SECRET.encode() not in b"".join(b.notes.values())
    assert b.raw("ana", "aq-01", json.dumps(body).encode()) == "again", "its id is known all the same"
    assert SECRET not in str(b.events)


@pytest.mark.parametrize("end", ["expired", "done", "refused at once", "bad arguments", "lost"])
def test_however_it_ends(end: str) -> None:
    b = bench()
    args = (
        {**CONFIG, "node": SECRET}
        if end == "bad arguments"
        else {"q": SECRET, "password": SECRET}
        if end == "lost"
        else CONFIG
    )
    name = "limit" if end == "lost" else "config"
    who = "reader" if end == "refused at once" else "ana"
    body = {"id": "a", "name": name, "requester": who, "args": args, "expires": iso(b.now + 600)}
    b.raw(who, "aq-01", json.dumps(body).encode())
    if end == "done":
        b.offer(room=900)
        b.hear(config_version=7)
        assert b.states()[-1] == "done"
    b.tick(700)
    assert SECRET.encode() not in b"".join(b.notes.values())
    published = str(
        [{k: v for k, v in (e.command or {}).items() if k != "args" or end != "bad arguments"} for e in b.events]
    )
    assert SECRET not in published


def holders(folder: Path) -> list[str]:
    return [f.name for f in folder.iterdir() if f.is_file() and SECRET.encode() in f.read_bytes()]


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_the_files_of_the_store_hold_no_secret_of_what_has_ended(tmp_path: Path) -> None:
    """Also where the note was long enough for pages of its own."""
    file = tmp_path / "s.db"
    engine = SqliteEngine(file, ["city"])
    world = Orders(engine=engine)  # type: ignore[arg-type]
    long = {f"k{n}": "x" * 100 for n in range(12)}
    body = {
        "id": "a",
        "name": "config",
        "requester": "ana",
        "args": {**long, "wifi": {"password": SECRET}},
        "expires": iso(world.clock.time + 600),
    }
    assert world.pipeline.ask("ana", "n-263", json.dumps(body).encode()) == "accepted"
    await world.pipeline.settle()
    assert holders(tmp_path), "or this test looks for nothing"
    world.clock.time += 700
    world.pipeline.tick()
    await world.pipeline.settle()
    assert world.states()[-1] == "expired"
    backup(file, tmp_path / "copy.db", T0, lambda _done, _all: None)
    engine.close()
    assert holders(tmp_path) == []


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[tuple[Orders, Caretaker]]:
    engine = SqliteEngine(tmp_path / "s.db", ["city"])
    yield Orders(engine=engine), Caretaker(engine, Metrics(), lambda: None, lambda: T0)  # type: ignore[arg-type]
    engine.close()


async def ask_secret(world: Orders, ident: str, more: dict[str, Any] | None = None, secret: str = SECRET) -> None:
    body = {"id": ident, "name": "config", "requester": "ana", "args": {**(more or {}), "wifi": {"password": secret}},
            "expires": iso(world.clock.time + 600)}  # fmt: skip
    assert world.pipeline.ask("ana", "n-263", json.dumps(body).encode()) == "accepted"
    await world.pipeline.settle()


async def end_all(world: Orders) -> None:
    world.clock.time += 700
    world.pipeline.tick()
    await world.pipeline.settle()
    assert world.states()[-1] == "expired"


async def test_no_file_holds_a_secret_of_what_has_ended_while_the_gateway_works(
    stored: tuple[Orders, Caretaker], tmp_path: Path
) -> None:
    """Also in the log, where the page that held it stands until it is written over."""
    world, caretaker = stored
    await ask_secret(world, "a", {f"k{n}": "x" * 100 for n in range(12)})
    caretaker.tick(100.0, False)
    await world.pipeline.settle()
    assert holders(tmp_path), "or this test looks for nothing"
    await end_all(world)
    assert holders(tmp_path) == ["s.db-wal"], "secure_delete cleans the store, and not its log"
    caretaker.tick(102.0, False)
    await until(lambda: not holders(tmp_path))
    await ask_secret(world, "b", secret=f"{SECRET}-again")
    assert holders(tmp_path) == ["s.db-wal"], "what is still to be sent stays"


async def test_hundreds_of_secrets_of_any_length_leave_nothing_behind(
    stored: tuple[Orders, Caretaker], tmp_path: Path
) -> None:
    """Pages are split and joined as notes come and go: pieces of them must not stay between the cells."""
    world, caretaker = stored
    draw = random.Random(7)
    for n in range(240):
        await ask_secret(
            world, f"a{n}", {f"k{i}": "x" * draw.randrange(90) for i in range(draw.randrange(12))}, f"{SECRET}-{n}"
        )
        if n % 4 == 3:
            await end_all(world)
    caretaker.tick(100.0, False)
    await until(lambda: not holders(tmp_path))


async def test_a_reader_beside_the_gateway_delays_it_and_is_shown(
    stored: tuple[Orders, Caretaker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, caretaker = stored
    await ask_secret(world, "a")
    beside = sqlite3.connect(tmp_path / "s.db")
    beside.execute("BEGIN")
    beside.execute("SELECT count(*) FROM notes").fetchone()
    await end_all(world)
    now, began = time.monotonic(), time.monotonic()
    caretaker.tick(now, False)
    await world.take(world.mote.status({1: 5}))
    assert time.monotonic() - began < 2 and holders(tmp_path), "commits do not wait for the reader"
    assert not [p for p in caretaker.problems() if p.code == "store_unwiped"]
    monkeypatch.setattr("gateway.caretaker.WIPE_TOLD_S", -1.0)
    assert [p for p in caretaker.problems() if p.code == "store_unwiped"]
    beside.close()
    caretaker.tick(now + 1.0, False)  # not yet: the wait doubles
    await asyncio.sleep(0.05)
    assert holders(tmp_path)
    caretaker.tick(now + 2.0, False)
    await until(lambda: not holders(tmp_path))
    await until(lambda: not [p for p in caretaker.problems() if p.code == "store_unwiped"])


async def test_what_a_killed_gateway_left_in_its_log_is_taken_out_by_the_next(
    stored: tuple[Orders, Caretaker], tmp_path: Path
) -> None:
    world, _ = stored
    await ask_secret(world, "a")
    await end_all(world)
    copy = tmp_path / "later"
    copy.mkdir()
    for f in ("s.db", "s.db-wal"):
        (copy / f).write_bytes((tmp_path / f).read_bytes())
    assert holders(copy) == ["s.db-wal"]
    engine = SqliteEngine(copy / "s.db", ["city"])
    try:
        Caretaker(engine, Metrics(), lambda: None, lambda: T0).tick(100.0, False)
        await until(lambda: not holders(copy))
    finally:
        engine.close()


async def test_commands_without_secrets_do_not_empty_the_log() -> None:
    world = Orders()
    body = {
        "id": "a",
        "name": "config",
        "requester": "ana",
        "args": {"report_s": 60},
        "expires": iso(world.clock.time + 600),
    }
    assert world.pipeline.ask("ana", "n-263", json.dumps(body).encode()) == "accepted"
    await end_all(world)
    assert world.engine.wiped == 0
    await ask_secret(world, "b")
    await end_all(world)
    assert world.engine.wiped == 1


def test_names_of_orders_and_of_the_configuration_are_no_secrets() -> None:
    assert not any(is_secret(n) for n in (*orders.CONFIG, *orders._CHECKS, *orders._NUMBERS))
    node: Node = replace(NODES[263])
    assert redact([node.name]) == [node.name]

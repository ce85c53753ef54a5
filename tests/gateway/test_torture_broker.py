"""A small torture of the broker, and that it sees what it is there to see."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_sim.gateway_process import GatewayError, GatewayProcess
from host_sim.mosquitto import Mosquitto
from host_sim.torture_broker import AT_LEAST, KINDS, ROUNDS, Toll, _Deck, torture_broker
from host_sim.torture_broker_rig import Backend, Tortured, compared, snapshot
from host_sim.torture_broker_town import Town, iso
from host_sim.warm_gateway import Warm
from tests.gateway.conftest import BrokerAddress
from tools.cli import cli


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_a_broker_remembers_it_ends_up_with_what_a_fresh_one_is_told(
    tmp_path: Path, mosquitto: BrokerAddress
) -> None:
    toll = torture_broker(tmp_path, rounds=9, seed=5)
    assert toll.ok, json.dumps(toll.as_dict(), indent=1)
    assert toll.rounds == 9 and toll.topics > 300 and toll.alarms > 20 and toll.acked > 200
    assert sum(toll.kinds.values()) >= 9


ENOUGH = {"rounds": ROUNDS, "kinds": dict.fromkeys(KINDS, AT_LEAST), "topics": 300, "alarms": 20}


@pytest.mark.parametrize(
    "wrong",
    [{"missing": 1}, {"wrong": 1}, {"left_over": 1}, {"lost": 1}, {"never_came_back": 1}, {"ended_by_itself": 1}, {"topics": 299},
     {"alarms": 19}, {"kinds": {**ENOUGH["kinds"], "older": AT_LEAST - 1}}, {"rounds": 0}],  # type: ignore[dict-item]
)  # fmt: skip
def test_whatever_is_wrong_is_a_failure(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, int]) -> None:
    assert Toll(1, **ENOUGH).ok  # type: ignore[arg-type]
    toll = Toll(1, **{**ENOUGH, **wrong})  # type: ignore[arg-type]
    monkeypatch.setattr("tools.torture_broker.torture_broker", lambda *_: toll)
    done = CliRunner().invoke(cli, ["sim", "torture", "broker", "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["ok"] is False and "--seed 1 --keep" in done.stderr


def test_every_kind_comes_as_often_as_any_other() -> None:
    deck = _Deck(random.Random(3))
    dealt = Counter(deck.deal() for _ in range(10 * len(KINDS)))
    assert dealt == dict.fromkeys(KINDS, 10)


def tree_of(town: Town) -> dict[str, bytes]:
    """What a gateway that believes the town would have published."""
    tree: dict[str, bytes] = {}
    for output in ("city", "portal"):
        tree[f"{output}/v1/gw/gw-1/state"] = b"online"
        for x in town.things:
            if not town.sees(output, x):
                continue
            top = f"{output}/v1/node/{x.name}"
            tree |= {f"{top}/meta": b"{}", f"{top}/state": b"online"}
            if output == "city":
                tree[f"homeassistant/device/{x.name}/config"] = b"{}"
            for q, (_, v, t) in x.belief.values.items():
                if town.shows(output, q):
                    tree[f"{top}/q/{q}"] = json.dumps({"v": v, "t": iso(t if t is not None else 0)}).encode()
            tree |= {f"{top}/alert/{rule}": b"{}" for rule, up in x.belief.up.items() if up}
    return tree


@pytest.fixture
def town() -> Town:
    t = Town(1)
    for x in t.things:
        for what in ("report", "status", "raise"):
            t.speak(x, what).learn()
    return t


def faults(town: Town, tree: dict[str, bytes]) -> set[tuple[str, str]]:
    return {(kind, topic) for kind, topic, _ in town.judge(tree, json.loads)}


def test_the_belief_agrees_with_a_tree_that_is_right(town: Town) -> None:
    tree = tree_of(town)
    assert len(tree) > 400 and sum("/alert/" in t for t in tree) > 20
    assert faults(town, tree) == set()


def test_the_belief_sees_what_is_missing_wrong_and_left_over(town: Town) -> None:
    tree = tree_of(town)
    state = next(t for t in tree if t.startswith("city/v1/node/aq") and t.endswith("/state"))
    value = next(t for t in tree if t.endswith("/q/pm10"))
    alarm = next(t for t in tree if "/alert/pm" in t)
    body = json.loads(tree[value])
    for topic in (state, value, alarm):
        assert faults(town, {k: v for k, v in tree.items() if k != topic}) == {("missing", topic)}
    assert faults(town, {**tree, state: b"offline"}) == {("wrong", state)}
    assert faults(town, {**tree, value: json.dumps({**body, "v": body["v"] + 1}).encode()}) == {("wrong", value)}
    assert faults(town, {**tree, value: json.dumps({**body, "t": iso(5)}).encode()}) == {("wrong", value)}
    gone = "city/v1/node/aq300r77/q/pm10"
    assert faults(town, {**tree, gone: b"{}"}) == {("left_over", gone)}


@pytest.mark.parametrize(
    ("change", "left"),
    [("rename", "city/v1/node/"), ("remove", "city/v1/node/aq"), ("make_personal", "city/v1/node/aq"), ("move", "portal/v1/node/"),
     ("rule_out", "/alert/"), ("area_out", "city/v1/area/market/lot"), ("format_out", ""), ("filter_narrowed", "portal/v1/node/"),
     ("output_out", "portal/")],
)  # fmt: skip
def test_what_a_change_leaves_behind_is_seen(town: Town, change: str, left: str) -> None:
    for x in town.things:
        x.visibility, x.area = "open", "centre"
        x.box.clear()
    tree = {**tree_of(town), "city/v1/area/market/lot": b"{}", "city/v1/ngsi-ld/Device/x": b"{}"}
    assert faults(town, tree) == set()
    assert getattr(town, change)()
    gone = [topic for kind, topic in faults(town, tree) if kind == "left_over"]
    assert any(left in topic for topic in gone), gone


def test_late_and_future_frames_change_no_belief_that_is_newer(town: Town) -> None:
    for _ in range(30):
        x, frames = town.late()
        new, old = frames
        new.learn()
        before = (dict(x.belief.values), dict(x.belief.up), x.belief.status)
        old.learn()
        assert (dict(x.belief.values), dict(x.belief.up), x.belief.status) == before
    frame = town.future()
    x = next(x for x in town.things if frame.counter in x.box and x.box[frame.counter] is frame)
    before_values = dict(x.belief.values)
    frame.learn()
    assert x.belief.values == before_values and x.belief.heard <= time.time()


def test_a_forked_gateway_runs_ends_and_says_why_it_cannot(tmp_path: Path, mosquitto: BrokerAddress) -> None:
    config = tmp_path / "gateway.toml"
    (tmp_path / "nodes.toml").touch()
    config.write_text(
        '[gateway]\nid = "gw-1"\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
        f'[output.city]\nkind = "mqtt"\nbroker = "{mosquitto.host}:{mosquitto.port}"\n'
    )
    warm = Warm()
    try:
        first = GatewayProcess(config, start=warm.start)
        assert not first.dead
        assert first.stop() == 0 and first.dead and "stopped" in first.tail()
        second = GatewayProcess(config, start=warm.start)
        assert not second.dead and second.pid != first.pid
        second.kill()
        assert second.dead
        config.write_text("nonsense")
        with pytest.raises(GatewayError, match="before it was ready") as failed:
            GatewayProcess(config, start=warm.start)
        assert "nonsense" in str(failed.value) or str(config) in str(failed.value)
        config.write_text("")
    finally:
        warm.close()
    with pytest.raises(ChildProcessError):
        warm.start(config, tmp_path / "notify", tmp_path / "log")


def test_a_snapshot_holds_all_that_is_retained_and_nothing_else(tmp_path: Path, mosquitto: BrokerAddress) -> None:
    import paho.mqtt.publish as publish

    messages = [(f"a/{i}", b"%d" % i, 1, True) for i in range(600)] + [("a/0", b"", 1, True), ("b", b"x", 1, False)]
    publish.multiple(messages, hostname=mosquitto.host, port=mosquitto.port)  # type: ignore[arg-type]
    assert snapshot(mosquitto) == {f"a/{i}": b"%d" % i for i in range(1, 600)}
    assert compared({"x/v1/gw/g/info": b"1", "a": b'{"b": 1, "c": 2}'}) == compared({"a": b'{"c":2,"b":1}'})


def test_a_broker_forgets_remembers_less_or_is_another_one_and_keeps_the_backends_session(
    tmp_path: Path, mosquitto: BrokerAddress
) -> None:
    import paho.mqtt.publish as publish

    broker = Tortured(tmp_path)

    def say(n: int) -> None:
        pack = json.dumps([{"id": f"7:0:{n}"}]).encode()
        publish.multiple([("x", b"%d" % n, 1, True), ("city/v1/node/n/senml", pack, 1, False)],  # type: ignore[list-item]
                         hostname=broker.host, port=broker.port)  # fmt: skip

    backend: Backend | None = None
    try:
        say(1)
        broker.remember()
        say(2)
        for what, knows in (("restarted", {"x": b"2"}), ("older", {"x": b"1"}), ("forgets", {}), ("exchanged", {})):
            broker.begin(what, 0)
            broker.end()
            assert snapshot(broker.address) == knows, what
        say(3)  # nobody is connected: the session keeps it
        broker.begin("frozen", 0)
        with pytest.raises(OSError):
            snapshot(broker.address, 0.3)
        broker.end()
        broker.begin("silent", 0)
        with pytest.raises(OSError):
            snapshot(broker.address, 0.3)
        broker.end()
        assert snapshot(broker.address) == {"x": b"3"}
        backend = Backend(broker.address)
        deadline = time.monotonic() + 60
        while (7, 3, "senml") not in backend.seen and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (7, 3, "senml") in backend.seen
    finally:
        if backend is not None:
            backend.close()
        broker.close()


def test_a_broker_without_persistence_forgets_when_it_ends(tmp_path: Path, mosquitto: BrokerAddress) -> None:
    import paho.mqtt.publish as publish

    with Mosquitto(tmp_path, persistent=False) as m:
        publish.single("x", b"1", 1, True, hostname=m.host, port=m.port)
        assert snapshot((m.host, m.port)) == {"x": b"1"}
        m.stop()
        m.start()
        assert snapshot((m.host, m.port)) == {}

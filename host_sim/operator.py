"""The people of a scenario: at their hour they ask something of a node over MQTT, as any backend would, and note every answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from host_sim import interrupt
from host_sim.collect import Books
from host_sim.scenario import CommandSpec, Scenario

ANSWER_S = 10.0  # real time: the gateway answers as soon as it has committed
ENDED = ("done", "failed", "expired", "refused", "superseded", "withdrawn")


def ident(nth: int, spec: CommandSpec) -> str:
    """Return the id of the nth command (from 1)."""
    return spec.id or f"c{nth}"


def config(scenario: Scenario) -> str:
    """Return the [commands] section that lets the scenario's requesters ask; "" when nobody does."""
    if not scenario.commands:
        return ""
    out = ['\n[commands]\noutput = "city"\n']
    for who, names in scenario.requesters.items():
        listed = ", ".join(f'"{name}"' for name in names)
        out.append(f'[commands.role.{who}]\ncommands = [{listed}]\n[commands.requester.{who}]\nroles = ["{who}"]\n')
    return "".join(out)


class Operator:
    """Publishes requests and waits, in real time, for the gateway's first word on each; virtual time stands still meanwhile."""

    def __init__(self, host: str, port: int, root: str, books: Books, unix0: int) -> None:
        self._root, self._books, self._unix0 = root, books, unix0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"citymote-operator-{id(self):x}")
        self._client.connect(host, port)
        self._client.loop_start()

    def ask(self, nth: int, spec: CommandSpec, t: int) -> bool:
        """Ask at virtual time t (us); False when nobody answered."""
        body: dict[str, Any] = {
            "id": ident(nth, spec),
            "name": spec.name,
            "args": spec.options or list(spec.args),
            "requester": spec.claims or spec.requester,
        }
        if spec.expires_h is not None:
            at = self._unix0 + t / 1e6 + spec.expires_h * 3600
            body["expires"] = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if spec.reason:
            body["reason"] = spec.reason
        before = len(self._books.acks)
        topic = f"{self._root}/v1/cmd/{spec.requester}/{spec.node}"
        self._client.publish(topic, json.dumps(body), 1).wait_for_publish(ANSWER_S)
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            if any(a.get("requester") == spec.requester and a["node"] == spec.node for a in self._books.acks[before:]):
                return True
            interrupt.check()
            time.sleep(0.005)
        return False

    def close(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()


def outcome(scenario: Scenario, books: Books, end: int) -> tuple[dict[str, Any], list[str]]:
    """Return what became of each command asked before Unix time `end`, and a sentence for each that ended in another way than demanded."""
    found: dict[str, Any] = {}
    unmet: list[str] = []
    start = int(scenario.head.start.timestamp())
    for nth, spec in enumerate(scenario.commands, 1):
        if start + spec.at_h * 3600 >= end:
            continue
        name = ident(nth, spec)
        steps = [a for a in books.acks if a.get("id") == name and a.get("requester") == spec.requester]
        states = [a["state"] for a in steps]
        told = {
            "node": spec.node,
            "requester": spec.requester,
            "name": spec.name,
            "states": states,
            "error": next((a["error"] for a in steps if "error" in a), None),
            "sends": max((a.get("sends", 0) for a in steps), default=0),
            "took_s": _took(steps),
        }
        found[f"{nth} {name}"] = told
        last = states[-1] if states else "no answer"
        if spec.ends not in (last, told["error"]):
            why = (steps[-1].get("detail") or steps[-1].get("error") or "") if steps else ""
            unmet.append(
                f"command {name} ({spec.name} to {spec.node}): {last}{': ' + why if why else ''}, expected {spec.ends}"
            )
    return found, unmet


def _took(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Virtual seconds from accepted to the end."""
    times = {a["state"]: datetime.fromisoformat(a["t"]).timestamp() for a in steps if not a.get("again")}
    ended = [times[s] for s in ENDED if s in times]
    return round(max(ended) - times["accepted"], 1) if ended and "accepted" in times else None

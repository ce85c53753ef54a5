"""CPython asks both VMs the same random questions, one process each; every answer must be CPython's own.

A failure names its seed: WIRE_SEED=<it> asks the same again.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from motewire import EPOCH_2000
from motewire.batch import MAX_VALUE

from gateway.core.cbor import load
from gateway.core.refusals import Unreadable
from gateway.core.report import CONFIDENCE, MAX_EVENTS, OCCURRENCES, decode
from tests.wire import vms
from tests.wire.answer import answer
from tests.wire.replay import ROOM
from tests.wire.test_ccm import Block

T0 = 820540800
GOLDEN = json.loads(vms.VECTORS.read_text())


def cell(r: random.Random, near: int) -> int | None:
    kind = r.randrange(12)
    if kind == 0:
        return None
    if kind == 1:
        return r.choice([-MAX_VALUE, MAX_VALUE, 0, r.randint(-MAX_VALUE, MAX_VALUE)])
    return near + r.randint(-3, 3) if kind < 9 else near + r.randint(-2000, 2000)


def batch(r: random.Random) -> dict[str, Any]:
    """A report vector of random shape: width, form, stamp, interval, gaps, steps back in time, ext."""
    width = r.choice([1, 1, 2, 3, 6, 16])
    interval = r.choice([0, 1, 7, 25, 60, 60, 300, 3600, 604800])
    near = [r.randint(-500, 1500) for _ in range(width)]
    times = [T0 + r.randrange(1 << 24)]
    rows = [[cell(r, n) for n in near]]
    for _ in range(r.choice([0, 1, 3, 11, 23, 47]) if width < 16 else r.randrange(4)):
        step = interval if interval and r.random() < 0.8 else r.choice([0, 1, r.randrange(5000), r.randrange(1 << 24)])
        back = interval and r.random() < 0.05
        times.append(times[-1] - step if back else times[-1] + step)
        rows.append([cell(r, n) for n in near])
    v: dict[str, Any] = {
        "form": r.choice(["packed", "packed", "plain"]), "schema": r.choice([None, 900]), "interval_s": interval,
        "ids": r.sample(range(1, 60), width), "times": times, "rows": rows,
        "stamp": r.choice(["absolute", "low16", "age"]), "now": max(times) + r.randrange(1 << 20),
    }  # fmt: skip
    if r.random() < 0.2:
        v["ext"] = {"map": [[r.randrange(70000), r.choice([None, True, -7, "mož", [1, [2]]])]]}
    return v


def noise(r: random.Random) -> str:
    """Bytes that may or may not be CBOR: a golden vector with a few bytes changed, cut or doubled, or none at all."""
    raw = bytearray.fromhex(r.choice([*GOLDEN["reports"], *GOLDEN["maps"], *GOLDEN["bad_payloads"]])["hex"][:400])
    for _ in range(r.randrange(4)):
        at = r.randrange(len(raw) + 1)
        raw[at : at + r.randrange(3)] = r.randbytes(r.randrange(3))
    return bytes(raw).hex() if r.random() < 0.9 else r.randbytes(r.randrange(40)).hex()


def questions(seed: int) -> list[Any]:
    r = random.Random(seed)
    out: list[Any] = [["batch", batch(r)] for _ in range(250)]
    out += [["read", noise(r)] for _ in range(300)]
    out += [["header", r.randbytes(r.randrange(12, 24)).hex()] for _ in range(60)]
    for _ in range(40):
        key, nonce, aad = (r.randbytes(n).hex() for n in (16, 13, r.randrange(10)))
        out.append(["seal", key, nonce, aad, r.randbytes(r.randrange(60)).hex()])
    return out


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[Any], list[str], Path]:
    """Seed, questions, CPython's answers, the file of questions."""
    seed = int(os.environ.get("WIRE_SEED") or random.SystemRandom().getrandbits(32))
    asking = questions(seed)
    path = tmp_path_factory.mktemp("ask") / "questions.json"
    path.write_text(json.dumps(asking))
    return seed, asking, [answer(q, Block, bytearray(ROOM)) for q in asking], path


def test_the_64_bit_vm_answers_as_cpython(asked: tuple[int, list[Any], list[str], Path]) -> None:
    compare(asked, vms.in_64_bit_vm("answer", asked[3]))


def test_the_32_bit_vm_answers_as_cpython(asked: tuple[int, list[Any], list[str], Path]) -> None:
    compare(asked, vms.in_32_bit_vm("answer", asked[3]))


def compare(asked: tuple[int, list[Any], list[str], Path], got: list[str]) -> None:
    seed, asking, want, _ = asked
    for q, a, b in zip(asking, want, got, strict=True):
        assert a == b, f"WIRE_SEED={seed}: {q}: CPython {a}, the VM {b}"


def test_the_gateway_reads_every_random_batch(asked: tuple[int, list[Any], list[str], Path]) -> None:
    seed, asking, answers, _ = asked
    read = 0
    for (what, v, *_), hexed in zip(asking, answers, strict=True):
        if what != "batch" or hexed == "full":
            continue
        received = (v["now"] if v["stamp"] == "age" else v["times"][0] + 100) + EPOCH_2000
        payload, announced = bytes.fromhex(hexed), {900: tuple(v["ids"])}
        if _events(payload, v) > MAX_EVENTS:
            with pytest.raises(Unreadable, match="events"):
                decode(payload, received, announced)
            continue
        report = decode(payload, received, announced)
        rows = [list(row) for row in zip(*report.columns, strict=True)]
        assert (rows, [t - EPOCH_2000 for t in report.times]) == (v["rows"], v["times"]), f"WIRE_SEED={seed}: {v}"
        read += 1
    assert read > 200


def _events(payload: bytes, v: dict[str, Any]) -> int:
    """How many values of a report are events: each one is published by itself, so the gateway has a bound."""
    _, _, interval, rows_or_cells, *_ = load(payload)
    if interval or isinstance(rows_or_cells, list) and v["ids"][0] not in OCCURRENCES:
        return 0
    return sum(cell is not None for row in v["rows"] for q, cell in zip(v["ids"], row, strict=True) if q != CONFIDENCE)

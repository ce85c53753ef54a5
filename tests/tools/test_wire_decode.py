"""`citymote wire decode` as a technician meets it, and the reader behind it against all bytes in the world."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import cbor2
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from motewire import codes, frame

from tests.gateway.world import T0, Mote, report
from tools.cli import cli
from tools.wire_explain import EXIT_CODES, Key, Refused, diagnostic, explain_frame, explain_payload, unhex

CITYMOTE = str(Path(sys.executable).with_name("citymote"))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())
WORKED = "40010723452907ab6bd5df50c0820fc59a3c88bfb6ac0a08ca4eba9cdeebffeeb84e488632"
KEY = "000102030405060708090a0b0c0d0e0f"
NODE = Mote(0x0107, bytes.fromhex(KEY))


def decode(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CITYMOTE, "wire", "decode", *arguments], capture_output=True, text=True, timeout=60, input=stdin
    )


def explained(data: bytes, key: Key | None = None, received: float = T0 + 600, **schemas: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    explain_frame(data, key, received, schemas.get("schemas", {}), out)
    return out


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return str(path)


def test_the_worked_frame_is_explained_to_a_human(key_file: str) -> None:
    done = decode(WORKED, "--key-file", key_file, "--received", str(T0 + 100))
    assert done.returncode == 0, done.stderr
    for words in (
        "report, up; node 263 (0x0107); counter 9029 (its low 16 bits); key slot 0",
        "opened: epoch 0, counter 74565 (0x00012345)",
        "[3, 47360, 8, 3, h'463a4d28b169458b0838102977899040']",
        "packed, schema 3, regular, 3 rows",
        "2026-01-01T00:02:00Z",
        "%RH (id 2)",
        "1012.1",
        "23.1",
    ):
        assert words in done.stdout, done.stdout
    assert KEY not in done.stdout + done.stderr


def test_json_is_one_document_with_raw_and_physical_values(key_file: str) -> None:
    done = decode(WORKED, "--key-file", key_file, "--received", str(T0 + 100), "--json")
    found = json.loads(done.stdout)
    assert found["ok"] is True and found["bytes"] == 37
    assert found["seal"] == {
        "state": "opened", "tag": "ebffeeb84e488632", "ciphertext_bytes": 24, "epoch": 0, "counter": 0x12345,
    }  # fmt: skip
    payload = found["payload"]
    assert payload["times"] == ["2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]
    pressure = payload["columns"][5]
    assert pressure == {
        "id": 3, "quantity": "pressure", "unit": "hPa", "raw": [121, 120, 120], "values": [1012.1, 1012.0, 1012.0], "suspect_rows": [],
    }  # fmt: skip


def test_without_a_key_the_header_and_the_seal_are_told() -> None:
    done = decode(WORKED)
    assert done.returncode == 0 and "sealed: 24 bytes of ciphertext" in done.stdout and "--key-file" in done.stdout


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["name"])
def test_every_golden_frame_opens(vector: dict[str, Any]) -> None:
    found: dict[str, Any] = {}
    with suppress(Refused):  # vectors of the envelope alone may carry any payload
        explain_frame(unhex(vector["hex"]), Key(bytes.fromhex(vector["key"]), vector["epoch"]), T0, {}, found)
    assert found["seal"]["state"] == "opened" and found["seal"]["counter"] == vector["counter"]
    assert found["payload"]["hex"] == vector["payload"]


@pytest.mark.parametrize("vector", VECTORS["reports"] + VECTORS["foreign"], ids=lambda v: v["name"])
def test_every_golden_report_is_explained(vector: dict[str, Any]) -> None:
    found = explain_payload(unhex(vector["hex"]), None, vector.get("received", T0), {900: tuple(vector["ids"])}, {})
    assert found["type"] == "report" and [c["id"] for c in found["columns"]] == vector["ids"]
    assert [list(row) for row in zip(*(c["raw"] for c in found["columns"]), strict=True)] == vector["rows"]
    if "received" not in vector:
        stamps = [t - T0 + 820540800 for t in found["unix"]]
        assert stamps == vector["times"] or "low 16" in found["stamp"] or "age" in found["stamp"]


@pytest.mark.parametrize("vector", VECTORS["alarms"], ids=lambda v: v["name"])
def test_every_golden_alarm_is_explained(vector: dict[str, Any]) -> None:
    found = explain_payload(unhex(vector["hex"]), None, T0, {}, {})
    assert (found["type"], found["code"]) == ("alarm", vector["code"])
    assert (found["value"] is None) == (vector["value"] is None)


@pytest.mark.parametrize("vector", VECTORS["maps"], ids=lambda v: v["name"])
def test_every_golden_map_is_explained(vector: dict[str, Any]) -> None:
    kind = ("report", "alarm", "status", "downlink")[vector["kind"]]
    found = explain_payload(unhex(vector["hex"]), kind, T0, {}, {})
    assert len(found["values"]) + ("schemas" in found) == len(vector["items"]) and "wrong" not in found


@pytest.mark.parametrize("vector", VECTORS["bad_headers"], ids=lambda v: v["name"])
def test_every_bad_header_is_refused_by_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(Refused) as e:
        explained(unhex(vector["hex"]))
    assert e.value.name == (vector["reason"] if vector["hex"] else "bad_hex")


@pytest.mark.parametrize("vector", VECTORS["bad_payloads"], ids=lambda v: v["name"])
def test_every_bad_payload_is_refused_by_name(vector: dict[str, Any]) -> None:
    kind = ("report", "alarm", "status", "downlink")[vector["kind"]]
    with pytest.raises(Refused) as e:
        explain_payload(bytes.fromhex(vector["hex"]), kind, T0, {}, {})
    assert e.value.name in ("malformed", "truncated", "unknown_schema")


@pytest.mark.parametrize("vector", VECTORS["bad_downlinks"], ids=lambda v: v["name"])
def test_every_bad_downlink_value_is_named(vector: dict[str, Any]) -> None:
    found = explain_payload(unhex(vector["hex"]), "downlink", T0, {}, {})
    assert len(found["wrong"]) == len(vector["wrong"])


def test_an_ack_is_told_in_counters() -> None:
    found = explain_payload(cbor2.dumps({1: 20, 2: b"\x41", 8: 13}), "downlink", T0, {}, {})
    assert found["ack"] == {"committed_from": 13, "committed_below": 20, "missing": [18]}  # bit 7 is 12: before since
    done = decode("--payload", "--type", "downlink", cbor2.dumps({1: 20, 2: b"\x41", 4: {1: 60}, 7: True}).hex())
    assert "from 0 to 19 is committed, but 12, 18 missing" in done.stdout
    assert "{'sample_s': 60}" in done.stdout and "wrong    schema:" in done.stdout


def test_bare_payloads_of_every_type() -> None:
    done = decode("--payload", "850219b9000518b51896", "--received", str(T0 + 9))
    assert done.returncode == 0 and "above: pm25 181 ug/m3, limit 150, 2026-01-01T00:00:00Z" in done.stdout
    done = decode("--payload", "84 03 1a6955b900 08 86 03 05 05 18e7 190277 1879")
    assert done.returncode == 0 and "plain, schema 3" in done.stdout and "23.1" in done.stdout
    done = decode("--payload", cbor2.dumps({1: 77, 4: {20: [5, 6]}, 12: 371}).hex())
    assert "uptime = 77" in done.stdout and "schema 20 = pm25, pm10" in done.stdout
    done = decode(
        "--payload", "--type", "downlink", cbor2.dumps({codes.DOWN_NEXT: 9, codes.DOWN_MISSING: b"\x40"}).hex()
    )
    assert "next = 9" in done.stdout and "missing = 40" in done.stdout


def test_a_downlink_opens_with_the_downlink_nonce() -> None:
    payload = cbor2.dumps({1: 5, 3: T0})
    buf, nonce = bytearray(9), bytearray(13)
    end = frame.put_header(buf, frame.DOWNLINK, NODE.id, 3, 0, True)
    frame.put_nonce(nonce, frame.DOWN, NODE.id, 0, 3)
    from gateway.crypto import sealer

    data = bytes(buf[:end]) + sealer(NODE.key, bytes(nonce), payload, bytes(buf[:end]))
    found = explained(data, Key(NODE.key))
    assert found["header"]["direction"] == "down" and found["payload"]["values"] == {"next": 5, "time": T0}


def test_epoch_and_upper_counter_half_are_searched() -> None:
    node = Mote(70000, bytes.fromhex(KEY), epoch=9)
    data = node.seal(frame.STATUS, cbor2.dumps({1: 1}), counter=200 * 65536 + 17)
    found = explained(data, Key(node.key))
    assert (found["seal"]["epoch"], found["seal"]["counter"], found["header"]["node"]) == (9, 200 * 65536 + 17, 70000)


def test_a_registry_is_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "nodes.toml"
    path.write_text(
        f'[[node]]\nid = 7\nname = "x"\nkey = "{"00" * 16}"\n[[node]]\nid = 263\nname = "aq"\nkey = "{KEY}"\nepoch = 0\n'
    )
    assert decode(WORKED, "--key-file", str(path)).returncode == 0
    done = decode(NODE.__class__(99, NODE.key).seal(frame.STATUS, b"\xa0").hex(), "--key-file", str(path))
    assert done.returncode == 2 and "node 99 is not in it" in done.stderr


def test_a_frame_may_come_from_stdin_with_blanks() -> None:
    assert (
        decode("-", stdin="40 01:07 2345\n2907ab6bd5df50c0820fc59a3c88bfb6ac0a08ca4eba9cdeebffeeb84e488632").returncode
        == 0
    )


FUTURE = "c0" + WORKED[2:]
UNKNOWN = NODE.seal(frame.REPORT, cbor2.dumps([99, T0, 8, 1, b"\x00"]), counter=5).hex()


@pytest.mark.parametrize(
    ("arguments", "error", "code", "words"),
    [
        (("xyz",), "bad_hex", 2, "'x' at digit 1"),
        (("401",), "bad_hex", 2, "half a byte"),
        (("",), "bad_hex", 2, "no hex digits"),
        (("4001",), "truncated", 10, "2 bytes are less than a header"),
        ((WORKED[:24],), "truncated", 10, "12 bytes"),
        (("--payload", "850219b900"), "truncated", 10, "truncated"),
        ((FUTURE,), "bad_version", 11, "wire version 3"),
        (("00" * 20,), "bad_version", 11, "wire version 0"),
        ((UNKNOWN, "--key-file", "KEY"), "unknown_schema", 12, "schema 99"),
        ((WORKED, "--key-file", "OTHER"), "bad_tag", 5, "the tag does not fit"),
        ((WORKED[:-2], "--key-file", "KEY"), "bad_tag", 5, "bytes are missing"),
        ((WORKED, "--key-file", "KEY", "--epoch", "1"), "wrong_epoch", 5, "key slot 0"),
        ((WORKED, "--key-file", "NONE"), "bad_key", 2, "No such file"),
        (("--payload", "01"), "malformed", 13, "neither report"),
        (("41ffff2345" + WORKED[10:],), "malformed", 13, "reserved node id"),
        (("40" * 1025,), "too_long", 14, "1025 bytes"),
    ],
)
def test_bad_input_has_a_name_an_exit_code_and_a_next_step(
    arguments: tuple[str, ...], error: str, code: int, words: str, key_file: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\x01" * 16)
    places = {"KEY": key_file, "OTHER": str(other), "NONE": str(tmp_path / "none")}
    done = decode(*(places.get(a, a) for a in arguments), "--json")
    assert done.returncode == code == EXIT_CODES[error], done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is False and found["error"] == error and words in found["text"] and found["hint"]
    assert words in done.stderr and "next: " in done.stderr and "Traceback" not in done.stderr


def test_a_failure_still_tells_what_is_known(key_file: str) -> None:
    found = json.loads(decode(UNKNOWN, "--key-file", key_file, "--json").stdout)
    assert found["header"]["node"] == 263 and found["seal"]["state"] == "opened"
    assert found["payload"]["diagnostic"] == f"[99, {T0}, 8, 1, h'00']"
    done = decode(WORKED, "--key-file", "/dev/null")
    assert done.returncode == 2


def test_an_unknown_schema_can_be_told(key_file: str) -> None:
    payload = report(T0, [[5, 6], [7, 8]], schema=4).replace(b"\x85\x04", b"\x85\x18\x63", 1)
    data = NODE.seal(frame.REPORT, payload, counter=9).hex()
    assert decode(data, "--key-file", key_file).returncode == 12
    done = decode(data, "--key-file", key_file, "--schema", "99=5,1023", "--json")
    columns = json.loads(done.stdout)["payload"]["columns"]
    assert [(c["quantity"], c["unit"]) for c in columns] == [("pm25", "ug/m3"), ("q1023", "")]


def test_diagnostic_notation_is_that_of_rfc_8949() -> None:
    """Examples of RFC 8949 appendix A that lie in the dialect."""
    for text, said in {
        "1864": "100", "3903e7": "-1000", "f5": "true", "f6": "null", "4401020304": "h'01020304'", "62225c": '"\\"\\\\"', "62c3bc": '"ü"',
        "8301820203820405": "[1, [2, 3], [4, 5]]", "a201020304": "{1: 2, 3: 4}",
    }.items():  # fmt: skip
        assert diagnostic(cbor2.loads(bytes.fromhex(text))) == said


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_explained_or_refused_by_name(data: bytes, with_key: bool) -> None:
    if data:
        with suppress(Refused):
            json.dumps(explained(data, Key(NODE.key, 0) if with_key else None))


@given(st.binary(max_size=80), st.sampled_from([None, "report", "alarm", "status", "downlink"]))
def test_any_payload_is_explained_or_refused_by_name(data: bytes, kind: str | None) -> None:
    with suppress(Refused):
        json.dumps(explain_payload(data, kind, T0, {}, {}))


_ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.integers(0, 20), inner, max_size=5),
    max_leaves=12,
)


@given(_ITEMS, st.sampled_from([None, "report", "alarm", "status", "downlink"]))
def test_any_cbor_is_explained_or_refused_by_name(item: Any, kind: str | None) -> None:
    with suppress(Refused):
        json.dumps(explain_payload(cbor2.dumps(item, canonical=True), kind, T0, {}, {}))


def ask_payload(text: str, *more: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["wire", "decode", text, "--payload", "--json", *more])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)["payload"]


def test_the_examples_of_the_contract_are_old_frames_and_no_wrong_ones() -> None:
    """Its rows are of 2026-01-01: read against the present, they would all be older than any outbox holds."""
    for text in ("85031a6955b900080350463a4d28b169458b0838102977899040", "84031a6955b900088603050518e71902771879"):
        found = ask_payload(text)
        assert found["times"][0] == "2026-01-01T00:00:00Z" and not any(c["suspect_rows"] for c in found["columns"])
        assert "taken from the newest time" in found["received"]
        assert all(c["suspect_rows"] for c in ask_payload(text, "--received", "1893456000")["columns"]), (
            "unless it is said"
        )
    found = ask_payload("85021a6955b9000518b51896")
    assert found["time"] == "2026-01-01T00:00:00Z" and "taken from" in found["received"]
    short = ask_payload("850319b900080350463a4d28b169458b0838102977899040")
    assert "of an older frame the times are wrong" in short["received"]
    told = CliRunner().invoke(cli, ["wire", "decode", "850319b900080350463a4d28b169458b0838102977899040", "--payload"])
    assert "received now, --received was not given" in told.output
    assert "received" not in ask_payload("850319b900080350463a4d28b169458b0838102977899040", "--received", "1767225800")

"""frame.cddl, read by zcbor, admits every golden payload under its own rule and refuses what the grammar can tell is broken."""

import json
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest

from tests.wire import vms

GRAMMAR = (vms.FIRMWARE / "motewire" / "frame.cddl").read_text()
VECTORS = json.loads(vms.VECTORS.read_text())
RULES = {0: "report", 1: "alarm", 2: "status", 3: "downlink"}
GOOD = (
    [("report", v) for v in VECTORS["reports"] + VECTORS["foreign"]]
    + [("alarm", v) for v in VECTORS["alarms"]]
    + [(RULES[v["kind"]], v) for v in VECTORS["maps"]]
)

# What no grammar sees: the inside of `bits`, sums of deltas, agreement between items, spelling, repeated keys, the registry.
BEYOND = {
    "bits exhausted", "8 left-over bits", "padding that is not zero", "EG prefix of 32 zeros", "one quantity twice",
    "schema 23 is not known", "time before 1970", "plain columns of different length", "plain, a column too few",
    "plain value above 2**27", "plain irregular without stamps", "plain irregular with an interval", "not the shortest head",
    "indefinite array", "something behind", "alarm value above 2**27", "a status with a key twice",
    "a status with true beside 1", "an announcement with one quantity twice", "bitmap with a zero tail",
    "update offer of no bytes", "config that is empty", "piece beyond the count",
}  # fmt: skip
# What zcbor's validation lets pass although the grammar forbids it: a negative number for uint.
JUDGE_IS_BLIND = {"negative schema", "downlink time before 1970"}


@pytest.fixture(scope="module")
def rules() -> Iterator[dict[str, Any]]:
    """zcbor's judges by rule; 256 items is what the readers admit for `*`."""
    with pytest.MonkeyPatch.context() as patch:
        # zcbor 0.9 imports a name that cbor2 6 no longer has
        patch.setattr(cbor2, "CBORDecodeValueError", cbor2.CBORDecodeError, raising=False)
        zcbor = pytest.importorskip("zcbor", reason="no zcbor: pip install -e .[dev]")
        yield zcbor.DataTranslator.from_cddl(GRAMMAR, 256).my_types


def admits(rule: Any, raw: bytes) -> bool:
    """True when the bytes begin with an item that the rule describes."""
    from zcbor import CddlValidationError

    try:
        rule.validate_str(raw)
    except (CddlValidationError, cbor2.CBORDecodeError):
        return False
    return True


def test_the_grammar_admits_every_golden_payload(rules: dict[str, Any]) -> None:
    refused = [
        f"{v['name']} is no {name}"
        for rule, v in GOOD
        for name in (rule, "payload")
        if not admits(rules[name], bytes.fromhex(v["hex"]))
    ]
    assert refused == []


def test_the_grammar_refuses_broken_payloads(rules: dict[str, Any]) -> None:
    broken = [(RULES[v["kind"]], v) for v in VECTORS["bad_payloads"]] + [
        ("downlink", v) for v in VECTORS["bad_downlinks"]
    ]
    admitted = {v["name"] for rule, v in broken if admits(rules[rule], bytes.fromhex(v["hex"]))}
    assert admitted == BEYOND | JUDGE_IS_BLIND
    assert len(broken) - len(admitted) > 30


EXT = [
    (True, {1: -5, 2: "text", 7: b"bytes", 30: [1, None, True, [False]], 300: {0: 65536, "k": {b"b": []}}}),
    (True, {2: (1 << 63) - 1, 3: -(1 << 63)}),
    (False, {5: 1.5}), (False, {5: float("nan")}), (False, {5: [1, {2: 1.5}]}), (False, {5: cbor2.CBORTag(1, 2)}),
    (False, {5: cbor2.CBORSimpleValue(99)}), (False, {5: cbor2.undefined}), (False, {"5": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("good", "ext"), EXT)
def test_grammar_and_gateway_agree_on_what_an_ext_may_hold(rules: dict[str, Any], good: bool, ext: Any) -> None:
    from gateway.core.refusals import Malformed
    from gateway.core.report import decode

    raw = cbor2.dumps([[6], 1_767_225_600, 60, [5], ext])
    assert admits(rules["report"], raw) is good
    if good:
        assert decode(raw, 1_767_225_600, {}).ext == ext
    else:
        with pytest.raises(Malformed):
            decode(raw, 1_767_225_600, {})

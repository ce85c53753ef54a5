"""The subset readers before the examples of RFC 8949 appendix A: what is of the subset reads to the given value, the rest is refused."""

import json
from typing import Any

import cbor2
import pytest
from motewire import cbor
from motewire.errors import WireError

from gateway.core import cbor as gateway_cbor
from gateway.core.refusals import Malformed
from tests.wire import vms
from tests.wire.answer import shown

EXAMPLES = json.loads((vms.ROOT / "tests" / "vectors" / "cbor" / "appendix_a.json").read_text())

# Valid CBOR that the wire does not speak: tags and big integers, floats, undefined, other simple values, indefinite lengths.
NOT_OURS = (
    {"c249010000000000000000", "c349010000000000000000"}
    | {e["hex"] for e in EXAMPLES if e["hex"][:2] in ("f9", "fa", "fb", "f7", "f0", "f8", "c0", "c1", "d7", "d8")}
    | {
        e["hex"]
        for e in EXAMPLES
        if e["hex"][:2] in ("5f", "7f", "9f", "bf") or "9f" in e["hex"] and e["hex"][:2] == "83"
    }
    | {"826161bf61626163ff", "83018202039f0405ff", "83019f0203ff820405"}
)
# The wire speaks them, the gateway refuses them: neither its store nor JSON can hold them.
BEYOND_64_BITS = {"1bffffffffffffffff", "3bffffffffffffffff"}


def test_the_examples_are_those_of_the_rfc() -> None:
    assert len(EXAMPLES) == 82
    assert len(NOT_OURS) == 45


@pytest.mark.parametrize("e", EXAMPLES, ids=lambda e: e["hex"][:24])
def test_an_example_of_the_rfc_reads_as_it_says_or_is_refused(e: dict[str, Any]) -> None:
    raw = bytes.fromhex(e["hex"])
    if e["hex"] in NOT_OURS:
        with pytest.raises(WireError):
            cbor.read(raw, 0, len(raw))
        with pytest.raises(Malformed):
            gateway_cbor.load(raw)
        return
    want = e["decoded"] if "decoded" in e else cbor2.loads(raw)
    if e["hex"] in BEYOND_64_BITS:
        assert cbor.read(raw, 0, len(raw)) == want
        with pytest.raises(Malformed):
            gateway_cbor.load(raw)
        return
    assert shown(cbor.read(raw, 0, len(raw))) == shown(gateway_cbor.load(raw)) == shown(want)
    assert e["roundtrip"] and cbor2.dumps(want) == raw

"""AES-CCM of the node before other people's vectors: NIST, RFC 3610 and Wycheproof; on CPython, on cryptolib and on 32 bits.

See tests/vectors/ccm/README.md for what each file can say about the one shape of the wire (13-byte nonce, 8-byte tag).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire import vms
from tests.wire.answer import answer
from tests.wire.test_ccm import Block

CCM = vms.ROOT / "tests" / "vectors" / "ccm"
Question = list[str]
Case = tuple[str, Question, str, int]
"""Name, question for answer.py, hex of the answer, hex digits of it to compare (tags of another length are not ours)."""

# RFC 3610 section 8, packet vectors 1 to 3: M = 8, L = 2
RFC_3610 = [
    ("00000003020100a0a1a2a3a4a5", 0x1F, "588c979a61c663d2f066d0c2c0f989806d5f6b61dac38417e8d12cfdf926e0"),
    ("00000004030201a0a1a2a3a4a5", 0x20, "72c91a36e135f8cf291ca894085c87e3cc15c439c9e43a3ba091d56e10400916"),
    ("00000005040302a0a1a2a3a4a5", 0x21, "51b1e5f44a197d1da46b0f8e2d282ae871e838bb64da8596574adaa76fbd9fb0c5"),
]


def rfc_cases() -> Iterator[Case]:
    key = bytes(range(0xC0, 0xD0)).hex()
    for i, (nonce, end, sealed) in enumerate(RFC_3610, 1):
        body = bytes(range(8, end)).hex()
        yield f"RFC 3610 #{i}", ["seal", key, nonce, "0001020304050607", body], sealed, len(sealed)
        yield f"RFC 3610 #{i} open", ["open", key, nonce, "0001020304050607", sealed], body, len(body)


def nist_records(name: str) -> Iterator[dict[str, str]]:
    """Records of a .rsp file with the values of the sections above them; VNT and VTT end a record with CT, DVPT with Payload."""
    now: dict[str, str] = {}
    last = "Payload" if "DVPT" in name else "CT"
    for line in (CCM / name).read_text().splitlines():
        for key, value in re.findall(r"(\w+) = (\w+)", line):
            if key == "Nonce":
                now.pop("Payload", None)
            now[key] = value
            if key == "Result" and value == "Fail" or key == last:
                yield dict(now)


def nist_cases() -> Iterator[Case]:
    for name in ("nist_ccm_VTT128.rsp", "nist_ccm_VNT128_n13.rsp", "nist_ccm_DVPT128_n13.rsp"):
        for i, r in enumerate(nist_records(name)):
            assert len(r["Nonce"]) == 26
            aad = "" if r["Alen"] == "0" else r["Adata"]
            body = "" if r["Plen"] == "0" else r.get("Payload", "")
            if r.get("Result") == "Fail":
                continue  # tags of 4 and 16 bytes: only the key stream of the good ones can be judged
            ours = r["Tlen"] == "8"
            question = ["seal", r["Key"], r["Nonce"], aad, body]
            yield f"{name} {i}", question, r["CT"], len(r["CT"]) if ours else len(body)
            if ours:
                yield f"{name} {i} open", ["open", *question[1:4], r["CT"]], body, len(body)
                forged = f"{int(r['CT'][:2], 16) ^ 1:02x}{r['CT'][2:]}"
                yield f"{name} {i} forged", ["open", *question[1:4], forged], "bad_tag", 7


def wycheproof_cases() -> Iterator[Case]:
    for group in json.loads((CCM / "wycheproof_aes128_ccm.json").read_text())["testGroups"]:
        for t in group["tests"]:
            name, sealed = f"wycheproof {t['tcId']}", t["ct"] + t["tag"]
            context = [t["key"], t["iv"], t["aad"]]
            if group["tagSize"] == 64:
                good = t["result"] == "valid"
                yield name, ["open", *context, sealed], t["msg"] if good else "bad_tag", len(t["msg"]) if good else 7
                if good:
                    yield name + " seal", ["seal", *context, t["msg"]], sealed, len(sealed)
                    forged = f"{sealed[:-2]}{int(sealed[-2:], 16) ^ 1:02x}"
                    yield name + " forged", ["open", *context, forged], "bad_tag", 7
            elif t["result"] == "valid":
                yield name, ["seal", *context, t["msg"]], t["ct"], len(t["ct"])


CASES = [*rfc_cases(), *nist_cases(), *wycheproof_cases()]


def complaints(answers: list[str]) -> list[str]:
    return [
        f"{name}: {got}"
        for (name, _, want, digits), got in zip(CASES, answers, strict=True)
        if got[:digits] != want[:digits] or want == "bad_tag" != got
    ]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "ccm.json"
    path.write_text(json.dumps([c[1] for c in CASES]))
    return path


def test_every_source_judges() -> None:
    """6 of RFC 3610; VTT 10 with our tag three ways and 60 by key stream; VNT 10; DVPT's passes; Wycheproof's 64-bit tags."""
    by = [
        sum(name.startswith(s) for name, *_ in CASES) for s in ("RFC", "nist_ccm_VTT", "nist_ccm_VNT", "nist_ccm_DVPT")
    ]
    assert by[:3] == [6, 90, 10] and by[3] > 20
    assert sum(n.startswith("wycheproof") for n, *_ in CASES) > 14


def test_others_vectors_hold_on_cpython() -> None:
    assert complaints([answer(q, Block, bytearray(9)) for _, q, _, _ in CASES]) == []


def test_others_vectors_hold_on_cryptolib_of_the_64_bit_vm(questions: Path) -> None:
    assert complaints(vms.in_64_bit_vm("answer", questions)) == []


def test_others_vectors_hold_on_the_32_bit_vm(questions: Path) -> None:
    assert complaints(vms.in_32_bit_vm("answer", questions)) == []

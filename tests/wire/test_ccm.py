"""AES-CCM as the node computes it, judged by NIST's vectors and by the `cryptography` library."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import given
from hypothesis import strategies as st
from motewire.ccm import Ccm
from motewire.errors import BadTag, Truncated

from host_sim.vm32.lib.aes_block import Aes128

VECTORS = Path(__file__).parents[1] / "vectors" / "ccm" / "nist_ccm_VTT128.rsp"


class Block:
    """One AES block at a time through `cryptography`, in the shape of cryptolib's object."""

    def __init__(self, key: bytes) -> None:
        self._ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def encrypt(self, src: bytearray, dst: bytearray) -> None:
        dst[:16] = self._ecb.update(bytes(src))


def nist_cases_with_8_byte_tags() -> Iterator[dict[str, bytes]]:
    tag, case = 0, {}
    for line in VECTORS.read_text().splitlines():
        if found := re.match(r"\[Tlen = (\d+)\]", line):
            tag = int(found[1])
        elif found := re.match(r"(Key|Nonce|Adata|Payload|CT) = (\w+)", line):
            case[found[1]] = bytes.fromhex(found[2])
            if found[1] == "CT" and tag == 8:
                yield dict(case)


def seal(ccm: Ccm, nonce: bytes, aad: bytes, payload: bytes) -> bytes:
    buf = bytearray(aad + payload + bytes(8))
    assert ccm.seal(buf, len(aad), len(aad) + len(payload), nonce) == len(buf)
    return bytes(buf[len(aad) :])


def test_nist_variable_tag_vectors_of_our_shape_hold() -> None:
    cases = list(nist_cases_with_8_byte_tags())
    assert len(cases) == 10
    for c in cases:
        assert seal(Ccm(Block(c["Key"])), c["Nonce"], c["Adata"], c["Payload"]) == c["CT"]


def test_the_plain_aes_of_the_32_bit_tests_is_aes() -> None:
    """FIPS 197 appendix C.1."""
    out = bytearray(16)
    Aes128(bytes(range(16))).encrypt(bytes.fromhex("00112233445566778899aabbccddeeff"), out)
    assert out.hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=13, max_size=13),
    st.binary(max_size=40),
    st.binary(max_size=300),
)
def test_sealing_agrees_with_cryptography(key: bytes, nonce: bytes, aad: bytes, payload: bytes) -> None:
    want = AESCCM(key, tag_length=8).encrypt(nonce, payload, aad)
    assert seal(Ccm(Block(key)), nonce, aad, payload) == want
    buf = bytearray(aad + want)
    end = Ccm(Block(key)).open(buf, len(aad), len(buf), nonce)
    assert buf[len(aad) : end] == payload


@given(st.binary(min_size=1, max_size=60), st.data())
def test_one_flipped_bit_is_refused_and_leaves_no_plaintext(payload: bytes, data: st.DataObject) -> None:
    key, nonce, aad = bytes(range(16)), bytes(13), b"\x40\x01\x07\x00\x01"
    buf = bytearray(aad + AESCCM(key, tag_length=8).encrypt(nonce, payload, aad))
    bit = data.draw(st.integers(0, 8 * len(buf) - 1))
    buf[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(BadTag):
        Ccm(Block(key)).open(buf, len(aad), len(buf), nonce)
    assert not any(buf[len(aad) : -8])


def test_a_frame_shorter_than_its_tag_is_truncated() -> None:
    with pytest.raises(Truncated):
        Ccm(Block(bytes(16))).open(bytearray(10), 5, 10, bytes(13))

"""AES-128-CCM with an 8-byte tag (RFC 3610, M = 8, L = 2), passed into the pure core. Cipher objects are cached, bounded."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

TAG_LENGTH = 8


@lru_cache(maxsize=4096)
def _cipher(key: bytes) -> AESCCM:
    return AESCCM(key, tag_length=TAG_LENGTH)


def opener(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes | None:
    """Return the plaintext, or None when the tag does not fit."""
    try:
        return _cipher(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        return None


def sealer(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext and tag. The caller's committed counter guarantees that the nonce is new."""
    return _cipher(key).encrypt(nonce, plaintext, aad)

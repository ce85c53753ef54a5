"""AES-CCM (RFC 3610, M = 8, L = 2, 13-byte nonce) from a bare AES block: stock cryptolib has ECB and CBC, not CTR.

One long-lived block object and three 16-byte buffers: sealing in place allocates nothing.
"""

from motewire.errors import BadTag, Truncated
from motewire.frame import TAG


class Ccm:
    """Seals and opens in place. `aes` encrypts one block: aes.encrypt(src16, dst16) (cryptolib: aes(key, 1))."""

    def __init__(self, aes):
        self._aes = aes
        self._x = bytearray(16)  # running CBC-MAC
        self._ctr = bytearray(16)
        self._s = bytearray(16)  # key stream block

    def _begin(self, buf, aad_end, length, nonce):
        x, ctr = self._x, self._ctr
        x[0] = 0x59 if aad_end else 0x19  # Adata | (M - 2) / 2 << 3 | L - 1
        ctr[0] = 1
        for i in range(13):
            x[i + 1] = ctr[i + 1] = nonce[i]
        x[14] = length >> 8
        x[15] = length & 255
        ctr[14] = ctr[15] = 0
        self._aes.encrypt(x, x)
        if aad_end:
            x[0] ^= aad_end >> 8
            x[1] ^= aad_end & 255
            at = 2
            for i in range(aad_end):
                x[at] ^= buf[i]
                at += 1
                if at == 16:
                    self._aes.encrypt(x, x)
                    at = 0
            if at:
                self._aes.encrypt(x, x)

    def _crypt(self, buf, at, end, sealing):
        x, ctr, s = self._x, self._ctr, self._s
        aes = self._aes  # a fourth in the line above would build a tuple on the heap
        block = 0
        while at < end:
            block += 1
            ctr[14] = block >> 8
            ctr[15] = block & 255
            aes.encrypt(ctr, s)
            n = end - at
            if n > 16:
                n = 16
            for i in range(n):
                c = buf[at]
                p = c ^ s[i]
                x[i] ^= c if sealing else p
                buf[at] = p
                at += 1
            aes.encrypt(x, x)
        ctr[14] = ctr[15] = 0
        aes.encrypt(ctr, s)

    def seal(self, buf, aad_end, end, nonce):
        """Encrypt buf[aad_end:end] in place with buf[0:aad_end] as AAD, write the tag at buf[end]; return end + 8."""
        self._begin(buf, aad_end, end - aad_end, nonce)
        self._crypt(buf, aad_end, end, True)
        for i in range(TAG):
            buf[end + i] = self._x[i] ^ self._s[i]
        return end + TAG

    def open(self, buf, aad_end, end, nonce):
        """Decrypt buf[aad_end:end] (tag included) in place; return the end of the plaintext.

        Raises BadTag, after wiping what was decrypted, and Truncated. The compare takes the same time wherever it differs.
        """
        end -= TAG
        if end < aad_end:
            raise Truncated
        self._begin(buf, aad_end, end - aad_end, nonce)
        self._crypt(buf, aad_end, end, False)
        diff = 0
        for i in range(TAG):
            diff |= buf[end + i] ^ self._x[i] ^ self._s[i]
        if diff:
            for i in range(aad_end, end):
                buf[i] = 0
            raise BadTag
        return end

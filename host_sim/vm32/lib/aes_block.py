"""AES-128 block encryption in plain Python (FIPS 197), for the 32-bit VM, which has no cryptolib. Simulator only: slow, not constant-time.

A block allocates nothing and stays in small ints, so that a path which may not allocate can be tested with it.
"""


def _tables():
    sbox = [0] * 256
    p = q = 1
    while True:
        p = p ^ (p << 1) & 255 ^ (0x1B if p & 128 else 0)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 255
        if q & 128:
            q ^= 9
        sbox[p] = (
            q
            ^ (q << 1 | q >> 7) & 255
            ^ (q << 2 | q >> 6) & 255
            ^ (q << 3 | q >> 5) & 255
            ^ (q << 4 | q >> 4) & 255
            ^ 0x63
        )
        if p == 1:
            break
    sbox[0] = 0x63
    return sbox


_SBOX = bytes(_tables())
_DOUBLE = bytes([x << 1 & 255 ^ (0x1B if x & 128 else 0) for x in range(256)])
_FROM = bytes([(i + 4 * (i % 4)) % 16 for i in range(16)])  # ShiftRows


class Aes128:
    """encrypt(src, dst) of one 16-byte block under `key`; src and dst may be the same."""

    def __init__(self, key):
        w = [list(key[i : i + 4]) for i in range(0, 16, 4)]
        rcon = 1
        for i in range(4, 44):
            t = list(w[i - 1])
            if i % 4 == 0:
                t = [_SBOX[x] for x in t[1:] + t[:1]]
                t[0] ^= rcon
                rcon = _DOUBLE[rcon]
            w.append([w[i - 4][j] ^ t[j] for j in range(4)])
        self._keys = bytes(sum(w, []))
        self._a = bytearray(16)
        self._b = bytearray(16)

    def encrypt(self, src, dst):
        """Write the encrypted block of src[0:16] into dst[0:16]."""
        s, t = self._a, self._b
        k, box = self._keys, _SBOX
        double, row = _DOUBLE, _FROM
        for i in range(16):
            s[i] = src[i] ^ k[i]
        at = 16
        while True:
            for i in range(16):
                t[i] = box[s[row[i]]]
            if at == 160:
                break
            for c in range(0, 16, 4):
                a = t[c]
                b = t[c + 1]
                d = t[c + 2]
                e = t[c + 3]
                x = a ^ b ^ d ^ e
                s[c] = a ^ x ^ double[a ^ b] ^ k[at]
                s[c + 1] = b ^ x ^ double[b ^ d] ^ k[at + 1]
                s[c + 2] = d ^ x ^ double[d ^ e] ^ k[at + 2]
                s[c + 3] = e ^ x ^ double[e ^ a] ^ k[at + 3]
                at += 4
        for i in range(16):
            dst[i] = t[i] ^ k[at + i]

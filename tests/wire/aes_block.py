"""AES-128 block encryption in plain Python (FIPS 197), for the 32-bit VM, which has no cryptolib. Tests only: slow, not constant-time."""


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


_SBOX = _tables()


def _double(x):
    return x << 1 & 255 ^ (0x1B if x & 128 else 0)


class Aes128:
    """encrypt(src, dst) of one 16-byte block under `key`."""

    def __init__(self, key):
        w = [list(key[i : i + 4]) for i in range(0, 16, 4)]
        rcon = 1
        for i in range(4, 44):
            t = list(w[i - 1])
            if i % 4 == 0:
                t = [_SBOX[x] for x in t[1:] + t[:1]]
                t[0] ^= rcon
                rcon = _double(rcon)
            w.append([w[i - 4][j] ^ t[j] for j in range(4)])
        self._keys = [sum(w[4 * r : 4 * r + 4], []) for r in range(11)]

    def encrypt(self, src, dst):
        """Write the encrypted block of src[0:16] into dst[0:16]."""
        s = [src[i] ^ self._keys[0][i] for i in range(16)]
        for r in range(1, 11):
            s = [_SBOX[s[(i + 4 * (i % 4)) % 16]] for i in range(16)]  # SubBytes and ShiftRows
            if r < 10:
                for c in range(0, 16, 4):
                    a = s[c : c + 4]
                    x = a[0] ^ a[1] ^ a[2] ^ a[3]
                    for j in range(4):
                        s[c + j] = a[j] ^ x ^ _double(a[j] ^ a[(j + 1) % 4])
            s = [s[i] ^ self._keys[r][i] for i in range(16)]
        for i in range(16):
            dst[i] = s[i]

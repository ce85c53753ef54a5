"""Ten times the decimal logarithm in integers, thousandths of a decibel; no float, no allocation. Error below 0.003 dB."""

from array import array

# 10000*lg(1 + i/32), i = 0..32; linear in between (largest error 0.0006 dB)
_TABLE = array(
    "H",
    (0, 134, 263, 389, 512, 631, 746, 859, 969, 1076, 1181, 1283, 1383, 1481, 1576, 1669, 1761, 1850, 1938, 2024,
     2109, 2191, 2272, 2352, 2430, 2507, 2583, 2657, 2730, 2802, 2872, 2942, 3010),
)  # fmt: skip


def mdb(high, low=0):
    """Return 10000*lg(high * 2**24 + low) for 0 <= low < 2**24, 0 <= high < 2**30; 0 for a value of 0."""
    e = 0
    if high:
        while high < 0x8000:
            high = high << 4 | low >> 20
            low = low << 4 & 0xFFFFFF
            e -= 4
        e += 24
    else:
        high = low
        if not high:
            return 0
    while high >= 0x10000:
        high >>= 1
        e += 1
    while high < 0x8000:
        high <<= 1
        e -= 1
    high -= 0x8000  # 15 bits: 5 of index, 10 between two entries
    i = high >> 10
    t = _TABLE[i]
    return (e + 15) * 30103 // 10 + t + (((_TABLE[i + 1] - t) * (high & 1023)) >> 10)


def mdb3(top, high, low):
    """Return 10000*lg(top * 2**48 + high * 2**24 + low) of 24-bit limbs, 0 <= top < 2**29."""
    if not top:
        return mdb(high, low)
    # 24 + 6 bits of mantissa are left: drop what lies 48 bits and more below
    return mdb(top, high) + 72247

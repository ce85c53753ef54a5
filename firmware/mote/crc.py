"""CRC-16 for rows and RTC memory."""

_CRC4 = (0, 0x1021, 0x2042, 0x3063, 0x4084, 0x50A5, 0x60C6, 0x70E7,
         0x8108, 0x9129, 0xA14A, 0xB16B, 0xC18C, 0xD1AD, 0xE1CE, 0xF1EF)  # fmt: skip


def crc16(buf, n):
    """CRC-16/CCITT-FALSE of buf[0:n]; by nibbles, so that it allocates nothing (zlib's 32 bits would on an ESP32)."""
    crc = 0xFFFF
    table = _CRC4
    for i in range(n):
        b = buf[i]
        crc = (crc << 4 & 0xFFFF) ^ table[(crc >> 12) ^ (b >> 4)]
        crc = (crc << 4 & 0xFFFF) ^ table[(crc >> 12) ^ (b & 15)]
    return crc

"""run() of aweight in bytecode: equal to aweight_viper bit for bit, some 100 times slower. For a VM without native emitter."""

from micropython import const

_MS_FRAMES = const(48)


def run(samples, at, n, st):
    """Process frames samples[at:at+n] (array('I') or ('i'), 24 bits left-justified in 32) into `st`; allocates nothing."""
    s1 = st[0]
    s2 = st[1]
    s3 = st[2]
    s4 = st[3]
    s5 = st[4]
    s6 = st[5]
    a = st[6]
    b = st[7]
    c = st[8]
    phase = st[9]
    end = at + n
    while at < end:
        x = samples[at] >> 8
        at += 1
        x = ((x ^ 0x800000) - 0x800000 if x >= 0 else x) << 3

        d = x - s1
        v = ((d >> 15) * 22589 + (((d & 32767) * 22589) >> 15) + 256) >> 9
        x -= s1 + v
        s1 += v + v
        d = x - s2
        v = ((d >> 15) * 22589 + (((d & 32767) * 22589) >> 15) + 256) >> 9
        x -= s2 + v
        s2 += v + v
        d = x - s3
        v = ((d >> 15) * 29346 + (((d & 32767) * 29346) >> 15) + 64) >> 7
        x -= s3 + v
        s3 += v + v
        d = x - s4
        v = ((d >> 15) * 24171 + (((d & 32767) * 24171) >> 15) + 8) >> 4
        x -= s4 + v
        s4 += v + v

        d = x - s5
        v = ((d >> 15) * 27191 + (((d & 32767) * 27191) >> 15) + 1) >> 1
        x -= s5 + v
        x = s5 + v + (x >> 15) * 10711 + (((x & 32767) * 10711) >> 15)
        s5 += v + v
        d = x - s6
        v = ((d >> 15) * 23599 + (((d & 32767) * 23599) >> 15) + 1) >> 1
        x -= s6 + v
        x = s6 + v + (x >> 15) * 23732 + (((x & 32767) * 23732) >> 15)
        s6 += v + v

        x = (x + 4) >> 3
        if x > 0xFFFFFF:
            x = 0xFFFFFF
        elif x < -0xFFFFFF:
            x = -0xFFFFFF
        h = x >> 12
        x &= 4095
        a += h * h
        b += h * x
        c += x * x
        phase += 1
        if phase == _MS_FRAMES:
            low = c + ((b & 2047) << 13)
            high = a + (b >> 11) + (low >> 24)
            low &= 0xFFFFFF
            a = b = c = phase = 0
            _millisecond(high, low, st)
    st[0] = s1
    st[1] = s2
    st[2] = s3
    st[3] = s4
    st[4] = s5
    st[5] = s6
    st[6] = a
    st[7] = b
    st[8] = c
    st[9] = phase


def _millisecond(high, low, st):
    """Detector (1 - exp(-1/125) = 261/2**15), maximum and sum for one millisecond's energy high * 2**24 + low."""
    h = high - st[10]
    p = (h & 32767) * 261
    f = st[11] + ((p & 32767) << 9) + ((((low - st[11]) >> 9) * 261) >> 6)
    h = st[10] + (h >> 15) * 261 + (p >> 15) + (f >> 24)
    f &= 0xFFFFFF
    st[10] = h
    st[11] = f
    if h > st[15] or h == st[15] and f > st[16]:
        st[15] = h
        st[16] = f
    low += st[12]
    st[12] = low & 0xFFFFFF
    low = (low >> 24) + st[13] + (high & 0xFFFFFF)
    st[13] = low & 0xFFFFFF
    st[14] += (high >> 24) + (low >> 24)
    st[17] += 1

"""aweight_plain.run as machine code. The text is compiled where it runs, so that the shipped .mpy fits every processor.

`compile_run()` raises SyntaxError or ValueError where the VM has no native emitter; take aweight_plain.run then.
Viper ints have 32 bits on an ESP32 and 64 on x86-64; the code is written so that nothing ever leaves 32 bits, and a word
loaded through ptr32 (zero-extended on x86-64) is made signed by (w ^ m) - m, m = 2**31, right on both.
"""

_SOURCE = """
import micropython

@micropython.viper
def run(samples: ptr32, at: int, n: int, st: ptr32):
    m = 1
    m = m << 31
    s1 = (st[0] ^ m) - m
    s2 = (st[1] ^ m) - m
    s3 = (st[2] ^ m) - m
    s4 = (st[3] ^ m) - m
    s5 = (st[4] ^ m) - m
    s6 = (st[5] ^ m) - m
    a = st[6]
    b = (st[7] ^ m) - m
    c = st[8]
    phase = st[9]
    end = at + n
    while at < end:
        x = ((((samples[at] ^ m) - m) >> 8) << 3)
        at += 1

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
        x = x & 4095
        a += h * h
        b += h * x
        c += x * x
        phase += 1
        if phase == 48:
            low = c + ((b & 2047) << 13)
            high = a + (b >> 11) + (low >> 24)
            low = low & 0xFFFFFF
            a = 0
            b = 0
            c = 0
            phase = 0
            h = high - st[10]
            p = (h & 32767) * 261
            f = st[11] + ((p & 32767) << 9) + ((((low - st[11]) >> 9) * 261) >> 6)
            h = st[10] + (h >> 15) * 261 + (p >> 15) + (f >> 24)
            f = f & 0xFFFFFF
            st[10] = h
            st[11] = f
            if h > st[15] or (h == st[15] and f > st[16]):
                st[15] = h
                st[16] = f
            low += st[12]
            st[12] = low & 0xFFFFFF
            low = (low >> 24) + st[13] + (high & 0xFFFFFF)
            st[13] = low & 0xFFFFFF
            st[14] = st[14] + (high >> 24) + (low >> 24)
            st[17] = st[17] + 1
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
"""


def compile_run():
    """Return run(samples, at, n, state) in machine code; same contract as aweight_plain.run."""
    scope = {}
    exec(_SOURCE, scope)
    return scope["run"]

"""Replays tests/vectors/wire.json through motewire. Common subset: runs on CPython, the 64-bit VM and the 32-bit VM.

`run(vectors, aes)` returns the list of complaints; aes(key) gives an object with encrypt(src16, dst16).
"""

from motewire.batch import Batch
from motewire.ccm import Ccm
from motewire.frame import parse_header, put_header, put_nonce
from motewire.messages import put_alarm, read


def _hex(b):
    return "".join("%02x" % x for x in b)  # noqa: UP031 (no f-strings with width on every VM)


def _unhex(s):
    return bytes(int(s[i : i + 2], 16) for i in range(0, len(s), 2))


def _report(v):
    batch = Batch(v["ids"], v["schema"], v["interval_s"], 48)
    for t, row in zip(v["times"], v["rows"]):  # noqa: B905 (the VM's zip has no strict=)
        present = 0
        for c in range(len(row)):
            if row[c] is not None:
                present |= 1 << c
        batch.append(t, [x or 0 for x in row], present)
    buf = bytearray(600)
    end = batch.encode(buf, 0, 590) if v["form"] == "packed" else batch.encode_plain(buf, 0, 590)
    return _hex(buf[:end])


def _alarm(v):
    buf = bytearray(40)
    return _hex(buf[: put_alarm(buf, 0, v["code"], v["t"], v["quantity"], v["value"], v["limit"])])


def _frame(v, aes):
    payload = _unhex(v["payload"])
    buf = bytearray(300)
    nonce = bytearray(13)
    head = put_header(buf, v["kind"], v["node"], v["counter"], v["epoch"] & 3, v["long"])
    put_nonce(nonce, v["direction"], v["node"], v["epoch"], v["counter"])
    out = []
    if _hex(buf[:head]) != v["header"]:
        out.append("header " + _hex(buf[:head]))
    if _hex(nonce) != v["nonce"]:
        out.append("nonce " + _hex(nonce))
    buf[head : head + len(payload)] = payload
    ccm = Ccm(aes(_unhex(v["key"])))
    end = ccm.seal(buf, head, head + len(payload), nonce)
    if _hex(buf[:end]) != v["hex"]:
        out.append("sealed " + _hex(buf[:end]))
    if parse_header(buf[:end])[:3] != (v["kind"], v["node"], v["counter"] if v["long"] else v["counter"] & 0xFFFF):
        out.append("parsed header")
    if _hex(buf[head : ccm.open(buf, head, end, nonce)]) != v["payload"]:
        out.append("opened")
    return out


def run(vectors, aes):
    """Return complaints, one string each; an empty list means every vector holds."""
    out = []
    for v in vectors["reports"]:
        got = _report(v)
        if got != v["hex"]:
            out.append(v["name"] + ": " + got)
        read(_unhex(v["hex"]), 0, len(v["hex"]) // 2)
    for v in vectors["alarms"]:
        if _alarm(v) != v["hex"]:
            out.append(v["name"] + ": " + _alarm(v))
    for v in vectors["frames"]:
        out.extend(v["name"] + ": " + x for x in _frame(v, aes))
    return out

"""Replays tests/vectors/wire.json through motewire. Common subset: runs on CPython, the 64-bit VM and the 32-bit VM.

`run(vectors, aes)` returns the list of complaints; aes(key) gives an object with encrypt(src16, dst16).
"""

from motewire import cbor
from motewire.batch import Batch
from motewire.ccm import Ccm
from motewire.downlink import put_downlink, read_downlink
from motewire.errors import WireError
from motewire.frame import DOWNLINK, parse_header, put_header, put_nonce
from motewire.messages import put_alarm, put_map, read

ROOM = 4000  # the plain encoder wants room for every cell at its longest
_STAMPS = {"absolute": cbor.ABSOLUTE, "low16": cbor.LOW16, "age": cbor.AGE}


def tohex(b):
    """Bytes as hexadecimal text."""
    return "".join("%02x" % x for x in b)  # noqa: UP031 (no f-strings with width on every VM)


def unhex(s):
    """Hexadecimal text as bytes."""
    return bytes(int(s[i : i + 2], 16) for i in range(0, len(s), 2))


def value_of(v):
    """A value as the vectors spell it in JSON: {"bytes": hex} and {"map": [[key, value], ...]} for what JSON lacks."""
    if isinstance(v, dict):
        if "bytes" in v:
            return unhex(v["bytes"])
        return {k: value_of(x) for k, x in v["map"]}
    if isinstance(v, list):
        return [value_of(x) for x in v]
    return v


def report_bytes(v, buf):
    """Encode a report vector into buf[3:]; return the bytes."""
    batch = Batch(v["ids"], v["schema"], v["interval_s"], max(48, len(v["rows"])))
    for t, row in zip(v["times"], v["rows"]):  # noqa: B905 (the VM's zip has no strict=)
        present = 0
        for c in range(len(row)):
            if row[c] is not None:
                present |= 1 << c
        batch.append(t, [x or 0 for x in row], present)
    ext = value_of(v["ext"]) if "ext" in v else None
    encode = batch.encode if v["form"] == "packed" else batch.encode_plain
    stamp = _STAMPS[v.get("stamp", "absolute")]
    return bytes(buf[3 : encode(buf, 3, len(buf) - 4, ext, stamp, v.get("now", 0))])


def alarm_bytes(v, buf):
    """Encode an alarm vector; return the bytes."""
    ext = value_of(v["ext"]) if "ext" in v else None
    stamp = _STAMPS[v.get("stamp", "absolute")]
    return bytes(
        buf[: put_alarm(buf, 0, v["code"], v["t"], v["quantity"], v["value"], v["limit"], ext, stamp, v.get("now", 0))]
    )


def map_bytes(v, buf):
    """Encode a status or downlink vector; return the bytes."""
    items = [(k, value_of(x)) for k, x in v["items"]]
    return bytes(buf[: put_downlink(buf, 0, items) if v["kind"] == DOWNLINK else put_map(buf, 0, items)])


def frame_bytes(v, buf, aes, out):
    """Seal a frame vector, open it again; complain into `out` (header, nonce, opened); return the sealed bytes."""
    payload = unhex(v["payload"])
    nonce = bytearray(13)
    head = put_header(buf, v["kind"], v["node"], v["counter"], v["epoch"] & 3, v["long"])
    put_nonce(nonce, v["direction"], v["node"], v["epoch"], v["counter"])
    for key, got in (("header", buf[:head]), ("nonce", nonce)):
        if key in v and tohex(got) != v[key]:
            out.append(key + " " + tohex(got))
    buf[head : head + len(payload)] = payload
    ccm = Ccm(aes(unhex(v["key"])))
    end = ccm.seal(buf, head, head + len(payload), nonce)
    sealed = bytes(buf[:end])
    told = v["counter"] if v["long"] else v["counter"] & 0xFFFF
    if parse_header(sealed) != (v["kind"], v["node"], told, v["long"], v["epoch"] & 3, head):
        out.append("parsed header")
    if tohex(buf[head : ccm.open(buf, head, end, nonce)]) != v["payload"]:
        out.append("opened")
    return sealed


def _reason(f, *args):
    try:
        f(*args)
    except WireError as e:
        return e.reason
    return "nothing"


def run(vectors, aes):
    """Return complaints, one string each; an empty list means every vector holds."""
    out = []
    buf = bytearray(ROOM)

    def same(v, got):
        if tohex(got) != v["hex"]:
            out.append(v["name"] + ": " + tohex(got))

    for v in vectors["reports"]:
        same(v, report_bytes(v, buf))
        read(unhex(v["hex"]), 0, len(v["hex"]) // 2)
    for v in vectors["alarms"]:
        same(v, alarm_bytes(v, buf))
    for v in vectors["maps"]:
        same(v, map_bytes(v, buf))
        raw = unhex(v["hex"])
        want = {k: value_of(x) for k, x in v["items"]}
        if read(raw, 0, len(raw)) != want:
            out.append(v["name"] + ": read")
        if v["kind"] == DOWNLINK and read_downlink(raw, 0, len(raw)) != (want, []):
            out.append(v["name"] + ": read as a downlink")
    for v in vectors["frames"]:
        wrong = []
        same(v, frame_bytes(v, buf, aes, wrong))
        out.extend(v["name"] + ": " + x for x in wrong)
    for v in vectors["bad_headers"]:
        got = _reason(parse_header, unhex(v["hex"]))
        if got != v["reason"]:
            out.append(v["name"] + ": " + got)
    for v in vectors["bad_payloads"]:
        got = _reason(read, unhex(v["hex"]), 0, len(v["hex"]) // 2)
        if got != v["cbor"]:
            out.append(v["name"] + ": " + got)
    for v in vectors["bad_downlinks"]:
        raw = unhex(v["hex"])
        if read_downlink(raw, 0, len(raw))[1] != v["wrong"]:
            out.append(v["name"])
    return out

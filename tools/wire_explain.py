"""Explain a frame or a payload: bytes in, one JSON-ready document out. Reads with the gateway's own decoder, sends nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from motewire import codes, downlink, frame
from motewire.errors import BadVersion, Truncated, WireError

from gateway.core import cbor
from gateway.core.alarms import CODES
from gateway.core.messages import decode_alarm, decode_status
from gateway.core.normalise import columns_of, quantity_of
from gateway.core.refusals import Malformed, UnknownSchema, Unreadable
from gateway.core.report import believable, decode, is_int, is_uint_map

KINDS = ("report", "alarm", "status", "downlink")
DOWN_KEYS = {getattr(codes, name): name[5:].lower() for name in dir(codes) if name.startswith("DOWN_")}
CONFIG_KEYS = dict(enumerate(codes.CONFIG_NAMES)) | {codes.CONFIG_ALARM: "alarm", codes.CONFIG_PIECE: "piece"}

EXIT_CODES = {
    "bad_hex": 2,
    "bad_key": 2,
    "bad_tag": 5,
    "wrong_epoch": 5,
    "truncated": 10,
    "bad_version": 11,
    "unknown_schema": 12,
    "malformed": 13,
    "too_long": 14,
}

EPOCHS_TRIED = 4
HIGHS_TRIED = 256
"""How far an unknown epoch (steps of 4) and the unsent upper half of a counter are searched: 1024 tag checks at most."""


class Refused(Exception):
    """A frame that cannot be explained to its end. `name` is a key of EXIT_CODES, `hint` says what to do next."""

    def __init__(self, name: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.name, self.hint = name, hint


@dataclass(frozen=True, slots=True)
class Key:
    """A node's 16-byte AES key; epoch None when nobody has said which."""

    key: bytes
    epoch: int | None = None

    def __repr__(self) -> str:
        return "Key(...)"


def unhex(text: str) -> bytes:
    """Bytes of hex digits; blanks, colons, dashes and 0x between or before them do not matter. Raises Refused bad_hex."""
    digits = "".join(text.split()).replace(":", "").replace("-", "")
    digits = digits[2:] if digits[:2].lower() == "0x" else digits
    for i, c in enumerate(digits):
        if c not in "0123456789abcdefABCDEF":
            raise Refused(
                "bad_hex", f"{c!r} at digit {i + 1} is no hex digit", "give the frame as hex, two digits a byte"
            )
    if not digits:
        raise Refused("bad_hex", "no hex digits", "give the frame as hex, two digits a byte")
    if len(digits) % 2:
        raise Refused("bad_hex", f"{len(digits)} hex digits: half a byte is missing", "copy the whole frame")
    return bytes.fromhex(digits)


def explain_frame(
    data: bytes, key: Key | None, received: float, schemas: Mapping[int, tuple[int, ...]], out: dict[str, Any]
) -> None:
    """Fill `out` with everything a frame tells: bytes, header, seal, payload. What is known stays in `out` when it raises Refused."""
    out["bytes"] = len(data)
    out["version"] = data[0] >> 6
    header = _header(data)
    out["header"] = header
    end = len(bytes.fromhex(header["hex"]))
    seal: dict[str, Any] = {
        "state": "sealed",
        "tag": data[-frame.TAG :].hex(),
        "ciphertext_bytes": len(data) - end - frame.TAG,
    }
    out["seal"] = seal
    if key is None:
        return
    payload = _open(data, header, end, key, seal)
    out["payload"] = explain_payload(payload, header["type"], received, schemas, out)


def _header(data: bytes) -> dict[str, Any]:
    if len(data) > frame.MAX_FRAME:
        raise Refused(
            "too_long", f"{len(data)} bytes, and a frame has at most {frame.MAX_FRAME}", "give one frame only"
        )
    try:
        kind, node, counter, is_long, slot, end = frame.parse_header(data)
    except Truncated:
        text = f"{len(data)} bytes are less than a header and a tag of {frame.TAG}"
        raise Refused("truncated", text, "copy the whole frame; a bare payload needs --payload") from None
    except BadVersion:
        version = data[0] >> 6
        what = "a later one" if version > 1 else "none of ours"
        text = f"byte 0 is {data[0]:02x}: wire version {version}, {what}; this tool speaks version 1"
        hint = (
            "use a newer citymote; a gateway keeps such frames raw" if version > 1 else "a bare payload needs --payload"
        )
        raise Refused("bad_version", text, hint) from None
    except WireError:
        text = f"header {data[:5].hex()}: reserved node id, or the 4-byte form of a small one"
        raise Refused("malformed", text, "check that the bytes begin with the frame's first one") from None
    return {
        "hex": data[:end].hex(),
        "type": KINDS[kind],
        "direction": "down" if kind == frame.DOWNLINK else "up",
        "node": node,
        "counter": counter,
        "counter_bits": 32 if is_long else 16,
        "key_slot": slot,
    }


def _open(data: bytes, header: Mapping[str, Any], end: int, key: Key, seal: dict[str, Any]) -> bytes:
    slot, counter = header["key_slot"], header["counter"]
    if key.epoch is not None and key.epoch & 3 != slot:
        seal["state"] = "wrong_epoch"
        text = f"the frame names key slot {slot}, and epoch {key.epoch} is slot {key.epoch & 3}"
        raise Refused("wrong_epoch", text, f"use the key of an epoch that is {slot} modulo 4, and say --epoch")
    epochs = range(slot, slot + 4 * EPOCHS_TRIED, 4) if key.epoch is None else (key.epoch,)
    highs = range(1) if header["counter_bits"] == 32 else range(HIGHS_TRIED)
    direction = frame.DOWN if header["direction"] == "down" else frame.UP
    cipher = AESCCM(key.key, tag_length=frame.TAG)
    nonce = bytearray(frame.NONCE)
    for epoch in epochs:
        for high in highs:
            frame.put_nonce(nonce, direction, header["node"], epoch, high << 16 | counter)
            try:
                payload = cipher.decrypt(bytes(nonce), data[end:], data[:end])
            except InvalidTag:
                continue
            seal.update(state="opened", epoch=epoch, counter=high << 16 | counter)
            return payload
    seal["state"] = "bad_tag"
    tried = f"epoch {', '.join(map(str, epochs))}" + (
        "" if len(highs) == 1 else f", upper counter half 0..{len(highs) - 1}"
    )
    text = f"the tag does not fit (tried {tried}): another key, or bytes are missing or changed"
    raise Refused("bad_tag", text, "check the key file, --epoch, and that the frame is whole")


def explain_payload(
    payload: bytes, kind: str | None, received: float, schemas: Mapping[int, tuple[int, ...]], doc: dict[str, Any]
) -> dict[str, Any]:
    """Explain a payload; `kind` None finds it from the shape. Raises Refused, with what is known in doc["payload"]."""
    out: dict[str, Any] = {"hex": payload.hex(), "bytes": len(payload)}
    doc["payload"] = out
    try:
        item = cbor.load(payload)
        out["diagnostic"] = diagnostic(item)
        out["type"] = kind or kind_of(item)
        out |= _BODIES[out["type"]](payload, item, received, schemas)
    except UnknownSchema as e:
        text = f"the report names schema {e.number}, which this citymote does not know"
        hint = (
            f"say --schema {e.number}=ID,ID,... or use a newer citymote; a gateway keeps the frame raw until it knows"
        )
        raise Refused("unknown_schema", text, hint) from None
    except Unreadable as e:
        name = "truncated" if str(e) in ("truncated", "bits exhausted") else "malformed"
        hint = (
            "copy the whole payload"
            if name == "truncated"
            else "WIRE.md tells the form; a gateway keeps such frames raw"
        )
        raise Refused(name, f"the payload breaks the wire contract: {e}", hint) from None
    return out


def kind_of(item: Any) -> str:
    """What a bare payload is: a map is taken for a status, arrays differ in their fourth and fifth item. Raises Malformed."""
    if isinstance(item, dict):
        return "status"
    if isinstance(item, list) and len(item) >= 4:
        if isinstance(item[3], list) or len(item) > 4 and isinstance(item[4], bytes):
            return "report"
        return "alarm"
    raise Malformed("neither report, alarm, status nor downlink")


def _stamp(stamp: Any) -> str:
    if isinstance(stamp, list):
        return "times of each row"
    if stamp < 0:
        return f"age: {-1 - stamp} s before receipt"
    return "absolute" if stamp >= 65536 else "low 16 bits, read against the time of receipt"


def _report(payload: bytes, item: Any, received: float, schemas: Mapping[int, tuple[int, ...]]) -> dict[str, Any]:
    report = decode(payload, received, schemas)
    columns = columns_of(report, believable(received, 0))
    interval = item[2]
    rhythm = "events" if report.events else "regular" if interval > 0 and not isinstance(item[1], list) else "irregular"
    out: dict[str, Any] = {
        "form": "packed" if is_int(item[3]) else "plain",
        "schema": item[0] if is_int(item[0]) else None,
        "stamp": _stamp(item[1]),
        "rhythm": rhythm,
        "rows": len(report.times),
        "times": [iso(t) for t in report.times],
        "unix": list(report.times),
        "columns": [
            {
                "id": number,
                "quantity": column.key,
                "unit": column.unit,
                "raw": list(raw),
                "values": list(column.values),
                "suspect_rows": list(column.suspect),
            }
            for number, raw, column in zip(report.ids, report.columns, columns, strict=True)
        ],
    }
    if report.ext is not None:
        out["ext"] = diagnostic(report.ext)
    return out


def _alarm(payload: bytes, item: Any, received: float, _schemas: object) -> dict[str, Any]:
    alarm = decode_alarm(payload, received)
    q = quantity_of(alarm.quantity)
    return {
        "code": alarm.code,
        "meaning": CODES.get(alarm.code, "unknown code, told as an event"),
        "stamp": _stamp(item[1]),
        "time": iso(alarm.t),
        "unix": alarm.t,
        "quantity": q.key,
        "unit": q.unit,
        "value": None if alarm.value is None else q.physical(alarm.value),
        "limit": None if alarm.limit is None else q.physical(alarm.limit),
    } | ({} if alarm.ext is None else {"ext": diagnostic(alarm.ext)})


def _status(payload: bytes, _item: Any, _received: float, _schemas: object) -> dict[str, Any]:
    status = decode_status(payload)
    schemas = {str(n): [quantity_of(q).key for q in ids] for n, ids in status.schemas.items()}
    return {"values": dict(status.values)} | ({"schemas": schemas} if schemas else {})


def _downlink(_payload: bytes, item: Any, _received: float, _schemas: object) -> dict[str, Any]:
    if not is_uint_map(item):
        raise Malformed("a downlink is a map with uint keys")
    values = {DOWN_KEYS.get(k, f"d{k}"): _jsonable(v) for k, v in item.items()}
    wrong = [DOWN_KEYS.get(k, f"d{k}") for k, v in item.items() if not downlink.fits(k, v)]
    out: dict[str, Any] = {"values": values}
    if isinstance(config := item.get(codes.DOWN_CONFIG), dict):
        values["config"] = {CONFIG_KEYS.get(k, f"c{k}"): _jsonable(v) for k, v in config.items()}
    if codes.DOWN_NEXT in item and not {"next", "missing", "since"} & set(wrong):
        bitmap, following = item.get(codes.DOWN_MISSING, b""), item[codes.DOWN_NEXT]
        since = item.get(codes.DOWN_SINCE, 0)
        flags = (i for i in range(8 * len(bitmap)) if bitmap[i >> 3] >> 7 - (i & 7) & 1)
        missing = sorted(c for i in flags if (c := following - 1 - i) >= since)
        out["ack"] = {"committed_from": since, "committed_below": following, "missing": missing}
    if wrong:
        out["wrong"] = wrong
    return out


_BODIES = {"report": _report, "alarm": _alarm, "status": _status, "downlink": _downlink}


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_jsonable(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    return value


def iso(t: int) -> str:
    """RFC 3339 UTC."""
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def diagnostic(item: Any) -> str:
    """CBOR diagnostic notation (RFC 8949 section 8) of a decoded item of the wire's dialect."""
    if item is None:
        return "null"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, bytes):
        return f"h'{item.hex()}'"
    if isinstance(item, str):
        return json.dumps(item, ensure_ascii=False)
    if isinstance(item, list | tuple):
        return "[" + ", ".join(map(diagnostic, item)) + "]"
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{diagnostic(k)}: {diagnostic(v)}" for k, v in item.items()) + "}"
    return str(item)

"""Alarm and status payloads to typed values (WIRE.md sections 2 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from motewire import codes
from motewire.quantities import QUANTITIES

from gateway.core import cbor
from gateway.core.refusals import Malformed
from gateway.core.report import MAX_VALUE, check_ids, is_int, is_uint_map, resolve_stamp

MAX_ANNOUNCED = 8

STATUS_KEYS: Mapping[int, str] = {
    codes.STATUS_UPTIME_S: "uptime",
    codes.STATUS_RESET_CAUSE: "reset_cause",
    codes.STATUS_BOOTS: "boots",
    codes.STATUS_FIRMWARE: "firmware",
    codes.STATUS_HEAP_FREE: "heap_free",
    codes.STATUS_OUTBOX: "outbox_depth",
    codes.STATUS_CLOCK: "clock_quality",
    codes.STATUS_RSSI: "downlink_rssi",
    codes.STATUS_SNR: "downlink_snr",
    codes.STATUS_SENSOR_FAULTS: "sensor_faults",
    codes.STATUS_BATTERY: "battery_voltage",
    codes.STATUS_ROWS_LOST: "rows_lost",
    codes.STATUS_EXCEPTION: "exception",
    codes.STATUS_CONFIG: "config_version",
    codes.STATUS_POWER: "power_seconds",
    codes.STATUS_TEMPERATURE: "board_temperature",
    codes.STATUS_DRIFT: "clock_drift",
    codes.STATUS_LADDER: "ladder",
    codes.STATUS_COMMAND: "command",
    codes.STATUS_SLOT: "slot",
    codes.STATUS_PROBLEM: "config_problem",
    codes.STATUS_WRITES: "writes_refused",
}


_COUNT = (0, (1 << 32) - 1)
_BATTERY = next(
    (round(low * 100), round(high * 100)) for _, key, *_, low, high in QUANTITIES if key == "battery_voltage"
)
STATUS_RANGES: Mapping[int, tuple[int, int]] = {
    codes.STATUS_UPTIME_S: _COUNT,
    codes.STATUS_RESET_CAUSE: (0, 255),
    codes.STATUS_BOOTS: _COUNT,
    codes.STATUS_HEAP_FREE: _COUNT,
    codes.STATUS_OUTBOX: (0, 65_535),
    codes.STATUS_CLOCK: (0, 255),
    codes.STATUS_RSSI: (-200, 20),
    codes.STATUS_SNR: (-240, 240),
    codes.STATUS_BATTERY: _BATTERY,
    codes.STATUS_ROWS_LOST: _COUNT,
    codes.STATUS_CONFIG: _COUNT,
    codes.STATUS_TEMPERATURE: (-60, 150),
    codes.STATUS_DRIFT: (-100_000, 100_000),
    codes.STATUS_WRITES: _COUNT,
}
"""What a node can mean, in the units of motewire.codes: counters of 32 bits, a battery as the quantity of that name, what chips can measure."""


STATUS_NUMBERS: Mapping[str, int] = {name: number for number, name in STATUS_KEYS.items()}


class AlarmMessage(msgspec.Struct, frozen=True):
    """A raw alarm: code (motewire.codes), Unix time, quantity id, raw value and limit; ext is kept as it came."""

    code: int
    t: int
    quantity: int
    value: int | None
    limit: int | None
    ext: Mapping[int, Any] | None = None


class StatusMessage(msgspec.Struct, frozen=True):
    """Named values of a status map, and the schemas it announces. Keys without a name are kept as `s<key>`.

    implausible: names of those that are left out, since no node can mean them (STATUS_RANGES).
    """

    values: Mapping[str, Any]
    schemas: Mapping[int, tuple[int, ...]]
    implausible: tuple[str, ...] = ()


def _raw(value: Any) -> int | None:
    if value is not None and (not is_int(value) or not -MAX_VALUE <= value <= MAX_VALUE):
        raise Malformed("alarm value")
    return value


def decode_alarm(payload: bytes, received: float, clock: float | None = None) -> AlarmMessage:
    """Decode [code, stamp, quantity, value, ? limit, ? ext]. received, clock: see report.decode. Raises Malformed."""
    item = cbor.load(payload)
    if not isinstance(item, list) or not 4 <= len(item) <= 6:
        raise Malformed("an alarm is an array of 4 to 6")
    rest = item[4:]
    limit = None
    if rest and not isinstance(rest[0], dict):
        limit = _raw(rest.pop(0))
    if len(rest) > 1 or rest and not is_uint_map(rest[0]):
        raise Malformed("alarm ext")
    code, quantity = item[0], item[2]
    if not is_int(code) or code < 0 or not is_int(quantity) or not 0 < quantity < 65536:
        raise Malformed("alarm code or quantity")
    return AlarmMessage(
        code, resolve_stamp(item[1], received, clock), quantity, _raw(item[3]), limit, rest[0] if rest else None
    )


def decode_status(payload: bytes) -> StatusMessage:
    """Decode a status map. Raises Malformed for an impossible shape; unknown keys are kept."""
    item = cbor.load(payload)
    if not is_uint_map(item):
        raise Malformed("a status is a map with uint keys")
    values: dict[str, Any] = {}
    schemas: dict[int, tuple[int, ...]] = {}
    implausible: list[str] = []
    for key, value in item.items():
        if key == codes.STATUS_SCHEMA:
            if not is_uint_map(value) or len(value) > MAX_ANNOUNCED:
                raise Malformed("schema announcement")
            schemas = {number: check_ids(ids) for number, ids in value.items()}
        elif not _can_be(key, value):
            implausible.append(STATUS_KEYS[key])
        else:
            values[STATUS_KEYS.get(key, f"s{key}")] = _plain(value)
    return StatusMessage(values, schemas, tuple(implausible))


def _can_be(key: int, value: Any) -> bool:
    """True if a node can mean this number; what is none is shown as it came, and nothing takes it for one."""
    found = STATUS_RANGES.get(key)
    return found is None or not is_int(value) or found[0] <= value <= found[1]


def _plain(value: Any) -> Any:
    """Make any dialect value fit for JSON: bytes as hex, map keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value

"""Shapes of what a downlink may ask for beyond acks and time (WIRE.md section 6). On a node in memory only for a downlink that asks."""

from motewire._const import const

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_ALARM_ABOVE = const(2)
_ALARM_BELOW = const(3)
_CONFIG_ALARM = const(16)
_CONFIG_PIECE = const(17)
_DOWN_COMMAND = const(5)
_DOWN_CONFIG = const(4)
_DOWN_REKEY = const(9)
_DOWN_SCHEMA = const(7)
_DOWN_UPDATE = const(6)

MAX_NAME = 32  # bytes of a command name or version text
MAX_ARGUMENTS = 8
MAX_SCHEMAS = 8
MAX_PIECES = 64
_DIGEST_MIN, _DIGEST_MAX = 8, 32


def _uint(v):
    return type(v) is int and 0 <= v <= 0xFFFFFFFF


def _text(v):
    return isinstance(v, str) and 1 <= len(v.encode()) <= MAX_NAME


def _scalar(v):
    return v is None or isinstance(v, (bool, int, str, bytes))  # on the VM a bool is no int


def _int(v):
    return type(v) is int and -0x40000000 < v < 0x40000000


def is_alarm(v):
    """True for [quantity, direction, limit, ? clear, ? hold, ? step, ? update_s, ? boost]: the rule of one quantity and direction.

    quantity 1..65535, direction _ALARM_ABOVE or _ALARM_BELOW, values raw; null where the node decides; boost a bool. [quantity,
    direction] alone takes the configured rule away.
    """
    if not isinstance(v, (list, tuple)) or len(v) not in (2, 3, 4, 5, 6, 7, 8):
        return False
    if type(v[0]) is not int or not 1 <= v[0] <= 65535 or v[1] not in (_ALARM_ABOVE, _ALARM_BELOW):
        return False
    if len(v) > 2 and not _int(v[2]) or len(v) == 8 and not (v[7] is True or v[7] is False):
        return False
    return all(x is None or _int(x) for x in v[3:7])


def is_piece(v):
    """True for [transaction, index, count, bytes]: index below count, count 1..64, bytes not empty."""
    if not isinstance(v, (list, tuple)) or len(v) != 4 or not all(_uint(x) for x in v[:3]):
        return False
    return v[1] < v[2] <= MAX_PIECES and isinstance(v[3], bytes) and len(v[3]) > 0


def _fits_config(key, v):
    if key == _CONFIG_ALARM:
        return is_alarm(v)
    if key == _CONFIG_PIECE:
        return is_piece(v)
    return key >= _CONFIG_ALARM or _int(v)


def is_config(v):
    """True for {uint: value}, not empty, each known key with its type; ranges are the node's affair."""
    return isinstance(v, dict) and len(v) > 0 and all(_uint(k) and _fits_config(k, v[k]) for k in v)


def is_command(v):
    """True for [id, name, * argument]: id uint, name text of 1..32 bytes, at most 8 scalar arguments."""
    if not isinstance(v, (list, tuple)) or not 2 <= len(v) <= 2 + MAX_ARGUMENTS:
        return False
    return _uint(v[0]) and _text(v[1]) and all(_scalar(x) for x in v[2:])


def is_update(v):
    """True for [version, size, digest]: text of 1..32 bytes, bytes of the image (uint), first 8..32 bytes of its SHA-256."""
    if not isinstance(v, (list, tuple)) or len(v) != 3:
        return False
    return (
        _text(v[0]) and _uint(v[1]) and v[1] > 0 and isinstance(v[2], bytes) and _DIGEST_MIN <= len(v[2]) <= _DIGEST_MAX
    )


def is_schema_request(v):
    """True for [* number]: at most 8 schema numbers to announce in status key 4; an empty list asks for the one in use."""
    return isinstance(v, (list, tuple)) and len(v) <= MAX_SCHEMAS and all(_uint(x) for x in v)


def is_rekey(v):
    """True for [epoch, key]: epoch 1..2**31-1, key of 16 bytes."""
    if not isinstance(v, (list, tuple)) or len(v) != 2:
        return False
    return type(v[0]) is int and 1 <= v[0] <= 0x7FFFFFFF and isinstance(v[1], bytes) and len(v[1]) == 16


_SHAPES = {
    _DOWN_CONFIG: is_config,
    _DOWN_COMMAND: is_command,
    _DOWN_UPDATE: is_update,
    _DOWN_SCHEMA: is_schema_request,
    _DOWN_REKEY: is_rekey,
}


def fits(key, value):
    """True when `value` has the shape of downlink key `key`; a key that nobody knows has no shape to break."""
    shape = _SHAPES.get(key)
    return shape is None or shape(value)

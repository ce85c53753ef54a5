"""Values of secrets taken out of a command's arguments, for everything that is kept or published. Pure.

A secret is what stands under a key that names one (password, psk, key, pin ...), at any depth, also in JSON written as text; the rest of a text and
of a list behind such a name; whatever stands beside such a name in an object ({"name": "psk", "value": ...}); what has the length of a key (16
bytes: hex in any spelling, numbers, base64 of either alphabet, also in the midst of more), a PEM block, and the password of a URL. Too much hidden
does no harm: what is sent to the node is not touched.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "<hidden>"
MAX_DEPTH = 16  # arguments are bounded before (authorise.parse); beyond, all is hidden
LEAST = 3  # characters of a secret that is looked for in other texts: shorter ones are everywhere
LEAST_WORD = 4  # of a later word of a secret in several words
KEY_BYTES = 16  # of the shortest key in use
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WHOLE = r"pass|pwd|pw|auth|seed|cred|creds|pin|pins|puk|otp|totp|pem|sig|jwt|sas|phrase|wpa\d?|wep"  # words of their own; inside others they are common
_PART = r"passw|passphrase|passcode|passkey|secret|token|psk|credential|private|key|bearer|cookie|signature|(?:access|unlock|security)[_.-]?code|kennwort"
_SECRET = re.compile(rf"{_PART}|(?:^|[^a-z])(?:{_WHOLE})(?:[^a-z]|$)", re.IGNORECASE)
_JOIN = re.compile(
    r"(?:^|[^a-z])(?:wi-?fi|wlan|cwjap|login)(?:[^a-z]|$)", re.IGNORECASE
)  # a command whose arguments hold one
_WORD = re.compile(r"[\w.-]+")
_PEM = "-----BEGIN"
_AFTER = " \t\r\n\"'\\=:,;>("  # between a name and its value
_SPLIT = re.compile(r"[\s,;&\"'=:{}\[\]()\\]+")
_JSON = ("{", "[", '"')
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|%([0-9a-fA-F]{2})")
_GAP = r"(?:[\s:.,;_-]|0x|\\x){0,4}"
_KEYS = (
    re.compile(rf"[0-9a-fA-F](?:{_GAP}[0-9a-fA-F]){{{2 * KEY_BYTES - 1},}}"),
    re.compile(rf"(?:(?:0x|\\x)?[0-9a-fA-F]{{1,3}}[\s,;:]{{1,4}}){{{KEY_BYTES - 1},}}(?:0x|\\x)?[0-9a-fA-F]{{1,3}}"),
)
_DIGITS64 = r"(?:[A-Za-z0-9+/_-]|\\/)"  # of both alphabets; JSON may write a slash with a backslash
_BASE64 = re.compile(rf"{_DIGITS64}+(?:(?:\r|\n|\\r|\\n)+{_DIGITS64}+)*={{0,2}}")
_LINE = re.compile(rf"{_DIGITS64}+")
LEAST_BASE64 = -(-8 * KEY_BYTES // 6)  # digits of such a key, padding left out
# Names of several words ("air-quality-centre-0001") are shown. Of random keys one in 800,000 looks like one, far fewer of longer ones.
_WORD64 = r"(?:(?:[A-Z]?[a-z]+|[A-Z]+)\d*|\d+)"
_WORDS = re.compile(rf"[-_/+]{{0,3}}{_WORD64}(?:[-_/+]{_WORD64})+[-_/+]?")
_URL = re.compile(r"(:(?!//)|://(?=[^\s/:@]+@))(.*)@", re.DOTALL)
_BYTES = re.compile(r"(?:0x|\\x)?((?:[0-9a-fA-F]{2})+|[0-9a-fA-F]|\d{3})[hH]?")


def is_secret(name: str) -> bool:
    """True for the name of something that must not be shown."""
    plain = unicodedata.normalize("NFKC", name)
    return _SECRET.search(plain) is not None or _SECRET.search(_CAMEL.sub("_", plain)) is not None


def redact(value: Any, name: str = "") -> Any:
    """Return a value of JSON with its secrets replaced by HIDDEN, of the same shape elsewhere. name: what it stands under.

    What is hidden in one place is hidden in all. A list stays a list and an object an object.
    """
    walk = _Walk()
    shown = _everywhere(walk.value(value, name, 0), walk.secrets())
    if isinstance(value, Mapping) and not isinstance(shown, dict):
        return {HIDDEN: HIDDEN}
    return [shown] if isinstance(value, (list, tuple)) and not isinstance(shown, list) else shown


def shown(command: dict[str, Any]) -> dict[str, Any]:
    """Return what is told or kept of a command ("name", "args", "detail") without the secrets of its arguments; the same object when there are none."""
    if not command.get("args"):
        return command
    args, name = command["args"], str(command.get("name", ""))
    found = {**command, "args": redact(args, name)}
    if isinstance(detail := command.get("detail"), str):
        found["detail"] = scrub(detail, secrets(args, name))
    return command if found == command else found


def secrets(value: Any, name: str = "") -> frozenset[str]:
    """Return the texts of what redact() hides, to scrub() them out of other texts."""
    walk = _Walk()
    walk.value(value, name, 0)
    return walk.secrets()


def scrub(text: str, hidden: frozenset[str]) -> str:
    """Return a text, of an error or of a node, without the secrets that it quotes."""
    if not hidden:
        return text
    # one pass: a secret that is part of HIDDEN must not be looked for in what replaced another
    found = re.compile("|".join([re.escape(HIDDEN), *map(re.escape, sorted(hidden, key=len, reverse=True))]))
    return found.sub(HIDDEN, text)


def _everywhere(value: Any, hidden: frozenset[str]) -> Any:
    if isinstance(value, str):
        return scrub(value, hidden)
    if isinstance(value, dict):
        return {_everywhere(k, hidden): _everywhere(v, hidden) for k, v in value.items()}
    if isinstance(value, list):
        return [_everywhere(v, hidden) for v in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return HIDDEN if number and str(value) in hidden else value


class _Walk:
    """Takes one value apart; what it hides is remembered."""

    def __init__(self) -> None:
        self._found: set[str] = set()

    def secrets(self) -> frozenset[str]:
        return frozenset(s for s in self._found if len(s) >= LEAST and HIDDEN not in s)

    def value(self, value: Any, name: str, depth: int) -> Any:
        if name and is_secret(name) or depth > MAX_DEPTH:
            return self._hide(value)
        if isinstance(value, Mapping):
            return self._object(value, depth)
        if isinstance(value, (list, tuple)):
            return self._list(value, depth)
        if isinstance(value, str):
            return self._text(value, depth)
        return self._hide(value) if isinstance(value, int) and abs(value) >= 1 << 63 else value

    def _object(self, value: Mapping[Any, Any], depth: int) -> Any:
        if all(str(k).isdigit() for k in value) and _has_key(list(value.values())):
            return self._hide(value)
        names = [k for k, v in value.items() if _names_secret(v)]
        shown: dict[Any, Any] = {}
        for k, v in value.items():
            beside = any(other != k for other in names)
            key = self._text(k, depth) if isinstance(k, str) else k
            shown[key] = self._hide(v) if beside and k not in names else self.value(v, str(k), depth + 1)
        return shown

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> Any:
        if _has_key(value):
            self._hide(value)
            return [HIDDEN]
        shown: list[Any] = []
        named = False
        for item in value:
            shown.append(self._hide(item) if named else self.value(item, "", depth + 1))
            named = named or _names_next(item)
        return shown

    def _text(self, text: str, depth: int) -> str:
        inner = _json(text)
        if inner is not None:
            return json.dumps(self.value(inner, "", depth + 1), separators=(",", ":"), ensure_ascii=False)
        plain = _unescaped(text)
        if plain != text and self._patterns(plain, _cut(plain)) != plain:
            self._hide(plain)
            return str(self._hide(text))
        return self._patterns(text, _cut(text))

    def _patterns(self, text: str, cut: int | None) -> str:
        spans = _key_spans(text)
        if cut is not None and cut < len(text):
            self._hide(text[cut:])
            spans.append((cut, len(text)))
        end = text.rfind("@", 0, cut) + 1
        spans += [m.span(2) for m in _URL.finditer(text, 0, end)]
        self._found.update(text[start:stop] for start, stop in spans)
        shown, end = "", 0
        for start, stop in _joined(spans):
            self._found.add(text[start:stop])
            shown, end = shown + text[end:start] + HIDDEN, stop
        return shown + text[end:]

    def _hide(self, value: Any) -> Any:
        """Return what stands for a secret: nothing of it is shown, but whether there is one."""
        for leaf in _leaves(value):
            text = str(leaf).strip()
            words = [w for w in _SPLIT.split(text) if w]
            self._found.update((text, text.strip("\\\"'"), *words[:1], *(w for w in words[1:] if len(w) >= LEAST_WORD)))
        return value if value is None or value == "" or isinstance(value, bool) else HIDDEN


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the texts and numbers in a value, and the keys of its objects that name no secret themselves; also of what is too deep to walk."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, Mapping):
            rest += [*reversed(list(one.values())), *(k for k in one if not is_secret(str(k)))]
        elif isinstance(one, (list, tuple)):
            rest += reversed(one)
        elif one is not None and not isinstance(one, bool):
            inner = _json(one) if isinstance(one, str) else None
            if inner is not None:
                rest.append(inner)
            yield one


def _json(text: str) -> Any:
    """Return what a text of JSON holds, None when it is none."""
    if text.lstrip()[:1] not in _JSON:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # a piece of JSON, for example: it is searched as text


def _cut(text: str) -> int | None:
    """Return where the rest of a text begins that a name of a secret, or a PEM block, makes one; None without such a name."""
    pem = text.find(_PEM)
    for m in _WORD.finditer(text):
        if 0 <= pem <= m.start():
            break
        if is_secret(m[0]) or _JOIN.search(m[0]):
            rest = text[m.end() :]
            return m.end() + len(rest) - len(rest.lstrip(_AFTER))
    return pem if pem >= 0 else None


def _key_spans(text: str) -> list[tuple[int, int]]:
    """Return where keys stand. All are looked for in the same text: a rest of what one spelling takes is none of another.

    The digits of a key may also spell a name of a secret ("...ncPw+..."): what follows the name and the key itself overlap then.
    """
    found = [m.span() for pattern in _KEYS for m in pattern.finditer(text)]
    return found + [m.span() for m in _BASE64.finditer(text) if any(map(_is_base64, _LINE.findall(m[0])))]


def _joined(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order and apart: those that overlap or touch are one."""
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if spans and start <= spans[-1][1]:
            start, stop = spans[-1][0], max(spans.pop()[1], stop)
        spans.append((start, stop))
    return spans


def _is_base64(run: str) -> bool:
    """True for digits of base64, all that stand in a row, that may hold a key: long enough for one, and no name of several words."""
    run = run.replace("\\", "")
    return len(run) >= LEAST_BASE64 and _WORDS.fullmatch(run) is None


def _names_secret(value: Any) -> bool:
    """True for a text, or a list with one, that names a secret: what stands beside it is one."""
    if isinstance(value, str):
        return _json(value) is None and is_secret(_unescaped(value))
    return isinstance(value, (list, tuple)) and any(isinstance(v, str) and _names_secret(v) for v in value)


def _names_next(value: Any) -> bool:
    """True when what follows this in a list may be a secret."""
    if isinstance(value, str) and _json(value) is None and _cut(_unescaped(value)) is not None:
        return True
    if isinstance(value, Mapping):
        return len(value) == 1 and _names_secret(next(iter(value.values())))
    return _names_secret(value)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)), text)


def _has_key(values: list[Any] | tuple[Any, ...]) -> bool:
    """True when numbers of a byte, or pieces of hex, stand in a row that make a key together."""
    run = 0
    for leaf in _leaves(values):
        if isinstance(leaf, int | float):
            run = run + 1 if -128 <= leaf < 256 and leaf == int(leaf) else 0
        else:
            m = _BYTES.fullmatch(leaf.strip())
            run = run + max(len(m[1]) // 2, 1) if m else 0
        if run >= KEY_BYTES:
            return True
    return False

"""Values of secrets taken out of a command's arguments, for everything that is kept or published. Pure.

A secret is what stands under a key that names one (password, psk, key, token ...), at any depth, also in JSON written as text and behind `name=` or
`name:` in other text; what follows such a name in a list; and whatever looks like a key (32 or more hex digits) or carries a password in a URL.
Too much hidden does no harm: what is sent to the node is not touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"
MAX_DEPTH = 16  # arguments are bounded before (authorise.parse); beyond, all is hidden
LEAST = 3  # characters of a secret that is looked for in other texts: shorter ones are everywhere
_NAME = re.compile(r"[\w.-]{1,40}")  # in a list: other texts are no names of what follows
_NAMES = r"pass(?:word|wd|phrase|code)?|pwd|pw|psk|secret|token|key|keys|cred(?:ential)?s?|auth|seed|priv(?:ate)?"
_SECRET = re.compile(
    r"pass(word|wd|phrase|code)|secret|token|psk|credential|private|(^|[^a-z])(pass|pwd|pw|auth|seed|cred|creds)([^a-z]|$)|key",
    re.IGNORECASE,
)
_JSON = ("{", "[", '"')
_HEX = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{32,}(?![0-9a-fA-F])")
_URL = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]*)@")
_PAIR = re.compile(
    rf"((?:\\*[\"'])?\b[\w.-]{{0,32}}(?:{_NAMES})[\w.-]{{0,32}}(?:\\*[\"'])?\s*[=:]\s*)(\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s,;&}}\]]+)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """True for the name of something that must not be shown."""
    return _SECRET.search(name) is not None


def redact(value: Any, name: str = "") -> Any:
    """Return a value of JSON with its secrets replaced by HIDDEN, of the same shape elsewhere. name: what it stands under.

    What is hidden in one place is hidden in all.
    """
    return _everywhere(_value(value, name, 0), secrets(value, name))


def _everywhere(value: Any, hidden: frozenset[str]) -> Any:
    if isinstance(value, str):
        return scrub(value, hidden)
    if isinstance(value, dict):
        return {_everywhere(k, hidden): _everywhere(v, hidden) for k, v in value.items()}
    return [_everywhere(v, hidden) for v in value] if isinstance(value, list) else value


def _value(value: Any, name: str, depth: int) -> Any:
    if name and is_secret(name) or depth > MAX_DEPTH:
        return _emptied(value)
    if isinstance(value, Mapping):
        return {
            _text(str(k), depth) if isinstance(k, str) else k: _value(v, str(k), depth + 1) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        found: list[Any] = []
        before = ""
        for item in value:
            found.append(_value(item, before, depth + 1))
            before = item if isinstance(item, str) and _NAME.fullmatch(item) else ""
        return found
    return _text(value, depth) if isinstance(value, str) else value


def _emptied(value: Any) -> Any:
    """Return what stands for a secret: nothing of it is told, but whether there is one."""
    return value if value is None or value == "" or isinstance(value, bool) else HIDDEN


def _text(text: str, depth: int) -> str:
    if text.lstrip()[:1] in _JSON:
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            pass  # a piece of JSON: its pairs are found below
        else:
            return json.dumps(_value(inner, "", depth + 1), separators=(",", ":"), ensure_ascii=False)
    text = _PAIR.sub(lambda m: m[1] + HIDDEN, text)
    text = _URL.sub(lambda m: f"{m[1]}:{HIDDEN}@", text)
    return _HEX.sub(HIDDEN, text)


def secrets(value: Any, name: str = "") -> frozenset[str]:
    """Return the texts of what redact() hides, to scrub() them out of other texts."""
    found: set[str] = set()
    _collect(value, bool(name) and is_secret(name), found, 0)
    return frozenset(s for s in found if len(s) >= LEAST and HIDDEN not in s)


def _collect(value: Any, hide: bool, found: set[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        for k, v in value.items():
            _collect(v, hide or is_secret(str(k)), found, depth + 1)
    elif isinstance(value, (list, tuple)):
        before = False
        for item in value:
            _collect(item, hide or before, found, depth + 1)
            before = isinstance(item, str) and _NAME.fullmatch(item) is not None and is_secret(item)
    elif hide and not isinstance(value, bool) and value is not None:
        found.add(str(value))
    elif isinstance(value, str):
        if value.lstrip()[:1] in _JSON:
            try:
                _collect(json.loads(value), hide, found, depth + 1)
            except (ValueError, RecursionError):
                pass  # the pairs below are what can be found in a piece
        for m in _PAIR.finditer(value):
            found.add(m[2].strip("\\\"'"))
        for m in _URL.finditer(value):
            found.add(m[2])
        found.update(_HEX.findall(value))


def scrub(text: str, hidden: frozenset[str]) -> str:
    """Return a text, of an error or of a node, without the secrets that it quotes."""
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text

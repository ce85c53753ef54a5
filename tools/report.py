"""How every verb speaks: the result on stdout, advice on stderr, one JSON document with --json, exit codes that mean something."""

import sys
import unicodedata
from typing import Any, NoReturn

from gateway.outcome import DONE, FAILED, REFUSED, USAGE, document, leaves, say

__all__ = ["DONE", "FAILED", "REFUSED", "USAGE", "conclude", "document", "fail", "leaves", "plain", "split_hint"]


def fail(error: str, text: str, *, hint: str = "", as_json: bool = False, code: int = FAILED) -> NoReturn:
    """Say what went wrong and what to do next, then exit with `code`. `error` is a stable snake_case name."""
    if as_json:
        document({"ok": False, "error": error, "text": text, "hint": hint})
    say(text, hint)
    sys.exit(code)


def conclude(found: dict[str, Any], text: str, *, again: str = "", as_json: bool = False) -> NoReturn:
    """Print what a trial found ("ok", "examples" of what went wrong, and more), how to see it again when it failed, and exit with 0 or 1."""
    if as_json:
        document(found)
    else:
        print(text)
    for line in found["examples"]:
        print(line, file=sys.stderr)
    if not found["ok"] and again:
        print(f"next: {again}", file=sys.stderr)
    sys.exit(DONE if found["ok"] else FAILED)


def plain(text: object) -> str:
    """Return text from a node or a broker as one line that changes nothing on a terminal: control and format characters (Unicode
    categories Cc, Cf, Cs, Zl, Zp: escape sequences, newlines, reversed writing) are spelled as in Python."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in str(text)
    )


def split_hint(text: str) -> tuple[str, str]:
    """Split an exception's text at '; next: ' into what went wrong and what to do."""
    what, _, hint = text.partition("; next: ")
    return what, hint

"""How every verb ends: with --json one JSON document whatever the exit code, Ctrl-C as exit code 130, and no complaint about a reader that has left.

A verb hands its document to `document()`. It is held until the verb has ended: only then is the exit code known, and a verb that is interrupted
or fails after it must not leave a document that says otherwise. `run()` is the one place where verbs end, of `citymote` and of
`python -m gateway`.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

DONE, FAILED, USAGE, REFUSED, INTERRUPTED = 0, 1, 2, 4, 130
REASONS = {1: "failed", 2: "usage", 3: "no_device", 4: "refused", 5: "differs", INTERRUPTED: "interrupted"}

Document = dict[str, Any]


class _Verb:
    """What is known of the verb under way: its document, and what it leaves behind when it is interrupted."""

    def __init__(self) -> None:
        self.document: Document | None = None
        self.left = ""


_under_way: _Verb | None = None


def document(value: Document) -> None:
    """Give the one JSON document of a --json run; a later one takes its place. Outside of run() it is printed at once."""
    if _under_way is None:
        _print(value)
    else:
        _under_way.document = value


def leaves(text: str) -> None:
    """Say what the verb leaves behind, or what to do next, should it be interrupted from here on."""
    if _under_way is not None:
        _under_way.left = text


def mistake(error: str, text: str, hint: str = "", as_json: bool = False) -> None:
    """Print a refusal on stderr; with --json it is the document, too. `error` is a stable snake_case name."""
    if as_json or _under_way is not None:
        document({"error": error, "text": text, "hint": hint} | ({"ok": False} if _under_way is None else {}))
    say(text, hint)


def say(text: str, hint: str = "") -> None:
    """Print what went wrong, and what to do next, on stderr."""
    _quietly(lambda: print(f"error: {text}" + (f"\nnext: {hint}" if hint else ""), file=sys.stderr, flush=True))


def run(verb: Callable[[], object], as_json: bool) -> int:
    """Run a verb and return its exit code, from what it returns or from SystemExit. as_json: print its document, which has ok, exit_code and reason.

    A verb that ends otherwise than with 0 and gave no document gets one. Exceptions that no one foresaw are printed as a traceback: exit code 1.
    """
    global _under_way
    state = _under_way = _Verb()
    code, broken = FAILED, False
    try:
        code = _code(verb())
    except SystemExit as e:
        code = _code(e.code)
    except KeyboardInterrupt as e:
        code, state.left = INTERRUPTED, str(e) or state.left
        say("interrupted", state.left)
        state.document = (state.document or {}) | {"error": "interrupted", "text": "interrupted", "hint": state.left}
    except BrokenPipeError as e:
        broken = any(map(_left, (sys.stdout, sys.stderr)))  # else it is a connection of the verb's own
        if not broken:
            _unforeseen(e, state)
        code = DONE if broken else FAILED
    except Exception as e:
        _unforeseen(e, state)
    finally:
        _under_way = None
    if as_json and not broken and (state.document is not None or code != DONE):
        _quietly(lambda: _print(finished(state.document or {}, code)))
    _flushed()
    return code


def finished(value: Document, code: int) -> Document:
    """Return a document with what each has: ok, exit_code and reason (None when ok; the same as error where there is one)."""
    error = value.get("error")
    reason = None if code == DONE else error if isinstance(error, str) and error else REASONS.get(code, "failed")
    return {"ok": code == DONE, "exit_code": code, "reason": reason, **{k: v for k, v in value.items() if k not in ("ok", "exit_code", "reason")}}  # fmt: skip


def _unforeseen(e: Exception, state: _Verb) -> None:
    traceback.print_exc()
    text = f"{type(e).__name__}: {e}"
    state.document = {"error": "unforeseen", "text": text, "hint": "please report it, with the lines above"}


def _code(value: object) -> int:
    if value is None:
        return DONE
    if isinstance(value, int):
        return int(value)
    print(value, file=sys.stderr)  # as the interpreter does with sys.exit("text")
    return FAILED


def _print(value: Document) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _quietly(write: Callable[[], None]) -> None:
    try:
        write()
    except BrokenPipeError:
        pass  # its reader has left; _flushed() closes the stream


def _left(stream: TextIO) -> bool:
    """True when the reader of a pipe that we write to has left (`| head`)."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # a stream without a descriptor, as tests have
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _flushed() -> None:
    """Write out what stdout and stderr hold. A stream whose reader has left ends in the null device: the interpreter flushes once more at its
    end, and would complain."""
    for stream in (sys.stdout, sys.stderr):
        _quietly(stream.flush)
        if _left(stream):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)

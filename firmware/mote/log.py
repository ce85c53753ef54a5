"""A small log: levels, lazy formatting, the last lines kept in RAM. log.info("sent %d B", n) formats only when it is kept."""

from micropython import const

DEBUG = const(0)
INFO = const(1)
WARNING = const(2)
ERROR = const(3)
_LINES = const(24)

level = INFO
echo = print  # None: nothing on the serial line
lines = [None] * _LINES
_at = 0
count = [0, 0, 0, 0]  # per level since boot


def _put(n, text, args):
    global _at
    count[n] += 1
    if n < level:
        return
    line = text % args if args else text
    lines[_at % _LINES] = line
    _at += 1
    if echo is not None:
        echo("DIWE"[n] + " " + line)


def debug(text, *args):
    _put(0, text, args)


def info(text, *args):
    _put(1, text, args)


def warning(text, *args):
    _put(2, text, args)


def error(text, *args):
    _put(3, text, args)


def tail(n):
    """Return the last n lines, oldest first."""
    return [lines[i % _LINES] for i in range(max(0, _at - min(n, _LINES)), _at)]

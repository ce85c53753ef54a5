"""`python -m gateway VERB`, without the rest of the command line tool. Messages call it what the operator typed: `citymote gateway VERB`."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

if sys.argv[1:2] == ["run"]:
    # before what takes seconds to import: a SIGHUP that comes before we listen must not kill us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

from gateway import outcome

LOOKING_BACK = {
    "replay": "send a time range to an output again",
    "republish": "publish what is current to an output again",
    "export": "write open data of a time range",
}
UMASK = (
    0o077  # store, copies, exports and daily files hold households' readings: they are their owner's, whoever starts us
)
LEFT = {
    "check": "nothing was changed",
    "reload": "the gateway may have been asked already; how its reload ends is in its log",
    "replay": "what was sent can be sent again: every message has its id",
    "republish": "nothing was asked for",
    "export": "nothing was written to the file's name",
}
"""What a verb that was interrupted leaves behind; one that knows more says so as the text of its KeyboardInterrupt."""


def named(text: str) -> Path:
    """Return a path that was given; an empty one, of a variable that is not set, would be the folder that someone happens to be in."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """argparse that complains as every other verb does: what is wrong, and what to do next."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        outcome.mistake("usage", message, f"{self.prog} --help")
        sys.exit(outcome.USAGE)


def main() -> int:
    """Parse arguments and run the verb; bad usage is exit code 2, Ctrl-C is 130, whatever the verb waits for."""
    os.umask(UMASK)
    return outcome.run(_verb, "--json" in sys.argv)


def _verb() -> int:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `citymote` holds Ctrl-C back until we can answer it
    args = _arguments()
    outcome.leaves(LEFT.get(args.verb, ""))
    return _run(args)


def _arguments() -> argparse.Namespace:
    parser = Parser(prog="citymote gateway", description="citymote gateway")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run until SIGTERM; SIGHUP reads the configuration again")
    run.add_argument("--config", type=named, required=True, metavar="FILE")
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="instead of log.level")
    run.add_argument(
        "--accept",
        action="store_true",
        help="the files lack nodes, rules, outputs or filters that were there before, and are meant so",
    )
    check = verbs.add_parser("check", help="read the configuration and print what it means, or all that is wrong")
    check.add_argument("--config", type=named, required=True, metavar="FILE")
    check.add_argument("--strict", action="store_true", help="refuse warnings, too")
    check.add_argument(
        "--brokers", action="store_true", help="connect to the brokers, too, and report what they cannot do"
    )
    again = verbs.add_parser(
        "reload", help="have a running gateway read its configuration again, and report how that ended"
    )
    again.add_argument("--config", type=named, required=True, metavar="FILE")
    again.add_argument("--pid", type=int, required=True, help="of the running gateway")
    init = verbs.add_parser("init", help="write a commented configuration")
    init.add_argument("--dir", type=named, default=Path(), metavar="DIR")
    key = verbs.add_parser("key", help="make a key for a node")
    key.add_argument("--number", type=int, default=1, metavar="N", help="how many (default 1), one a line")
    put = verbs.add_parser("install", help="write unit, user, folders and a first configuration")
    put.add_argument("--python", metavar="FILE", help="the interpreter as the unit sees it; this one by default")
    take = verbs.add_parser("uninstall", help="take away what install wrote; configuration and store stay")
    for verb in (put, take):
        verb.add_argument("--root", type=named, default=Path("/"), metavar="DIR", help="root of an image instead of /")
        verb.add_argument("--dry-run", action="store_true")
    for verb in (check, init, key, put, take):
        verb.add_argument("--json", action="store_true", help="print one JSON document")
    for name, text in LOOKING_BACK.items():
        sub = verbs.add_parser(name, help=text)
        if sys.argv[1:2] == [name]:  # the service itself need not carry them
            module = importlib.import_module(f"gateway.{name}")
            sub.description = module.__doc__
            module.arguments(sub)
            sub.set_defaults(run=module.run)
    return parser.parse_args()


def _run(args: argparse.Namespace) -> int:
    if args.verb in LOOKING_BACK:
        return args.run(args)
    if args.verb == "run":
        from gateway import service

        return service.run(args.config, args.log_level, args.accept)
    if args.verb == "reload":
        from gateway import reloading

        return reloading.reload(args.config, args.pid)
    from gateway import verbs as operator

    match args.verb:
        case "check":
            return operator.check(args.config, args.json, args.strict, args.brokers)
        case "init":
            return operator.init(args.dir, args.json)
        case "key":
            return operator.key(args.number, args.json)
        case "install":
            return operator.install(args.root.absolute(), args.python, args.dry_run, args.json)
        case _:
            return operator.uninstall(args.root.absolute(), args.dry_run, args.json)


if __name__ == "__main__":
    sys.exit(main())

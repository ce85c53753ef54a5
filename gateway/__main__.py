"""`python -m gateway run|check --config FILE`, without the rest of the command line tool."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from gateway import service

LOOKING_BACK = {"replay": "send a time range to an output again", "export": "write open data of a time range"}


def main() -> int:
    """Parse arguments and run the verb; argparse itself ends with code 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="citymote gateway")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("run", "run until SIGTERM"), ("check", "read the configuration and say what it means")):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--config", type=Path, required=True, metavar="FILE")
        if verb == "run":
            sub.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    for verb, text in LOOKING_BACK.items():
        sub = verbs.add_parser(verb, help=text)
        if sys.argv[1:2] == [verb]:  # the service itself need not carry them
            module = importlib.import_module(f"gateway.{verb}")
            sub.description = module.__doc__
            module.arguments(sub)
            sub.set_defaults(run=module.run)
    args = parser.parse_args()
    if args.verb in LOOKING_BACK:
        return args.run(args)
    return service.run(args.config, args.log_level) if args.verb == "run" else service.check(args.config)


if __name__ == "__main__":
    sys.exit(main())

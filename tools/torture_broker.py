"""`citymote sim torture broker`: take the broker's memory, change the registry and the rules, and compare what is retained with the truth."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from host_sim.gateway_process import GatewayError
from host_sim.mosquitto import MosquittoError
from host_sim.torture_broker import ROUNDS, BrokerTortureError, torture_broker
from tools.report import FAILED, document, fail, split_hint


def short(d: dict[str, Any]) -> str:
    """The result in words, a few lines."""
    kinds = d["kinds"]
    least = min(kinds, key=kinds.__getitem__)
    return (
        f"{d['rounds']} rounds, {sum(kinds.values())} events of {len(kinds)} kinds (fewest: {least}, {kinds[least]}), {d['wall_s']:.0f} s\n"
        f"in play    at least {d['topics']} retained topics, {d['alarms']} alarms; {d['acked']} frames acknowledged\n"
        f"topics     missing {d['missing']}, wrong {d['wrong']}, left over {d['left_over']}\n"
        f"events     lost {d['lost']}\n"
        f"true       after {d['seconds_to_true_p50']:.1f} s (median), {d['seconds_to_true_p99']:.1f} s (99 %)\n"
        f"gateway    never came back {d['never_came_back']}, ended by itself {d['ended_by_itself']}"
    )


@click.command("broker")
@click.option(
    "--rounds", type=click.IntRange(1, 100_000), default=ROUNDS, show_default=True, help="One to three events each."
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Same seed, same choices.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder that keeps configuration, logs and stores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(rounds: int, seed: int, keep: Path | None, as_json: bool) -> None:
    """A real mosquitto forgets, remembers older things, is exchanged, freezes; names, rights and rules change; then what is retained is compared.

    Exit code 0 only when after every round it was what a fresh gateway publishes to an empty broker, and what the nodes sealed; nothing lost.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave as on Ctrl-C: processes run
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[tail]}"))  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="citymote-torture-", ignore_cleanup_errors=True) as tmp,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        task = bar.add_task("torturing", total=rounds, tail="")

        def progress(p: dict[str, Any]) -> None:
            bar.update(task, description=p["phase"], completed=p["done"], tail=f"{p['faults']} topics not right, {p['lost']} lost")  # fmt: skip

        folder = keep or Path(tmp)
        try:
            folder.mkdir(parents=True, exist_ok=keep is None)
            toll = torture_broker(folder, rounds, seed, progress)
        except FileExistsError:
            bar.stop()
            fail("exists", f"{folder} exists", hint="name a new folder", as_json=as_json, code=FAILED)
        except (BrokerTortureError, GatewayError, MosquittoError) as e:
            bar.stop()
            text, hint = split_hint(str(e))
            fail("torture", text, hint=hint, as_json=as_json, code=FAILED)
    found = toll.as_dict()
    if as_json:
        document(found)
    else:
        click.echo(short(found))
    for line in found["examples"]:
        print(line, file=sys.stderr)
    if not toll.ok:
        print(f"next: citymote sim torture broker --rounds {rounds} --seed {seed} --keep FOLDER", file=sys.stderr)
    sys.exit(0 if toll.ok else FAILED)

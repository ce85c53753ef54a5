"""`citymote sim torture`: cut the power of a simulated node everywhere, and see that nothing is lost and it always comes back."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from host_sim.runner import CompileError, TortureError, torture
from tools import torture_broker, torture_gateway
from tools.report import FAILED, document, fail, split_hint

WORDS = {"life": "playing the life", "cuts": "cutting the power"}


@click.group("torture")
def command() -> None:
    """Break a part of the system everywhere it can break, and check its promises."""


command.add_command(torture_broker.command)
command.add_command(torture_gateway.command)


class CutPoint(click.ParamType):
    """N, or Nt for the torn variant."""

    name = "N[t]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, bool]:
        if isinstance(value, tuple):
            return value
        number = value.removesuffix("t")
        if not number.isdigit():
            self.fail(f"{value!r} is no cut point; write 137, or 137t for the torn one", param, ctx)
        return int(number), number != value


def short(d: dict[str, Any]) -> str:
    """The result in words, a few lines."""
    return (
        f"power cut at {d['cut_points']} points ({d['torn']} in the middle of a flash operation, {d['second_cuts']} while recovering), "
        f"{d['wall_s']:.0f} s\n"
        f"back       {d['boots_back_on_uplink']} of {d['boots']} on the uplink, {d['at_repl']} at the REPL\n"
        f"rows       {d['rows']} in the life; lost {d['lost']}  doubled {d['doubled']}\n"
        f"counters   {d['counter_reuses']} used twice, over {d['frames']} frames on the air\n"
        f"while      {', '.join(f'{k} {n}' for k, n in d['kinds'].items())}"
    )


@command.command("node")
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Same seed, same life and cut points."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Nodes at work at the same time."
)
@click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, help="Try every so-manieth cut point only."
)
@click.option(
    "--cut",
    type=CutPoint(),
    multiple=True,
    help="Try only this cut point (as an earlier run named it); may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def node(seed: int, jobs: int, every: int, cut: tuple[tuple[int, bool], ...], as_json: bool) -> None:
    """Cut a node's power at every flash and NVS operation of a life, and boot it again.

    Each time it must come back to the gateway with every row it had taken (once, with its values), never use a frame counter
    twice, and never end at the REPL. Exit code 0 only when all of that held.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tail]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(WORDS["life"], total=None, tail="")

        def progress(p: dict[str, Any]) -> None:
            tail = f"[bold red]{p['failures']} failures" if p["failures"] else ""
            bar.update(task, description=WORDS[p["phase"]], total=p["total"], completed=p["done"], tail=tail)

        try:
            result = torture(seed=seed, jobs=jobs, every=every, only=cut or None, progress=progress)
        except (TortureError, CompileError) as e:
            bar.stop()
            text, hint = split_hint(str(e))
            fail(
                "torture" if isinstance(e, TortureError) else "firmware", text, hint=hint, as_json=as_json, code=FAILED
            )
    found = result.as_dict()
    if as_json:
        document(found)
    else:
        click.echo(short(found))
    for f in found["failures"]:
        where = f"{f['cut']}{'t' if f['torn'] else ''}"
        again = "" if f["second"] is None else f", cut again at operation {f['second']} of the recovery"
        print(
            f"{f['promise']}: {f['text'].splitlines()[0]} (at {where}, {f['op']}, virtual {f['t_s']:.3f} s{again})",
            file=sys.stderr,
        )
        print(f"next: citymote sim torture node --seed {f['seed']} --cut {where}", file=sys.stderr)
    sys.exit(0 if found["ok"] else FAILED)

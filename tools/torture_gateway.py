"""`citymote sim torture gateway`: kill the real gateway under load, bounce its broker, fill its disk, and count what is missing."""

import signal
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from host_sim.mosquitto import MosquittoError
from host_sim.torture_service import KillError, torture_service
from tools.report import FAILED, conclude, fail, split_hint


def short(d: dict[str, Any]) -> str:
    """The result in words, a few lines."""
    full = (
        f"disk       filled once ({d['disk']}): {d['alarms_while_full']} alarms taken meanwhile, the rest again {d['resumed_s']} s after there was room\n"
        if d["disk"]
        else ""
    )
    return (
        f"{d['kills']} kills ({d['kills_at_start']} of them before it was ready), broker bounced {d['bounces']} times, {d['wall_s']:.0f} s\n"
        f"frames     {d['frames']} made, {d['acked']} acknowledged; lost {d['lost']}, never acknowledged {d['never_acked']}\n"
        f"repeats    {d['duplicates']} of at most {d['duplicates_allowed']}; {d['undetectable']} that look like news\n"
        f"downlinks  {d['downlinks_reused']} counters used twice\n"
        f"{full}"
        f"ready      after {d['ready_ms_p50']:.0f} ms (median), {d['ready_ms_max']:.0f} ms (longest)"
    )


@click.command("gateway")
@click.option("--kills", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Lives of the gateway.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Same seed, same choices.")
@click.option("--no-fill", is_flag=True, help="Leave the disk alone.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder that keeps configuration, log and store.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(kills: int, seed: int, no_fill: bool, keep: Path | None, as_json: bool) -> None:
    """SIGKILL the real gateway at random points under load; bounce the broker, fill the disk once.

    Exit code 0 only when everything that was acknowledged arrived at a subscriber and every repeat is recognisable as one.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave as on Ctrl-C: a disk is mounted, processes run
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[tail]}"))  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="citymote-torture-", ignore_cleanup_errors=True) as tmp,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        task = bar.add_task("killing", total=kills, tail="")

        def progress(p: dict[str, Any]) -> None:
            bar.update(task, description=p["phase"], completed=p["done"], tail=f"{p['acked']} acked, {p['waiting']} waiting")  # fmt: skip

        folder = keep or Path(tmp)
        try:
            folder.mkdir(parents=True, exist_ok=keep is None)
            toll = torture_service(folder, kills, seed, not no_fill, progress)
        except FileExistsError:
            bar.stop()
            fail("exists", f"{folder} exists", hint="name a new folder", as_json=as_json, code=FAILED)
        except (KillError, MosquittoError) as e:
            bar.stop()
            text, hint = split_hint(str(e))
            fail("torture", text, hint=hint, as_json=as_json, code=FAILED)
    found = toll.as_dict()
    conclude(
        found,
        short(found),
        again=f"citymote sim torture gateway --kills {kills} --seed {seed} --keep FOLDER",
        as_json=as_json,
    )

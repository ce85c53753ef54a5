"""`citymote bench gateway`: the real gateway process against a real mosquitto, beside a bare loop that guarantees nothing.

Both get reports of ten readings (noise: two rows of five levels) of many nodes over UDP, and publish the same number of MQTT messages of
QoS 1. The gateway does all it does: tags, replay state, SQLite with synchronous=FULL, acks after the commit, formats native and senml, a log
line per frame. Seconds of CPU are user and system time of the process from /proc, from the first datagram until nothing more comes (10 ms steps);
repetitions of the two take turns, because the machine does other things too.

p50_ms, p99_ms: from sending a datagram to the arrival of its frame's last message at a subscriber, at 42 frames/s. mosquitto passes a
message on and answers PUBACK in the same turn of its loop, so this is PUBACK give or take one packet on loopback; up to 60 ms of it is
the gateway waiting for copies through other receivers (link option collect_ms). saturated_*: the same while WINDOW frames are under way,
which is queueing.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from host_sim.gateway_process import GatewayError, GatewayProcess
from host_sim.load import PULL_DATA, Mote, datagram, plain_report, push_data, registry
from host_sim.mosquitto import Mosquitto, MosquittoError
from tools import bench_hostile
from tools.bench_load import (
    Arrivals,
    BenchError,
    Load,
    Run,
    cpu_s,
    percentile,
    port_of,
    rss_mib,
)
from tools.duration import Number
from tools.report import FAILED, document, fail, split_hint

EUI = bytes.fromhex("aa555a0000000001")
NOISE = 2  # schema number: LAeq, LAFmax, LA10, LA50, LA90
ROWS = 2
READINGS = 10
INTERVAL_S = 600
RATE = 25_000 / INTERVAL_S  # frames a second of a full gateway: 42
LOADED = 5000  # nodes that the load comes from in turn: more than the gateway keeps in memory, so that each frame fetches its state
REFUSED = 3000  # frames of each kind that is refused
START_GOALS = {"first_cpu_s": 5.0}
GOALS = {"cpu_ratio_to_bare": 2.0, "rss_peak_mib": 150.0, "share_of_core_at_42_frames_per_s": 0.10}


class District:
    """Nodes, and their reports sealed beforehand: each report is a minute's levels, taken at once after the one before."""

    def __init__(self, nodes: int) -> None:
        self.motes = [Mote(70_000 + i) for i in range(nodes)]
        self._start = int(time.time()) - 40 * 86400
        self._tmst = 0

    def rows(self, counter: int) -> list[list[int]]:
        """Ten readings that differ from report to report."""
        return [[550 + (counter * 7 + r * 3 + c * 11) % 97 for c in range(READINGS // ROWS)] for r in range(ROWS)]

    def reports(self, motes: Sequence[Mote], count: int) -> list[tuple[bytes, bytes]]:
        """Seal `count` further reports, the nodes taking turns; (id, datagram)s for the gateway."""
        out = []
        for n in range(count):
            m = motes[n % len(motes)]
            t = self._start + (m.counter + 1) * ROWS * 60
            sealed = m.report(t, self.rows(m.counter + 1), NOISE)
            self._tmst += 10_000
            out.append((f"{m.id}:{m.epoch}:{m.counter}".encode(), push_data(EUI, [sealed], self._tmst, freq=869.525)))
        return out

    def bare(self, count: int, messages: int) -> list[tuple[bytes, bytes]]:
        """The same readings for the bare loop: how many messages, the node, and the payload in plain form."""
        return [
            (
                b"",
                bytes((messages,))
                + (1 + n).to_bytes(4, "big")
                + plain_report(self._start + n * 60, self.rows(n), NOISE),
            )
            for n in range(count)
        ]


def configure(folder: Path, broker: int, district: District) -> Path:
    """Write the configuration of the gateway under test: defaults, both standard formats."""
    (folder / "nodes.toml").write_text(registry(district.motes, INTERVAL_S, "noise"))
    (folder / "nodes.toml").chmod(0o600)
    file = folder / "gateway.toml"
    file.write_text(
        f'[gateway]\nid = "gw-bench"\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
        f'[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:{broker}"\nformats = ["native", "senml"]\n'
    )
    return file


@contextmanager
def bare_loop(broker: int) -> Iterator[tuple[int, int]]:
    """Run the bare loop; yields (pid, UDP port)."""
    command = [sys.executable, "-m", "tools.bench_bare", str(broker)]
    cwd = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=cwd) as p:
        try:
            assert p.stdout is not None
            port = p.stdout.readline().strip()
            if not port:
                raise BenchError("the bare loop did not start; next: run python -m tools.bench_bare PORT by hand")
            yield p.pid, int(port)
        finally:
            p.kill()


def measure(
    frames: int, nodes: int, seconds: float, repeats: int, told: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Measure all; told(what, done, of) on the way. Raises BenchError, GatewayError, MosquittoError."""
    each = max(frames // repeats, 1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="citymote-bench-")))
        broker = stack.enter_context(Mosquitto(folder))
        told("making nodes", 0, nodes)
        district = District(nodes)
        file = configure(folder, broker.port, district)
        city = stack.enter_context(Arrivals(broker.port, "city/v1/node/#"))
        plain = stack.enter_context(Arrivals(broker.port, "bare/#"))

        told("first start: publishing metadata", 0, nodes)
        began = time.monotonic()
        gateway = GatewayProcess(file, ready_s=120.0)
        stack.callback(lambda: gateway.kill())
        first_ready, start = time.monotonic() - began, {"first_cpu_s": cpu_s(gateway.pid)}
        city.quiet()
        first_rss = rss_mib(gateway.pid)
        gateway.stop()
        told("second start", 0, nodes)
        began = time.monotonic()
        gateway = GatewayProcess(file, ready_s=120.0)
        ready, start["second_cpu_s"] = time.monotonic() - began, cpu_s(gateway.pid)
        start_rss = rss_mib(gateway.pid)
        target = port_of(file)
        stack.enter_context(_forwarder(target))

        loaded = district.motes[:LOADED]
        paced_count = max(int(RATE * seconds), 1)
        warm = loaded[: max(frames, paced_count)]

        def load(what: str, count: int) -> Load:
            return Load(target, city, gateway.pid, lambda n: told(what, n, count))

        load("warming up", len(warm)).run(district.reports(warm, len(warm)))
        told("waiting for quiet", 0, 1)
        runs: list[Run] = []
        bares: list[Run] = []
        at = 0
        with bare_loop(broker.port) as (pid, port):
            for i in range(repeats):
                turn = [warm[(at + k) % len(warm)] for k in range(min(each, len(warm)))]
                at += each
                runs.append(load(f"gateway, {i + 1} of {repeats}", each).run(district.reports(turn, each)))
                share = max(round(runs[-1].messages / each), 2)
                what = f"bare loop, {i + 1} of {repeats}"
                bare = Load(port, plain, pid, lambda n, what=what: told(what, n, each))
                bares.append(bare.run(district.bare(each, share)))
        turn = [warm[(at + k) % len(warm)] for k in range(min(paced_count, len(warm)))]
        paced = load(f"{RATE:.1f} frames/s", paced_count).run(district.reports(turn, paced_count), RATE)
        peak = max(first_rss, rss_mib(gateway.pid))
        gateway.stop()
        counters = _stopped(file)
    if not all(b.cpu_s for b in bares):
        raise BenchError("too few frames to measure the CPU of; next: more --frames, fewer --repeats")
    ratios = [(r.cpu_s / r.messages) / (b.cpu_s / b.messages) for r, b in zip(runs, bares, strict=True)]
    return {
        "ok": True,
        "frames": sum(r.frames for r in runs),
        "readings_per_frame": READINGS,
        "messages": sum(r.messages for r in runs),
        "messages_per_frame": round(sum(r.messages for r in runs) / sum(r.frames for r in runs), 2),
        "repeats": repeats,
        "frames_per_s": round(statistics.median(r.frames / r.wall_s for r in runs), 1),
        "cpu_s_per_1000": _spread([r.cpu_s / r.frames * 1000 for r in runs], "median"),
        "cpu_s_per_1000_min": _spread([r.cpu_s / r.frames * 1000 for r in runs], "min"),
        "cpu_us_per_message": _spread([r.cpu_s / r.messages * 1e6 for r in runs], "median", 1),
        "bare_cpu_s_per_1000": _spread([b.cpu_s / b.frames * 1000 for b in bares], "median"),
        "bare_cpu_us_per_message": _spread([b.cpu_s / b.messages * 1e6 for b in bares], "median", 1),
        "cpu_ratio_to_bare": _spread(ratios, "median"),
        "cpu_ratio_to_bare_min": _spread(ratios, "min"),
        "saturated_p50_ms": round(percentile([x for r in runs for x in r.latencies_ms], 0.5), 1),
        "saturated_p99_ms": round(percentile([x for r in runs for x in r.latencies_ms], 0.99), 1),
        "p50_ms": round(percentile(paced.latencies_ms, 0.5), 1),
        "p99_ms": round(percentile(paced.latencies_ms, 0.99), 1),
        "share_of_core_at_42_frames_per_s": round(paced.cpu_s / paced.wall_s, 4),
        "paced": {"frames": paced.frames, "frames_per_s": round(paced.frames / paced.wall_s, 1), "cpu_s": round(paced.cpu_s, 2)},
        "nodes": nodes,
        "first_ready_s": round(first_ready, 2),
        "ready_s": round(ready, 2),
        "start": {**start, "goals": met(START_GOALS, start)},
        "rss_start_mib": round(start_rss, 1),
        "rss_peak_mib": round(peak, 1),
        "counters": counters,
    }  # fmt: skip


@contextmanager
def _forwarder(target: int) -> Iterator[None]:
    """A forwarder's keep-alive: tells the gateway where downlinks go, so that answers are sealed and sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", target))
        sock.send(datagram(PULL_DATA, EUI))
        yield


def _stopped(file: Path) -> dict[str, Any]:
    """Return the gateway's own counters, told at its end."""
    for line in reversed(file.with_suffix(".log").read_text().splitlines()):
        if line.startswith("{") and '"stopped"' in line:
            found = json.loads(line)
            return {key: found[key] for key in ("frames", "refused", "totals") if key in found}
    raise BenchError("the gateway did not end in order; next: look at its log")


def _spread(values: Sequence[float], which: str, digits: int = 3) -> float:
    return round(statistics.median(values) if which == "median" else min(values), digits)


def met(goals: Mapping[str, float], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return of each goal what it is, and whether it was met."""
    return {key: {"at_most": most, "met": found[key] <= most} for key, most in goals.items()}


def flat(hostile: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield what a stolen node did to it as (words, number), a line each."""
    for key, value in hostile.items():
        goal = f"  (at most {bench_hostile.GOALS[key]:g})" if key in bench_hostile.GOALS else ""
        if isinstance(value, int | float):
            yield key.replace("_", " ") + goal, value
        elif key == "cpu_us":
            yield from ((f"cpu us of a frame refused as {kind}", us) for kind, us in value.items())


@click.command("gateway")
@click.option("--frames", type=click.IntRange(1, 10_000_000), default=6000, show_default=True, help="Reports in all.")
@click.option(
    "--nodes", type=click.IntRange(1, 200_000), default=25_000, show_default=True, help="Nodes in the registry."
)
@click.option("--seconds", type=Number(0.1, 3600), default=15.0, show_default=True, help="Of the run at 42 frames/s.")
@click.option(
    "--repeats",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Repetitions, gateway and bare loop in turn.",
)
@click.option(
    "--hostile-seconds",
    type=Number(0, 3600),
    default=15.0,
    show_default=True,
    help="Of a stolen node beside honest ones (bench_hostile.py); 0 leaves it out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(frames: int, nodes: int, seconds: float, repeats: int, hostile_seconds: float, as_json: bool) -> None:
    """CPU, latency and memory of the real gateway against a real mosquitto, a bare loop beside it, and a stolen node against it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def told(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of)

        try:
            found = measure(frames, nodes, seconds, min(repeats, frames), told)
            if hostile_seconds:
                found["hostile"] = bench_hostile.measure(hostile_seconds, min(frames, REFUSED), told)
        except (BenchError, GatewayError, MosquittoError) as e:
            bar.stop()
            text, hint = split_hint(str(e))
            name = {BenchError: "bench", GatewayError: "gateway", MosquittoError: "no_mosquitto"}[type(e)]
            fail(name, text, hint=hint, as_json=as_json, code=FAILED)
    found["goals"] = met(GOALS, found)
    if as_json:
        document(found)
        return
    table = Table(
        title=f"gateway: {found['frames']} reports of {READINGS} readings, {nodes} nodes", title_justify="left"
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    for key, value in found.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            goal = f"  (at most {GOALS[key]:g})" if key in GOALS else ""
            table.add_row(key.replace("_", " ") + goal, f"{value:g}")
    for key in ("first_cpu_s", "second_cpu_s"):
        goal = f"  (at most {START_GOALS[key]:g})" if key in START_GOALS else ""
        table.add_row(f"start: {key.replace('_', ' ')}{goal}", f"{found['start'][key]:g}")
    for key, value in flat(found.get("hostile", {})):
        table.add_row(f"hostile: {key}", f"{value:g}")
    Console(width=None if Console().is_terminal else 120, highlight=False).print(table)

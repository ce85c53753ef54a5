"""A reload that whoever asks for it learns the end of: check the files, SIGHUP, wait for the running gateway's answer.

A signal carries no answer, so the gateway writes how each reload ended into RUNTIME_DIRECTORY (which systemd gives the unit and its
ExecReload=), without one beside its store; `citymote gateway reload` waits for it there. SIGHUP ends most programs: it is sent to nothing but
a gateway that was started with this configuration.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

OUTCOME = "reload.json"
WAIT_S = 120.0  # 25,000 nodes are read in seconds; the unit's TimeoutStartSec= ends ExecReload= after 5 min
POLL_S = 0.05
MOST_PID = (1 << 31) - 1  # what pid_t holds

log = structlog.get_logger(__name__)


def runtime_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder in RUNTIME_DIRECTORY (the first of a list), None when there is none."""
    first = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None


def _outcome(folder: Path | None, store: Path | None) -> Path | None:
    return (
        folder / OUTCOME
        if folder is not None
        else store.with_name(f"{store.name}.{OUTCOME}")
        if store is not None
        else None
    )


def report(
    began: float, mistakes: Sequence[tuple[str, str]], store: Path | None = None, did: Mapping[str, int] | None = None
) -> None:
    """Write how a reload ended. began: time.monotonic() before its files were read; mistakes: (text, hint) of each, empty when it is in force.

    did: how many nodes there are, and how many of them are new or changed, and have gone.

    A folder that cannot be written is logged: the reload itself has ended already.
    """
    file = _outcome(runtime_folder(), store)
    if file is None:
        return
    new = file.with_name(f"{file.name}.new")
    body: dict[str, Any] = {"began": began, "mistakes": [{"text": text, "next": hint} for text, hint in mistakes]}
    if did is not None and not mistakes:
        body["did"] = dict(did)
    try:
        new.write_text(json.dumps(body), encoding="utf-8")
        new.replace(file)
    except OSError as e:
        log.warning(
            "reload_outcome_not_written", error=str(e), next=f"look at {file.parent}; systemctl reload will time out"
        )


def ask(pid: int, wait_s: float = WAIT_S, store: Path | None = None) -> dict[str, Any] | None:
    """Send SIGHUP to a gateway and return what it reports: "mistakes" for which it refused, [] when the files are in force, and what it "did".

    None when it cannot be known.

    Raises ProcessLookupError when it has ended, PermissionError when it is another user's, TimeoutError when it does not answer in wait_s.
    """
    file = _outcome(runtime_folder(_environment(pid)), store)
    asked = time.monotonic()  # the same clock for all processes of a host
    os.kill(pid, signal.SIGHUP)
    if file is None:
        return None
    while time.monotonic() - asked < wait_s:
        outcome = _read(file)
        if (
            outcome is not None and outcome["began"] >= asked
        ):  # an earlier one may have read the files before they were written
            return outcome
        os.kill(pid, 0)
        time.sleep(POLL_S)
    raise TimeoutError(f"gateway {pid} has not ended its reload in {wait_s:.0f} s")


def is_gateway(pid: int, file: Path) -> bool:
    """True for a running gateway that was started with this configuration. Raises ProcessLookupError.

    What a unit's reload cannot see (ProtectProc=invisible with PrivateUsers=yes hides the service from its own ExecReload) is one when
    systemd names it as the unit's main process (MAINPID, systemd.exec(5)).
    """
    try:
        words = [os.fsdecode(w) for w in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except (FileNotFoundError, ProcessLookupError):
        if _runs(pid):
            return os.environ.get("MAINPID") == str(pid)
        raise ProcessLookupError(f"there is no process {pid}") from None
    if "gateway" not in words or "run" not in words[words.index("gateway") :]:
        return False
    named = [
        w.removeprefix("--config=")
        for n, w in enumerate(words)
        if w.startswith("--config=") or n and words[n - 1] == "--config"
    ]
    try:
        where = Path(f"/proc/{pid}/cwd").readlink()
    except PermissionError:
        where = Path()  # another user's: the unit names the file from the root
    return any(os.path.realpath(where / name) == os.path.realpath(file) for name in named)


def _runs(pid: int) -> bool:
    """True when there is a process of this number, whether it can be seen in /proc or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with, our own when it is not ours to see."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(p).split("=", 1) for p in pairs if b"=" in p)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def reload(file: Path, pid: int) -> int:
    """Have a running gateway read its files again. Exit code 0 in force, 1 refused by it or no answer, 2 the files are wrong.

    Files that cannot be used are offered to it all the same: its health then says that what is on the disk is not in force, and that it
    could not start with it. Files that it would take and `check` refuses (two nodes with one key) are not.
    """
    from gateway import verbs  # which imports the installer: the running gateway needs neither

    complaint, hint = "", "systemctl status citymote-gateway"
    if not 0 < pid <= MOST_PID:
        print(f"error: --pid {pid} is the number of no process (1..{MOST_PID})\n"
              "next: systemctl show -p MainPID citymote-gateway, or: pgrep -af 'gateway run'", file=sys.stderr)  # fmt: skip
        return verbs.USAGE
    try:
        if not is_gateway(pid, file):
            complaint = f"process {pid} is no gateway that runs with {file}, so it was sent nothing"
            hint = "systemctl show -p MainPID citymote-gateway, or: pgrep -af 'gateway run'"
    except ProcessLookupError as e:
        complaint = str(e)
    if complaint and not os.path.lexists(file):
        print(f"error: {file} does not exist, and {complaint}\n"
              "next: give --config the file that the gateway was started with", file=sys.stderr)  # fmt: skip
        return verbs.USAGE
    if complaint:
        print(f"error: {complaint}\nnext: {hint}", file=sys.stderr)
        return verbs.FAILED
    dangers, store = verbs.dangerous(file)
    if dangers:
        return verbs.USAGE
    try:
        outcome = ask(pid, store=store)
    except OSError as e:  # TimeoutError is one
        print(f"error: gateway {pid}: {e.strerror or e}\nnext: systemctl status citymote-gateway", file=sys.stderr)
        return verbs.FAILED
    if dangers is None:
        return verbs.USAGE  # said already
    if outcome is None:
        print("error: it was asked; how it ended is in its log", file=sys.stderr)
        return verbs.FAILED
    mistakes, did = outcome["mistakes"], outcome.get("did")
    for m in mistakes:
        print(f"error: {m['text']}\nnext: {m['next']}", file=sys.stderr)
    if not mistakes:
        nodes = f": {did['nodes']} nodes, {did['changed']} new or changed, {did['gone']} gone" if did else ""
        print(f"{file} is in force{nodes}")
    return verbs.DONE if mistakes == [] else verbs.FAILED

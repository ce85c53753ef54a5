"""`citymote gateway install|uninstall`: the system's side of a gateway, into / or into the root of an image.

The application itself stays in the environment that citymote was installed into (pip, in /opt/citymote): this writes the unit, the user, the
folders, a first configuration, and the broker's templates. What it wrote is in a manifest, so that uninstall takes away exactly that; the
configuration and the store are the operator's and stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config.identity import host_id
from gateway.config.template import config_text, registry_text

HERE = Path(__file__).parent / "deploy"
LIB = "usr/local/lib"
UNIT = f"{LIB}/systemd/system/citymote-gateway.service"
SYSUSERS, TMPFILES = f"{LIB}/sysusers.d/citymote.conf", f"{LIB}/tmpfiles.d/citymote.conf"
MANIFEST = f"{LIB}/citymote/installed.json"
CONFIG, REGISTRY = "etc/citymote/gateway.toml", "etc/citymote/nodes.toml"
STORE, ARCHIVE = "/var/lib/citymote/gateway.db", "/var/lib/citymote/archive"
HIDDEN = (
    "/home",
    "/root",
    "/run/user",
    "/tmp",
    "/var/tmp",
)  # what ProtectHome and PrivateTmp take out of the unit's sight


class InstallError(Exception):
    """Nothing was installed; `hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


@dataclass(slots=True)
class Done:
    """What was written, left alone, removed, and what is to be done next."""

    wrote: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return it for --json."""
        return {
            "ok": True,
            "wrote": self.wrote,
            "kept": self.kept,
            "removed": self.removed,
            "ran": self.ran,
            "next": self.next,
        }


def install(root: Path, python: str | None = None, dry_run: bool = False) -> Done:
    """Write the files below `root`. python: the interpreter as the unit will see it; by default the one that runs this.

    Run again it brings the files up to date. Raises InstallError before anything is written.
    """
    interpreter = _interpreter(python)
    ours = _manifest(root)
    files = {name: _content(name, interpreter) for name in (UNIT, SYSUSERS, TMPFILES)}
    for template in sorted((HERE / "mosquitto").iterdir()):
        files[f"usr/local/share/citymote/mosquitto/{template.name}"] = template.read_text(encoding="utf-8")
    for name in files:
        at = root / name
        if at.is_symlink() or at.exists() and (name not in ours or not at.is_file()):
            raise InstallError(f"{at} is there and not of citymote's making", "move it away, then install again")
    done = Done()
    values = {"gateway.store": STORE, "output.files.folder": ARCHIVE} | (
        {"gateway.id": host_id()} if root == Path("/") else {}
    )
    first = {CONFIG: (config_text(values), 0o640), REGISTRY: (registry_text(), 0o600)}
    try:
        for name, text in files.items():
            _write(root, name, text, 0o644, done, dry_run)
        for name, (text, mode) in first.items():
            if (root / name).exists() or (root / name).is_symlink():
                done.kept.append(f"/{name}")
            else:
                _write(root, name, text, mode, done, dry_run)
        sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
        _write(
            root, MANIFEST, json.dumps({"version": __version__, "files": sums}, indent=2) + "\n", 0o644, done, dry_run
        )
    except OSError as e:
        raise InstallError(
            f"{e.filename}: {e.strerror}", "run it as root, or name a folder you may write to with --root"
        ) from e
    if not dry_run:
        _settle(root, done)
    if root != Path("/") and f"/{CONFIG}" in done.wrote:
        done.next.append(
            "give each box of this image a gateway.id of its own in /etc/citymote/gateway.toml: all are gw-1 until then"
        )
    done.next += ["enter nodes in /etc/citymote/nodes.toml and outputs in /etc/citymote/gateway.toml",
                  "citymote gateway check --config /etc/citymote/gateway.toml", "systemctl enable --now citymote-gateway"]  # fmt: skip
    return done


def uninstall(root: Path, dry_run: bool = False) -> Done:
    """Remove what install wrote and no one has changed since; configuration and store stay. Raises InstallError."""
    ours = _manifest(root)
    if not ours:
        raise InstallError(f"{root / MANIFEST} does not exist, so nothing is known of an installation", "check --root")
    done = Done()
    if not dry_run and _live(root):
        _run(["systemctl", "disable", "--now", "citymote-gateway.service"], done)
    for name, digest in ours.items():
        at = root / name
        if not at.exists():
            continue
        if hashlib.sha256(at.read_bytes()).hexdigest() != digest:
            done.kept.append(f"/{name}")
            continue
        done.removed.append(f"/{name}")
        if not dry_run:
            at.unlink()
            _prune(root, at.parent)
    done.removed.append(f"/{MANIFEST}")
    if not dry_run:
        (root / MANIFEST).unlink()
        _prune(root, (root / MANIFEST).parent)
        if _live(root):
            _run(["systemctl", "daemon-reload"], done)
    done.kept += [f"/{d}" for d in ("etc/citymote", "var/lib/citymote") if (root / d).exists()]
    done.next.append(
        "keys and readings are still there: remove /etc/citymote and /var/lib/citymote, and the user citymote, if no one needs them"
    )
    return done


def _interpreter(python: str | None) -> str:
    path = python or sys.executable
    if not path.startswith("/"):
        raise InstallError(
            f"the interpreter {path} is not a whole path", "name it with --python /opt/citymote/bin/python"
        )
    if _hidden(path):
        raise InstallError(
            f"the unit could not see its interpreter, {path}: home folders and /tmp are hidden from it",
            "python3 -m venv /opt/citymote, install citymote there, and run /opt/citymote/bin/citymote gateway install",
        )
    real = os.path.realpath(path) if python is None else path
    if _hidden(real):  # the environment is in its place, and what it was made with (pyenv, uv, conda) is not
        raise InstallError(
            f"the unit could not see its interpreter: {path} is {real}, and home folders and /tmp are hidden from it",
            f"make the environment with the system's Python: /usr/bin/python3 -m venv --clear {Path(path).parents[1]}, and install citymote there again",
        )
    return path


def _hidden(path: str) -> bool:
    return any(path == h or path.startswith(f"{h}/") for h in HIDDEN)


def _content(name: str, interpreter: str) -> str:
    source = {UNIT: "citymote-gateway.service", SYSUSERS: "sysusers.conf", TMPFILES: "tmpfiles.conf"}[name]
    return (HERE / source).read_text(encoding="utf-8").replace("@PYTHON@", interpreter)


def _manifest(root: Path) -> dict[str, str]:
    try:
        return json.loads((root / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InstallError(f"{root / MANIFEST} cannot be read: {e}", "move it away, then install again") from e


def _write(root: Path, name: str, text: str, mode: int, done: Done, dry_run: bool) -> None:
    """Write whole or not at all, whatever the umask is."""
    done.wrote.append(f"/{name}")
    if dry_run:
        return
    at = root / name
    for folder in reversed([p for p in at.parents if (p == root or root in p.parents) and not p.exists()]):
        folder.mkdir(parents=folder == root)
        folder.chmod(0o755)
    new = at.with_name(f"{at.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        os.fchmod(fd, mode)
        f.write(text)
        f.flush()
        os.fsync(fd)
    new.rename(at)


def _settle(root: Path, done: Done) -> None:
    """Make the user and give it its files: now where we may, at boot (systemd does it) where we may not."""
    if os.geteuid() != 0 or not shutil.which("systemd-sysusers") or not shutil.which("systemd-tmpfiles"):
        done.next.append(
            "the user citymote and the owners of its files are made at the next boot (systemd-sysusers, systemd-tmpfiles)"
        )
        return
    where = [] if root == Path("/") else [f"--root={root}"]
    _run(["systemd-sysusers", *where, "citymote.conf"], done)
    _run(["systemd-tmpfiles", *where, "--create", "citymote.conf"], done)
    if _live(root):
        _run(["systemctl", "daemon-reload"], done)


def _live(root: Path) -> bool:
    return root == Path("/") and Path("/run/systemd/system").is_dir()


def _run(command: list[str], done: Done) -> None:
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, umask=0o022
    )  # system files are for all
    if ended.returncode:
        raise InstallError(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr.strip()}",
                           "the files are written; mend that and install again")  # fmt: skip
    done.ran.append(" ".join(command))


def _prune(root: Path, folder: Path) -> None:
    """Remove the folders of ours that are empty now."""
    while folder != root and "citymote" in folder.name and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent

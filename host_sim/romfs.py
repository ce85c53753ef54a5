"""The firmware as one ROMFS image: what a slot of the partition "romfs" holds. Bytecode and names stay in flash (firmware/README.md, slots).

The format is MicroPython's (docs: reference/filesystem, "ROMFS"); mpremote's VfsRomWriter writes it. The same files give the same bytes: names in
order, no times. There is no checksum in the format and a corrupt image mounts, so a manifest with the image's SHA-256 goes beside it.
All of the firmware is bytecode, so one image serves every chip.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpremote.romfs import VfsRomWriter

from host_sim import compile as mpy

MPY_HEAD = b"M\x06"  # of an .mpy that MicroPython 1.2x loads
BLOCK = 4096  # bytes: what flash erases at once
HALF = 192 * 1024  # bytes of a slot at the least; the partition has two
PACKAGES = ("mote", "motewire")  # the application
ROOT_FILES = (
    "boot.py",
    "main.py",
    "slots.py",
    "slotboot.py",
    "slotwork.py",
)  # they live on littlefs and are never updated
DRIVER = (
    "__init__",
    "modem",
    "async_modem",
)  # of micropython-lib's lora and lora-async; lora-sx126x or lora-sx127x comes to it
CHIP_FILES = {"sx1261": "sx126x", "sx1262": "sx126x"} | dict.fromkeys(
    ("sx1276", "sx1277", "sx1278", "sx1279"), "sx127x"
)


class ImageError(Exception):
    """No image can be made of what was given; the text says of what, and after "; next: " what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """data: what is written at the start of a slot. files: how many are in it."""

    version: str
    data: bytes
    files: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def manifest(self) -> str:
        """manifest.json of the slot that takes the image: firmware/slotwork.py reads it."""
        return json.dumps({"version": self.version, "image": [len(self.data), self.sha256]})

    def proven(self) -> dict[str, bytes]:
        """{file on littlefs: content} of a node whose slot a has this image and was proven: what firmware/slots.py would have written."""
        manifest = self.manifest().encode()
        mark = zlib.crc32(manifest).to_bytes(4, "big") + len(self.data).to_bytes(4, "big") + bytes.fromhex(self.sha256)
        state = b"slot\x01\x00\x00"
        state += zlib.crc32(state).to_bytes(4, "big")
        return {"/a/manifest.json": manifest, "/a/ok": mark, "/slot": state, "/slot.ok": state}


def pack(files: Mapping[str, bytes]) -> bytes:
    """A ROMFS image of {path: content}; folders and files in order of their names. ImageError: a name that ROMFS cannot hold."""
    tree: dict[str, object] = {}
    for path, content in files.items():
        *folders, name = path.split("/")
        if not path.isascii() or not all([*folders, name]):
            raise ImageError(f"{path!r}: a name in a ROMFS is ASCII, without empty parts")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
            if not isinstance(at, dict):
                raise ImageError(f"{path!r}: {folder!r} is a file as well")
        if name in at:
            raise ImageError(f"{path!r}: a folder as well")
        at[name] = content
    writer = VfsRomWriter()
    _write(writer, tree)
    return bytes(writer.finalise())


def _write(writer: VfsRomWriter, tree: Mapping[str, object]) -> None:
    for name in sorted(tree):
        entry = tree[name]
        if isinstance(entry, dict):
            writer.opendir(name)
            _write(writer, entry)
            writer.closedir()
        else:
            writer.mkfile(name, entry)


def application(rom: Path) -> dict[str, bytes]:
    """{path: content} of the application in a folder that compile.compiled() returned."""
    return {
        str(p.relative_to(rom)): p.read_bytes()
        for package in PACKAGES
        for p in sorted((rom / package).rglob("*"))
        if p.is_file()
    }


def root_folder() -> Path:
    """Folder with what such a node has in the root of its littlefs, compiled."""
    root = mpy.firmware_root()
    return mpy.compiled_files({name: root / name for name in ROOT_FILES})


def driver_folder(folder: Path, chip: str) -> Path:
    """Folder with micropython-lib's radio driver for `chip`, compiled: lora/*.mpy.

    folder: holds lora/ with the .py (or .mpy) files of lora, lora-async and the chip's package, as `mip install --target` leaves it.
    Only the board's chip: the other one would cost 2 kB of heap. Sync classes are left out. ImageError.
    """
    if chip not in CHIP_FILES:
        raise ImageError(f"no radio driver for the chip {chip}; next: one of {', '.join(CHIP_FILES)}")
    names = (*DRIVER, CHIP_FILES[chip])
    get = f"next: install lora, lora-async and lora-{CHIP_FILES[chip]} of micropython-lib into {folder} (mip install --target)"
    if not (folder / "lora").is_dir():
        if folder.name == "lora" and any((folder / f"{name}.py").is_file() for name in names):
            raise ImageError(f"{folder} is lora/ itself; next: name {folder.parent}")
        raise ImageError(f"{folder} has no lora/; {get}")
    sources: dict[str, Path] = {}
    lacks: list[str] = []
    for name in names:
        source, code = (folder / "lora" / f"{name}.{kind}" for kind in ("py", "mpy"))
        if source.is_file():
            sources[f"lora/{name}.py"] = source
        elif code.is_file():
            if code.read_bytes()[:2] != MPY_HEAD:
                raise ImageError(f"{code} is no bytecode of version 6; next: mip install --no-mpy --target {folder}")
            sources[f"lora/{name}.mpy"] = code
        else:
            lacks.append(str(source))
    if lacks:
        raise ImageError(f"{' is not there, nor is '.join(lacks)}{' is not there' * (len(lacks) == 1)}; {get}")
    return mpy.compiled_files(sources)


def driver_files(folder: Path, chip: str) -> dict[str, bytes]:
    """{path: content} of driver_folder(folder, chip): what image() takes."""
    rom = driver_folder(folder, chip)
    return {str(p.relative_to(rom)): p.read_bytes() for p in sorted(rom.rglob("*.mpy"))}


def image(rom: Path, more: Mapping[str, bytes] | None = None) -> Image:
    """The image of a folder that compile.compiled() returned, with `more` files (a radio driver). ImageError: it does not fit a slot."""
    files = application(rom) | dict(more or {})
    data = pack(files)
    if len(data) > HALF:
        raise ImageError(f"the image has {len(data)} bytes, a slot {HALF}; next: leave profiles or drivers out")
    return Image(version(), data, len(files))


def version() -> str:
    """VERSION of the firmware."""
    found = re.search(r'^VERSION = "([^"]+)"', (mpy.firmware_root() / "mote" / "__init__.py").read_text(), re.M)
    if found is None:
        raise ImageError("firmware/mote/__init__.py has no VERSION")
    return found[1]


def partition(image: Image, *, half: int = HALF) -> bytes:
    """What a partition "romfs" holds whose first slot has the image and whose second one is erased."""
    return image.data.ljust(2 * half, b"\xff")


def cached_partition(image: Image) -> Path:
    """A file in the cache with partition(image), for VMs to map read-only."""
    return cached(image.sha256[:24], lambda: partition(image))


def cached(name: str, make: Callable[[], bytes]) -> Path:
    """The read-only file of that name in the cache; made when it is not there."""
    target = mpy.cache_root() / "romfs" / f"{name}.img"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as f:
            f.write(make())
        os.chmod(f.name, 0o444)
        os.replace(f.name, target)
    return target

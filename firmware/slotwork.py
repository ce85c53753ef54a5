"""What is done to update slots (slots.py) and only then in memory: write an image, check what a slot holds, have it tried.

Lives in the flash root beside slots.py and is never updated itself. An image is written block by block by a Writer; cut anywhere, the slot is not staged and
nothing of it runs.
"""

import os
from json import dump, load

import slotboot
import slots

BLOCK = 4096
_DIR = 0x4000


def stage(slot):
    """Check all that slot `slot` holds against its manifest and mark it as whole; return its version.

    Raises ValueError (what is wrong), OSError. The slot this boot runs from, the proven one and the one on trial are in use and refused.
    """
    _free(slot)
    folder = "/" + slot
    _unmark(folder)
    with open(folder + "/manifest.json") as f:
        manifest = load(f)
    try:
        version, image, files = manifest["version"], manifest.get("image"), manifest.get("files")
        if not isinstance(version, str) or (image is None) == (files is None):
            raise ValueError("manifest")
        kind = _check_files(folder, files) if image is None else _check_image(slot, image)
    except (KeyError, TypeError, IndexError, AttributeError):
        raise ValueError("manifest")
    with open(folder + "/ok.new", "wb") as f:
        f.write(slotboot.crc(folder + "/manifest.json").to_bytes(4, "big") + kind)
    os.rename(folder + "/ok.new", folder + "/ok")
    return version


def switch(slot, tries=slots.TRIES):
    """Try slot `slot` (staged before) for at most `tries` boots from the next reset on. Raises ValueError, OSError."""
    proven = slotboot.state()[0]
    if slot == proven or slot not in ("a", "b") or not slotboot.mark(slot) or not 0 < tries < 256:
        raise ValueError("slot " + str(slot))
    slots.put("/slot", proven, slot, tries)


class Writer:
    """Writes an image of `size` bytes into slot `slot`: write(data) until all of it is there, then close(version, sha256).

    Raises ValueError: the slot is in use, the board has no partition, the image does not fit or differs; OSError.
    """

    def __init__(self, slot, size):
        _free(slot)
        room = len(slotboot.half(slot))
        if not 0 < size <= room:
            raise ValueError("image of %d bytes, slot of %d" % (size, room))
        self._slot, self._size, self._at, self._part = slot, size, 0, _partition()
        self._first = (slot == "b") * (room // BLOCK)
        self._page, self._fill = bytearray(BLOCK), 0
        try:
            os.mkdir("/" + slot)
        except OSError:
            pass  # it is there
        _unmark("/" + slot)  # before the first erase

    def write(self, data):
        """Take the next bytes of the image."""
        data = memoryview(data)
        if self._at + self._fill + len(data) > self._size:
            raise ValueError("more than %d bytes" % self._size)
        while len(data):
            n = min(len(data), BLOCK - self._fill)
            self._page[self._fill : self._fill + n] = data[:n]
            self._fill += n
            data = data[n:]
            if self._fill == BLOCK:
                self._flush()

    def _flush(self):
        if self._fill:
            self._part.writeblocks(self._first + self._at // BLOCK, self._page)  # erases first
            self._at += self._fill
            self._fill = 0

    def close(self, version, sha256):
        """The image is complete: write the manifest and stage the slot. sha256: hex, as it came with the image. Return the version."""
        self._flush()
        if self._at != self._size:
            raise ValueError("%d of %d bytes" % (self._at, self._size))
        folder = "/" + self._slot
        with open(folder + "/manifest.new", "w") as f:
            dump({"version": version, "image": [self._size, sha256]}, f)
        os.rename(folder + "/manifest.new", folder + "/manifest.json")
        return stage(self._slot)


def _free(slot):
    """ValueError when the slot is in use or there is none of this name. A proven one whose image has rotted is no longer in use."""
    proven, trying, _ = slotboot.state()
    if slot not in ("a", "b") or slot in (trying, slots.name) or slot == proven and slotboot.mark(slot):
        raise ValueError("slot " + str(slot))


def _unmark(folder):
    try:
        os.remove(folder + "/ok")
    except OSError as e:
        if e.errno != 2:  # ENOENT: it was not staged before
            raise


def _partition():
    from esp32 import Partition

    found = Partition.find(Partition.TYPE_DATA, label="romfs")
    if not found:
        raise ValueError("no partition romfs")
    return found[0]


def _check_image(slot, image):
    size, text = image
    if not isinstance(size, int) or not isinstance(text, str) or len(text) != 64:
        raise ValueError("manifest")
    sha256 = bytes.fromhex(text)
    if not slotboot.whole(slotboot.half(slot), size, sha256):
        raise ValueError("differs: image")
    import vfs

    # OSError: no ROMFS, though it is what was sent
    rom = vfs.VfsRom(slotboot.half(slot))  # pyright: ignore[reportAttributeAccessIssue]
    for file in ("mote/main.mpy", "motewire/__init__.mpy"):
        try:
            rom.stat(file)
        except OSError:
            raise ValueError("no application")
    return size.to_bytes(4, "big") + sha256


def _check_files(folder, files):
    for file in files:
        size, found = files[file]
        if (
            file[0] == "/"
            or ".." in file
            or os.stat(folder + "/" + file)[6] != size
            or slotboot.crc(folder + "/" + file) != found
        ):
            raise ValueError("differs: " + file)
    if not ("mote/main.mpy" in files or "mote/main.py" in files):
        raise ValueError("no application")
    for file in _walk(folder, ""):  # a stray x.py would be imported in place of x.mpy
        if file not in files and file != "manifest.json":
            raise ValueError("not in the manifest: " + file)
    return b""


def _walk(folder, below):
    for entry in os.ilistdir(folder + "/" + below if below else folder):
        name = below + "/" + entry[0] if below else entry[0]
        if entry[1] & _DIR:
            yield from _walk(folder, name)
        else:
            yield name

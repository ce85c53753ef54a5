"""Unpacks one pure-MicroPython sdist, which pip refuses (no build system), into a folder: python -m tests.sdist NAME VERSION SHA256 FOLDER.

Takes it from the index pip is configured with, and only with this hash. `make test` runs it; tests skip by name what it could not get.
"""

from __future__ import annotations

import hashlib
import io
import re
import ssl
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from pathlib import Path


def _pip_setting(name: str) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", name], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None if done.returncode == 0 else None


def fetch(name: str, version: str, sha256: str, folder: Path) -> None:
    """Unpack name-version.tar.gz below folder. OSError: no index; ValueError: no such file there, or another hash."""
    index = _pip_setting("global.index-url") or "https://pypi.org/simple"
    context = ssl.create_default_context(cafile=_pip_setting("global.cert"))
    page = f"{index.rstrip('/')}/{name}/"
    with urllib.request.urlopen(page, context=context, timeout=30) as answer:
        links = re.findall(r'href="([^"]+)"', answer.read().decode())
    wanted = f"{name}-{version}.tar.gz"
    found = [u for u in links if urllib.parse.urlsplit(u).path.rsplit("/", 1)[-1] == wanted]
    if not found:
        raise ValueError(f"{page} has no {wanted}")
    with urllib.request.urlopen(urllib.parse.urljoin(page, found[0]), context=context, timeout=60) as answer:
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{wanted}: not the file whose hash is known")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)  # 3.11.4 has it
        archive.extractall(folder)


if __name__ == "__main__":
    try:
        fetch(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    except (OSError, ValueError) as e:
        print(f"setup: no {sys.argv[1]} ({e}): tests that need it will be skipped by name")

"""`make requirements`: write requirements-gateway.txt, the versions and hashes of what a gateway box installs.

pip resolves the dependencies of pyproject.toml for each Python and machine below, wheels only, and reports the hash of what it would
fetch; nothing is installed. All of them get the same versions: what the first one finds is a constraint for the others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FILE = REPO / "requirements-gateway.txt"
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = (
    "x86_64",
    "aarch64",
)  # msgspec and cbor2 have no wheels for armv7l: such a box would need a compiler and its own hashes
GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
HEAD = """\
# What a gateway box installs beside citymote itself: pip install --require-hashes -r requirements-gateway.txt
# Wheels for Linux (glibc 2.28 or newer) on x86_64 and aarch64, Python 3.11 to 3.13. Renew it with: make requirements
--only-binary :all:
"""

Found = dict[str, tuple[str, dict[str, str]]]  # name: (version, {file: sha256})


def main() -> int:
    """Resolve and write; exit code 1 when pip finds no set of wheels that fits everywhere."""
    dependencies = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found: Found = {}
    for python in PYTHONS:
        for machine in MACHINES:
            print(f"resolving for Python {python} on {machine}", file=sys.stderr)
            try:
                _merge(found, _resolve(dependencies, found, python, machine))
            except subprocess.CalledProcessError as e:
                print(f"error: Python {python} on {machine}: {e.stderr.strip()[-2000:]}\n"
                      "next: widen or narrow a range in pyproject.toml; nothing was written", file=sys.stderr)  # fmt: skip
                return 1
    FILE.write_text(text_of(found), encoding="utf-8")
    print(f"wrote {FILE.name}: {len(found)} packages, {sum(len(files) for _, files in found.values())} wheels")
    return 0


def text_of(found: Found) -> str:
    """Return the file: one entry for each package, with the names of its wheels above it."""
    parts = [HEAD]
    for name, (version, files) in sorted(found.items()):
        names = "".join(f"# {file}\n" for file in sorted(files))
        hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(set(files.values())))
        parts.append(f"{names}{name}=={version} \\\n{hashes}\n")
    return "\n".join(parts)


def _resolve(dependencies: list[str], found: Found, python: str, machine: str) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        constraints.write_text("".join(f"{name}=={version}\n" for name, (version, _) in found.items()))
        platforms = [option for glibc in GLIBC for option in ("--platform", f"{glibc}_{machine}")]
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--report", str(report),
            "--target", str(Path(folder) / "never"), "--python-version", python, *platforms, "-c", str(constraints), *dependencies,
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [
        {
            "name": re.sub(r"[-_.]+", "-", i["metadata"]["name"]).lower(),
            "version": i["metadata"]["version"],
            "file": i["download_info"]["url"].rsplit("/", 1)[-1],
            "sha256": i["download_info"]["archive_info"]["hashes"]["sha256"],
        }
        for i in installs
    ]


def _merge(found: Found, installs: list[dict[str, str]]) -> None:
    for i in installs:
        version, files = found.setdefault(i["name"], (i["version"], {}))
        assert version == i["version"], f"{i['name']}: constrained to {version}, got {i['version']}"
        files[i["file"]] = i["sha256"]


if __name__ == "__main__":
    sys.exit(main())

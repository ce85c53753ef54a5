"""A machine with systemd as PID 1 for the unit: systemd-nspawn on a root of our own, with this host's programs
read-only and everything else private.

What runs in it is installed by `citymote gateway install`; the interpreter, its packages and this tree are bound in where the unit can see
them (a virtual environment in /opt, as deploy/README.md has it), since the tests' own may lie below /root, which the unit hides.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.install import CONFIG, REGISTRY, install
from tests.gateway.world import REPO, Mote

UNIT = "citymote-gateway.service"
SOURCE, PYTHON_AT, VENV = "/opt/src", "/opt/python", "/opt/citymote"
BOOT_S, STEP_S = 60.0, 60.0  # on a loaded machine
ETC = ("os-release", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime")


class Machine:
    """A booted container. run() executes in it; python() does so with our packages. Skips the test where it cannot boot."""

    def __init__(self, folder: Path) -> None:
        nspawn = shutil.which("systemd-nspawn")
        if os.geteuid() != 0 or nspawn is None or not Path("/usr/lib/systemd/systemd").exists():
            why = "root" if os.geteuid() else "systemd-nspawn and systemd"
            pytest.skip(f"needs {why} (next: as root, apt-get install systemd systemd-container)")
        self.root = folder / "root"
        self.log = folder / "boot.log"
        self._pid = ""
        binds = self._lay_out()
        # in a scope of its own where systemd runs already; else in the cgroup we are in
        scope = [] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]
        command = [nspawn, "-q", "-D", str(self.root), "--boot", "--register=no", *scope, "--private-network", "--link-journal=no",
                   "--console=pipe", f"--machine=citymote-{secrets.token_hex(3)}", *binds]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._await_boot()

    def _lay_out(self) -> list[str]:
        """Make the root and return the options that bind what stays the host's."""
        for name in ("usr", "etc", "var/log/journal", "var/lib", "run", "proc", "sys", "dev", "home", "srv", "opt"):
            (self.root / name).mkdir(parents=True)
        for name, mode in (("tmp", 0o1777), ("root", 0o700)):
            (self.root / name).mkdir()
            (self.root / name).chmod(mode)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path(f"/{name}").exists():
                (self.root / name).symlink_to(f"usr/{name}")
        for name in ETC:
            source = Path("/etc") / name
            if source.is_dir():
                shutil.copytree(source, self.root / "etc" / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, self.root / "etc" / name)
        etc = self.root / "etc"
        (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")  # so that this is no first boot
        (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")
        (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
        (etc / "systemd/system").mkdir(parents=True)
        (etc / "systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
        binds = [f"--bind-ro={REPO}:{SOURCE}"]
        for folder in Path("/usr").iterdir():  # /usr/local is where install writes
            if folder.is_dir() and not folder.is_symlink() and folder.name not in ("local", "src", "include", "games"):
                binds.append(f"--bind-ro={folder}")
            elif folder.is_symlink():
                (self.root / "usr" / folder.name).symlink_to(os.readlink(folder))
        base = sys.base_prefix
        if not Path(base).is_relative_to("/usr") or Path(base).is_relative_to("/usr/local"):
            binds.append(f"--bind-ro={os.path.realpath(base)}:{PYTHON_AT}")
            base = PYTHON_AT
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        venv = self.root / VENV[1:]
        packages = venv / f"lib/{name}/site-packages"
        (venv / "bin").mkdir(parents=True)
        packages.mkdir(parents=True)
        (venv / "pyvenv.cfg").write_text(f"home = {base}/bin\ninclude-system-site-packages = false\n")
        (venv / "bin/python").symlink_to(f"{base}/bin/{name}")
        binds.append(f"--bind-ro={os.path.realpath(sysconfig.get_path('purelib'))}:/{packages.relative_to(self.root)}")
        self.environment = {"PYTHONPATH": f"{SOURCE}:{SOURCE}/firmware", "LD_LIBRARY_PATH": f"{base}/lib"}
        install(self.root, f"{VENV}/bin/python")
        self.drop_in("environment", "Environment=" + " ".join(f"{k}={v}" for k, v in self.environment.items()))
        return binds

    def _await_boot(self) -> None:
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                last = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                pytest.skip(f"systemd-nspawn cannot boot a container here: {last[0]}")
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if children:
                self._pid = children[0]
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.1)
        self.end()
        pytest.fail(f"no system in {BOOT_S} s:\n{self.log.read_text(errors='replace')[-2000:]}")

    def run(self, *command: str, check: bool = True, timeout: float = STEP_S) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the container."""
        inside = ["nsenter", "-t", self._pid, "-m", "-u", "-i", "-n", "-p", f"--root=/proc/{self._pid}/root", "--wd=/"]
        env = {
            "PATH": f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment_of(command),
        }
        done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=timeout, env=env)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def environment_of(self, command: tuple[str, ...]) -> dict[str, str]:
        """Return what our interpreter needs, and nothing for systemd's own programs."""
        return self.environment if "python" in command[0] else {}

    def python(self, code: str, timeout: float = STEP_S) -> str:
        """Run Python in the container; return what it printed."""
        return self.run(f"{VENV}/bin/python", "-c", code, timeout=timeout).stdout

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """systemctl VERB UNIT."""
        return self.run("systemctl", *arguments, UNIT, check=check)

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.ctl("show", "--value", "-p", name).stdout.strip()

    def journal(self) -> str:
        """Return what the unit has logged since it was installed."""
        return self.run("journalctl", "-u", UNIT, "-o", "cat", "--no-pager").stdout

    def drop_in(self, name: str, *lines: str) -> None:
        """Write [Service] lines beside the unit; in force with the next daemon-reload. No lines: take them away."""
        file = self.root / f"etc/systemd/system/{UNIT}.d/{name}.conf"
        file.parent.mkdir(exist_ok=True)
        file.write_text("[Service]\n" + "\n".join(lines) + "\n") if lines else file.unlink(missing_ok=True)

    def configure(self, *more: str, mote: Mote, gateway: str = "", nodes: str = "") -> None:
        """Write a configuration with one node, LoRa on port 1700, and the sections of `more`."""
        (self.root / CONFIG).write_text(
            f'[gateway]\nid = "roof"\nstore = "/var/lib/citymote/gateway.db"\n{gateway}\n'
            '[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:1700"\n' + "\n".join(more)
        )
        (self.root / REGISTRY).write_text(
            f'[[node]]\nid = {mote.id}\nname = "n-{mote.id}"\nkey = "{mote.key.hex()}"\n{nodes}'
        )

    def until(self, true: Callable[[], bool], what: str, seconds: float = STEP_S) -> float:
        """Wait until it is so and return for how long; fail with the journal."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if true():
                return time.monotonic() - began
            time.sleep(0.1)
        pytest.fail(
            f"not in {seconds} s: {what}; {self.ctl('status', '--no-pager', check=False).stdout}\n{self.journal()[-3000:]}"
        )

    def end(self) -> None:
        """Kill the container: there is nothing in it to save."""
        if self._pid and self._process.poll() is None:
            self.run("systemctl", "poweroff", "--force", check=False)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)

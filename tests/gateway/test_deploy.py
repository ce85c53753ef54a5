"""What `citymote gateway install` writes: files, modes, owners, the unit's hardening, the broker's templates, and the gateway in that root.

systemd itself does not run here: what it does with the unit (sandbox, StateDirectory, restarts) is judged by its own offline tools, and the
limits that may break a Python (no executable memory, no capabilities, a read-only system, its system calls) are put round the real gateway
by hand.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.install import CONFIG, MANIFEST, REGISTRY, UNIT, InstallError, install, uninstall
from gateway.verbs import check
from gateway.verbs import install as install_verb
from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import REPO, Backend, Concentrator, Mote, until

PYTHON = "/opt/citymote/bin/python"
DEPLOY = REPO / "gateway/deploy"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root (next: run the tests as root, in a container)")


def needs(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(
            f"{program} is not installed (next: apt-get install {'systemd' if 'systemd' in program else program})"
        )
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty image with citymote installed."""
    install(tmp_path / "image", PYTHON)
    return tmp_path / "image"


def files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}


def test_the_unit_is_hardened(root: Path) -> None:
    done = subprocess.run([needs("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(root / UNIT)],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    exposure = float(re.findall(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)[0])
    print(f"exposure {exposure}")
    assert exposure <= 2.0


@as_root
def test_systemd_takes_the_unit_the_user_and_the_folders(root: Path) -> None:
    analyze = needs("systemd-analyze")
    for folder in ("/lib/systemd/system", "/usr/lib/systemd/system"):
        if not (root / folder[1:]).exists() and Path(folder).is_dir():
            shutil.copytree(folder, root / folder[1:], symlinks=True)  # what the image's systemd brings
    for program in (PYTHON, "/bin/kill"):
        (root / program[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", root / program[1:])
    done = subprocess.run(
        [analyze, "verify", f"--root={root}", "citymote-gateway.service"], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in done.stderr.splitlines() if "citymote" in line]
    assert ours == [] and done.returncode == 0, done.stderr
    (root / UNIT).write_text((root / UNIT).read_text().replace("Type=notify", "Tipe=notify"))
    done = subprocess.run(
        [analyze, "verify", f"--root={root}", "citymote-gateway.service"], capture_output=True, text=True, timeout=60
    )
    assert "Tipe" in done.stderr, "this judge can say no"


@as_root
def test_files_modes_and_owners(root: Path) -> None:
    needs("systemd-sysusers")
    uid = user(root)
    seen = {name: (oct(stat.S_IMODE(s.st_mode)), s.st_uid, s.st_gid == uid) for name in
            ("etc/citymote", CONFIG, REGISTRY, "var/lib/citymote", UNIT) if (s := (root / name).stat())}  # fmt: skip
    assert seen == {"etc/citymote": ("0o750", 0, True), CONFIG: ("0o640", 0, True), REGISTRY: ("0o600", uid, True),
                    "var/lib/citymote": ("0o700", uid, True), UNIT: ("0o644", 0, False)}  # fmt: skip
    line = next(text for text in (root / "etc/passwd").read_text().splitlines() if text.startswith("citymote:"))
    assert line.endswith(":/usr/sbin/nologin")


def user(root: Path) -> int:
    line = next(text for text in (root / "etc/passwd").read_text().splitlines() if text.startswith("citymote:"))
    return int(line.split(":")[2])


def test_the_first_configuration_is_sound_and_keeps_its_store_where_the_unit_may_write(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root / CONFIG, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["store"] == "/var/lib/citymote/gateway.db"
    assert (
        "ExecStart=/opt/citymote/bin/python -m gateway run --config /etc/citymote/gateway.toml"
        in (root / UNIT).read_text()
    )
    assert "@" not in (root / UNIT).read_text().replace("@system-service", "").replace("@privileged", "").replace(
        "@resources", ""
    )


def test_installing_again_updates_what_is_ours_and_touches_no_configuration(root: Path) -> None:
    (root / CONFIG).write_text("# mine")
    (root / UNIT).write_text("# old")
    done = install(root, PYTHON)
    assert (root / CONFIG).read_text() == "# mine" and "[Service]" in (root / UNIT).read_text()
    assert done.kept == [f"/{CONFIG}", f"/{REGISTRY}"]


def test_uninstall_takes_what_it_brought_and_leaves_keys_readings_and_what_was_changed(root: Path) -> None:
    store = root / "var/lib/citymote/gateway.db"
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text("readings")
    (root / REGISTRY).write_text("keys")
    acl = root / "usr/local/share/citymote/mosquitto/citymote.acl"
    acl.write_text("mine")
    before = files(root)
    assert uninstall(root, dry_run=True).removed and files(root) == before
    done = uninstall(root)
    left = {name for name in files(root) if "citymote" in name}
    assert left == {CONFIG, REGISTRY, "var/lib/citymote/gateway.db", str(acl.relative_to(root))}
    assert store.read_text() == "readings" and f"/{acl.relative_to(root)}" in done.kept
    with pytest.raises(InstallError, match="nothing is known"):
        uninstall(root)


def test_what_is_in_the_way_is_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / UNIT
    foreign.parent.mkdir(parents=True)
    foreign.write_text("somebody's")
    before = files(tmp_path)
    with pytest.raises(InstallError, match="not of citymote's making"):
        install(tmp_path, PYTHON)
    foreign.unlink()
    foreign.symlink_to("/etc/passwd")
    with pytest.raises(InstallError, match="not of citymote's making"):
        install(tmp_path, PYTHON)
    assert files(tmp_path) == before
    for python in ("/home/a/venv/bin/python", "/root/x/python", "/tmp/venv/bin/python", "python3"):
        assert install_verb(tmp_path / "other", python, False, True) == 1
        assert json.loads(capsys.readouterr().out)["hint"]
    assert not (tmp_path / "other").exists()
    assert install(tmp_path / "dry", PYTHON, dry_run=True).wrote and not (tmp_path / "dry").exists()
    (tmp_path / "broken" / MANIFEST).parent.mkdir(parents=True)
    (tmp_path / "broken" / MANIFEST).write_text("{")
    with pytest.raises(InstallError, match="cannot be read"):
        install(tmp_path / "broken", PYTHON)


# the gateway in that root

INSIDE = """\
set -e
mount --make-rprivate /
mount --rbind "$ROOT" "$AT"
for d in $BINDS; do mount --rbind "$d" "$AT$d"; mount -o remount,bind,ro "$AT$d"; done
mount -o remount,bind,ro "$AT"
mount --bind "$ROOT/var/lib/citymote" "$AT/var/lib/citymote"
mount --bind "$ROOT/run" "$AT/run"
cd "$AT"
exec chroot "$AT" /usr/bin/setpriv --reuid=citymote --regid=citymote --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
  $TRACE "$PYTHON" -c "$LAUNCH"
"""
LAUNCH = """\
import ctypes, os, sys
os.umask(0o077)
os.chdir("/var/lib/citymote")
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: MemoryDenyWriteExecute
    sys.exit("no PR_SET_MDWE: " + os.strerror(ctypes.get_errno()))
os.execv(sys.executable, [sys.executable, *ARGUMENTS])
"""
ARGUMENTS = ["-m", "gateway", "run", "--config", "/etc/citymote/gateway.toml"]


class Jail:
    """A process in the installed root, as its user, with nothing writable but the store's folder, and no executable memory to be had."""

    def __init__(self, root: Path, work: Path, arguments: list[str], trace: str = "") -> None:
        at = work / f"at-{secrets.token_hex(3)}"
        at.mkdir()
        binds = ["/usr", *dict.fromkeys(os.path.realpath(p) for p in (sys.base_prefix, sys.prefix, REPO))]
        for folder in binds:
            (root / folder[1:]).mkdir(parents=True, exist_ok=True)
        link = Path(sys.executable)
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path(f"/{name}").is_symlink() and not (root / name).exists():
                (root / name).symlink_to(f"usr/{name}")
        for folder in ("run", "dev", "proc", "tmp"):
            (root / folder).mkdir(exist_ok=True)
        (root / "run").chmod(0o777)
        prefix = os.path.realpath(sys.prefix)
        python = f"{prefix}/bin/{link.name}"
        told = root / "run/notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(told))
        told.chmod(0o777)
        self.notify.settimeout(120)
        self.log = work / f"{at.name}.log"
        env = {
            "PATH": os.environ["PATH"], "ROOT": str(root), "AT": str(at), "BINDS": " ".join(binds), "PYTHON": python, "TRACE": trace,
            "LAUNCH": LAUNCH.replace("ARGUMENTS", repr(arguments)), "PYTHONPATH": f"{REPO}:{REPO}/firmware",
            "PYTHONDONTWRITEBYTECODE": "1", "NOTIFY_SOCKET": "/run/notify",
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", INSIDE], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def ready(self) -> None:
        """Wait for READY=1."""
        try:
            assert b"READY=1" in self.notify.recv(4096)
        except TimeoutError:
            pytest.fail(f"not ready:\n{self.log.read_text()[-3000:]}")

    def end(self, timeout: float = 40) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self.notify.close()


@pytest.fixture
def short() -> Iterator[Path]:
    """A short path, since a socket's may have 107 bytes, and one that other users may walk."""
    folder = Path("/tmp") / f"cm-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def ready_root(folder: Path, broker: BrokerAddress, m: Mote) -> tuple[Path, int]:
    """Install, and configure as an operator would: one node, the broker, a free port."""
    for program in ("unshare", "setpriv", "systemd-sysusers", "systemd-tmpfiles"):
        needs(program)
    root = folder / "image"
    install(root, PYTHON)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config, registry = root / CONFIG, root / REGISTRY
    text = config.read_text().replace("127.0.0.1:1700", f"127.0.0.1:{port}", 1)
    head, city = text.split("[output.city]")
    config.write_text(head + "[output.city]" + city.replace("127.0.0.1:1883", f"127.0.0.1:{broker.port}", 1))
    registry.write_text(f'[[node]]\nid = {m.id}\nkey = "{m.key.hex()}"\nname = "n-{m.id}"\n')
    return root, port


@as_root
@pytest.mark.slow
def test_it_works_as_its_user_in_the_installed_root_without_executable_memory(
    short: Path, mosquitto: BrokerAddress
) -> None:
    m = Mote(263)
    root, port = ready_root(short, mosquitto, m)
    backend = Backend(mosquitto)
    jail = Jail(root, short, ARGUMENTS)
    jail.ready()
    c = Concentrator(port)
    c.push(m.report(int(time.time()) - 60, [[3, 5, 5, 231, 631, 121]]))
    c.push(m.status({1: 1}))
    assert len(c.pull()) == 1
    backend.wait(lambda: list(backend.packs()) == ["263:0:1"])
    status = Path(f"/proc/{jail.process.pid}/status").read_text()
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M) and re.search(r"^CapBnd:\t0+$", status, re.M)
    assert re.search(rf"^Uid:\t{user(root)}\t", status, re.M)
    maps = Path(f"/proc/{jail.process.pid}/maps").read_text()
    assert not re.search(r"^\S+ .wx", maps, re.M), "no memory is writable and executable"
    assert jail.end() == 0, jail.log.read_text()[-2000:]
    store = root / "var/lib/citymote/gateway.db"
    assert (stat.S_IMODE(store.stat().st_mode), store.stat().st_uid) == (0o600, user(root))
    assert uninstall(root).kept[-1] == "/var/lib/citymote" and store.stat().st_size > 0


@as_root
@pytest.mark.slow
def test_the_jail_is_one(short: Path, mosquitto: BrokerAddress) -> None:
    """What the test above takes for granted: no write beside the store, no executable memory."""
    root, _ = ready_root(short, mosquitto, Mote(263))
    code = (
        "import mmap, os\n"
        "for name in ('/etc/citymote/x', '/usr/x', '/x'):\n"
        "    try: open(name, 'w'); print('wrote', name)\n"
        "    except OSError as e: print(e.errno)\n"
        "open('/var/lib/citymote/x', 'w')\n"
        "try: mmap.mmap(-1, 4096, prot=7); print('mapped')\n"
        "except PermissionError: print('refused')\n"
    )
    jail = Jail(root, short, ["-c", code])
    jail.process.wait(30)
    jail.notify.close()
    assert jail.log.read_text().split() == ["30", "30", "30", "refused"], jail.log.read_text()


@as_root
@pytest.mark.slow
def test_every_system_call_it_makes_is_one_the_unit_allows(short: Path, mosquitto: BrokerAddress) -> None:
    """From start to end, with a reload, a frame and a stop; by strace, against systemd's own lists."""
    strace, analyze = needs("strace"), needs("systemd-analyze")
    m = Mote(263)
    root, port = ready_root(short, mosquitto, m)
    backend = Backend(mosquitto)
    trace = root / "run/trace"
    jail = Jail(root, short, ARGUMENTS, trace=f"{strace} -f -qq -o /run/trace")
    jail.ready()
    c = Concentrator(port)
    c.push(m.report(int(time.time()) - 60, [[3, 5, 5, 231, 631, 121]]))
    c.pull()
    backend.wait(lambda: backend.packs())
    gateway = int(Path(f"/proc/{jail.process.pid}/task/{jail.process.pid}/children").read_text().split()[0])
    os.kill(gateway, signal.SIGHUP)
    assert until(lambda: '"reloaded"' in jail.log.read_text())
    os.kill(gateway, signal.SIGTERM)
    assert jail.process.wait(60) == 0
    jail.notify.close()
    made = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)", trace.read_text(), re.M))

    def names(group: str) -> set[str]:
        out = subprocess.run(
            [analyze, "syscall-filter", group], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        found: set[str] = set()
        for word in re.findall(r"^ {4}([@a-z_0-9-]+)$", out, re.M):
            found |= names(word) if word.startswith("@") else {word}
        return found

    allowed = (names("@system-service") | names("@default")) - names("@privileged") - names("@resources")
    assert len(made) > 30 and len(allowed) > 200
    assert made <= allowed, made - allowed

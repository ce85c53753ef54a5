"""TLS against a real mosquitto, with certificates made here: what is right connects, what is wrong is named and tried again."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway import tls
from tests.gateway.conftest import Mosquitto
from tests.gateway.world import Concentrator, Mote, Process, toml_of, until

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; `file` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._cert = self._sign(name, self._key.public_key(), None, NOW + DAY, authority=True)
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        host: str | None,
        until: datetime.datetime,
        *,
        authority: bool = False,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 3 * DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usages, critical=False)
        if host is not None:
            try:
                alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                alternative = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, host: str | None = None, until: datetime.datetime = NOW + DAY) -> tuple[Path, Path]:
        """Return the files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._sign(name, key.public_key(), host, until)
        crt, pem = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        crt.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return crt, pem


@pytest.fixture
def city(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "city")


Serve = Callable[..., Mosquitto]


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start mosquitto with a certificate; `clients`: the authority whose certificates it demands."""
    running: list[Mosquitto] = []

    def start(certificate: tuple[Path, Path], clients: Path | None = None) -> Mosquitto:
        folder = tmp_path_factory.mktemp("mosquitto-tls")
        for file in (*certificate, clients):
            if file is not None:
                shutil.copy(file, folder)
        m = Mosquitto(folder)
        conf = folder / "mosquitto.conf"
        lines = f"certfile {folder / certificate[0].name}\nkeyfile {folder / certificate[1].name}\n"
        if clients is not None:
            lines += f"cafile {folder / clients.name}\nrequire_certificate true\n"
        conf.write_text(conf.read_text() + lines)
        m.start()
        running.append(m)
        return m

    yield start
    for m in running:
        m.stop()


@pytest.fixture
def start() -> Iterator[Callable[[Path], Process]]:
    running: list[Process] = []

    def make(config: Path) -> Process:
        running.append(Process(config))
        return running[-1]

    yield make
    for p in running:
        p.kill()


def config(folder: Path, plain: Mosquitto, m: Mosquitto, ca: Path, *, host: str = "127.0.0.1", more: str = "") -> Path:
    """A gateway whose link uses the plain broker and whose output the one with TLS."""
    file = toml_of(folder, plain.address, [Mote(263)])
    head, _, _ = file.read_text().partition("[output.city]")
    file.write_text(f'{head}[output.city]\nkind = "mqtt"\nbroker = "{host}:{m.address.port}"\nca_file = "{ca}"\n{more}')
    return file


def subscribed(m: Mosquitto, ca: Path, *more: str) -> bytes:
    """What mosquitto_sub, an independent client, finds retained."""
    program = shutil.which("mosquitto_sub")
    if program is None:
        pytest.skip("mosquitto_sub is not installed (next: apt-get install mosquitto-clients)")
    done = subprocess.run(
        [program, "-h", "127.0.0.1", "-p", str(m.address.port), "--cafile", str(ca), "-t", "city/v1/gw/gw-1/state", "-C", "1", "-W", "10", *more],
        capture_output=True, timeout=30,
    )  # fmt: skip
    return done.stdout.strip()


def unreachable(p: Process) -> list[dict[str, str]]:
    return [line for line in p.lines() if line["event"] == "output_unreachable"]


def test_a_broker_with_the_right_certificate_is_used(
    tmp_path: Path, broker: Mosquitto, city: Authority, serve: Serve, start: Callable[[Path], Process]
) -> None:
    m = serve(city.issue("broker", "127.0.0.1"))
    p = start(config(tmp_path, broker, m, city.file))
    assert subscribed(m, city.file) == b"online"
    assert unreachable(p) == []
    assert p.stop() == 0
    assert subscribed(m, city.file) == b"offline"


def test_our_own_certificate_is_shown_where_the_broker_asks_for_one(
    tmp_path: Path, broker: Mosquitto, city: Authority, serve: Serve, start: Callable[[Path], Process]
) -> None:
    m = serve(city.issue("broker", "127.0.0.1"), city.file)
    crt, key = city.issue("gateway")
    p = start(config(tmp_path, broker, m, city.file, more=f'cert_file = "{crt}"\nkey_file = "{key}"\n'))
    assert subscribed(m, city.file, "--cert", str(crt), "--key", str(key)) == b"online"
    assert p.stop() == 0
    p = start(
        config(
            tmp_path, broker, m, city.file, more="# no certificate: meant, so that the file is not one that was cut\n"
        )
    )
    assert until(lambda: bool(unreachable(p)))
    assert "cert_file and key_file" in unreachable(p)[0]["next"]


@pytest.mark.parametrize(
    ("case", "says", "advice"),
    [
        ("another authority", "unable to get local issuer certificate", "ca_file"),
        ("another host", "Hostname mismatch", "as the certificate names it"),
        ("another address", "IP address mismatch", "host name that the certificate is for"),
        ("expired", "certificate has expired", "renew"),
        ("no TLS there", "", "speak TLS"),
    ],
)
def test_a_wrong_certificate_is_named_with_advice_and_tried_again(
    tmp_path: Path,
    broker: Mosquitto,
    city: Authority,
    serve: Serve,
    start: Callable[[Path], Process],
    case: str,
    says: str,
    advice: str,
) -> None:
    host = "localhost" if case == "another host" else "127.0.0.1"
    name = {"another host": "broker.example", "another address": "broker.example"}.get(case, "127.0.0.1")
    crt = city.issue("broker", name, NOW - DAY if case == "expired" else NOW + DAY)
    m = broker if case == "no TLS there" else serve(crt)
    ca = Authority(tmp_path, "stranger").file if case == "another authority" else city.file
    p = start(config(tmp_path, broker, m, ca, host=host))
    assert until(lambda: len(unreachable(p)) >= 2), "it goes on trying"
    for line in unreachable(p):
        assert says in line["error"] and advice in line["next"], line
    assert "Traceback" not in p.log.read_text()


def test_a_renewed_certificate_is_taken_without_a_restart(
    tmp_path: Path, broker: Mosquitto, city: Authority, serve: Serve, start: Callable[[Path], Process]
) -> None:
    m = serve(city.issue("broker", "127.0.0.1"))
    ca = tmp_path / "ca.pem"
    shutil.copy(Authority(tmp_path, "old").file, ca)
    p = start(config(tmp_path, broker, m, ca))
    assert until(lambda: bool(unreachable(p)))
    shutil.copy(city.file, ca)
    assert subscribed(m, city.file) == b"online"


def test_files_of_ours_that_do_not_work_are_named(tmp_path: Path, city: Authority) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("hello")
    with pytest.raises(tls.TlsError, match="ca_file .*nonsense.pem") as e:
        tls.context(nonsense)
    assert "PEM" in e.value.hint
    crt, _ = city.issue("one")
    _, key = city.issue("two")
    with pytest.raises(tls.TlsError, match="cert_file .*one.crt with key_file .*two.key") as e:
        tls.context(city.file, crt, key)
    assert "belong together" in e.value.hint


def test_acknowledgements_that_arrive_in_one_tls_record_are_all_read(
    tmp_path: Path, broker: Mosquitto, city: Authority, serve: Serve, start: Callable[[Path], Process]
) -> None:
    """What was decrypted with an earlier packet makes no socket readable; it must not wait for the next one."""
    m, mote = serve(city.issue("broker", "127.0.0.1")), Mote(263)
    file = config(tmp_path, broker, m, city.file)
    (tmp_path / "nodes.toml").write_text(
        (tmp_path / "nodes.toml").read_text().replace(file_key(tmp_path), mote.key.hex())
    )
    p = start(file)
    c = Concentrator(p.port)
    for n in range(60):
        c.push(mote.report(int(time.time()) - 9000 + 120 * n, [[3, 5, 5, 231, 631, 121]]))
    c.pull()
    began = time.monotonic()
    assert p.stop() == 0 and time.monotonic() - began < 10
    log = p.lines()
    assert not [line for line in log if line["event"] == "not_drained"]
    assert log[-1]["totals"]["messages"] >= 60 * 7
    c.close()


def file_key(folder: Path) -> str:
    """The key in nodes.toml."""
    return (folder / "nodes.toml").read_text().partition('key = "')[2].partition('"')[0]

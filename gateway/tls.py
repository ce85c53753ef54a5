"""TLS to brokers: one context for MQTT and HTTP, and errors in words an operator can act on.

The other side's certificate must be signed by ca_file's authority, be in its dates, and name the host as it is written in the
configuration. There is no switch to go without any of that.
"""

from __future__ import annotations

import ssl
from pathlib import Path

_ADVICE = (  # part of OpenSSL's text -> what to do
    ("Hostname mismatch", "write the host in the configuration as the certificate names it, or have the certificate reissued"),
    ("IP address mismatch", "write the host name that the certificate is for, not an address, or have the certificate reissued"),
    ("certificate has expired", "renew the other side's certificate, and compare this machine's clock"),
    ("certificate is not yet valid", "compare this machine's clock with the dates in the other side's certificate"),
    ("self-signed certificate", "point ca_file at the authority that signed the other side's certificate"),
    ("unable to get local issuer", "point ca_file at the authority that signed the other side's certificate"),
    ("CERTIFICATE_REQUIRED", "the other side wants our certificate: set cert_file and key_file"),
    ("HANDSHAKE_FAILURE", "the other side refuses us: it may want another client certificate (cert_file, key_file)"),
    ("UNKNOWN_CA", "the other side does not know who signed our cert_file"),
    ("CERTIFICATE_EXPIRED", "our cert_file has expired: renew it"),
    ("WRONG_VERSION_NUMBER", "this port does not speak TLS: use the TLS port, or remove ca_file"),
    ("UNEXPECTED_EOF", "the other side closed the connection: it may want a client certificate, or not speak TLS on this port"),
)  # fmt: skip


class TlsError(OSError):
    """Our own files do not work; `hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def context(ca_file: Path, cert_file: Path | None = None, key_file: Path | None = None) -> ssl.SSLContext:
    """Return a client context that trusts ca_file alone, TLS 1.2 or newer. Raises TlsError naming the file that does not work."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_verify_locations(str(ca_file))
    except (OSError, ssl.SSLError) as e:
        raise TlsError(
            f"ca_file {ca_file}: {_words(e)}", "give it PEM certificates (-----BEGIN CERTIFICATE-----)"
        ) from e
    if cert_file is not None:
        try:
            made.load_cert_chain(str(cert_file), str(key_file) if key_file else None)
        except (OSError, ssl.SSLError) as e:
            raise TlsError(
                f"cert_file {cert_file} with key_file {key_file}: {_words(e)}",
                "give PEM files that belong together, readable for the gateway's user, the key without a passphrase",
            ) from e
    return made


def explain(error: BaseException) -> tuple[str, str]:
    """Return what went wrong and what to do next, "" where we know no advice."""
    text = _words(error)
    if isinstance(error, TlsError):
        return text, error.hint
    if isinstance(error, ConnectionResetError):
        return (
            text,
            "the other side ended it in the middle: it may not speak TLS on this port, or want cert_file and key_file",
        )
    shown = f"{text} {getattr(error, 'reason', None) or ''}"
    return text, next((hint for part, hint in _ADVICE if part.lower() in shown.lower()), "")


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

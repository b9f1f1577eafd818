"""The socket that a server listens on, and its certificate.

Owns what can be checked before anything heavy is loaded, so that a taken port or a wrong certificate fails at once.
Knows no HTTP. Invariant: a socket that was returned belongs to this process.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import RequestError


@dataclass(frozen=True)
class Tls:
    """A certificate chain and its key, in PEM."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raises `RequestError` unless both can be read and belong together."""
        import ssl  # noqa: PLC0415  (only where a certificate is used)

        def no_password() -> str:
            raise RequestError(f"the key {self.key} has a password: store one without")

        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password=no_password)
        except OSError as error:  # of which ssl.SSLError is one
            reason = error.strerror or str(error)
            raise RequestError(
                f"cannot use the certificate {self.certificate} with the key {self.key}: {reason}. "
                "Both are PEM files, and the key is the certificate's own"
            ) from error


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket, not listening yet; port 0 takes a free one. Raises `RequestError`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
        except BaseException:
            opened.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(
            f"cannot listen on {host} port {port}: {reason}. Choose others with --host and --port"
        ) from error
    return opened


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on that host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(opened: socket.socket, host: str, tls: Tls | None) -> str:
    """Return the address to call it at; a server on all interfaces is named by its loopback."""
    port = opened.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"

"""A direct connection between the process that has requests and a replica on any machine.

Owns the listening socket of a replica, the proof that both ends know the replica's secret, and TLS. Knows no Ray: who
connects gets `Place` by a way that it trusts already. Invariants: nothing is read as a message before both proofs hold;
the secret itself never crosses; each connection has nonces of its own, so that a proof serves once.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from miaotui.cluster.transport.calls import Calls
from miaotui.cluster.transport.lines import LINE_BYTES
from miaotui.cluster.transport.served_calls import ServedCalls
from miaotui.cluster.transport.served_replica import ServedReplica
from miaotui.errors import ReplicaLostError, RequestError

NONCE_BYTES = PROOF_BYTES = 32
CONNECTED_S = 10.0  # that a connection and its proofs may take
MOST_CONNECTIONS = 256  # of one replica


@dataclass(frozen=True)
class Place:
    """An address at which a replica listens, and the secret that both ends prove to know."""

    host: str
    port: int
    secret: str

    @staticmethod
    def read(values: Mapping[str, Any]) -> Place:
        """Return the place of plain values. Raises `RequestError`."""
        host, port, secret = values.get("host"), values.get("port"), values.get("secret")
        if not (isinstance(host, str) and isinstance(port, int) and isinstance(secret, str) and len(secret) >= 32):
            raise RequestError("a replica named no place at which it listens: use one version of miaotui everywhere")
        return Place(host, port, secret)


class ReplicaServer:
    """The listening end: a replica that answers whoever knows its secret."""

    def __init__(self, replica: ServedReplica, tls: ssl.SSLContext | None = None) -> None:
        self._replica, self._tls = replica, tls
        self._secret = secrets.token_hex(32)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()

    async def start(self, host: str) -> Place:
        """Listen at a free port of ``host``."""
        self._server = await asyncio.start_server(self._serve, host, 0, ssl=self._tls, limit=LINE_BYTES)
        return Place(host, self._server.sockets[0].getsockname()[1], self._secret)

    async def close(self) -> None:
        """Listen no more, and cancel the calls under way."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this in a task"
        try:
            if len(self._connections) >= MOST_CONNECTIONS:
                return
            self._connections.add(task)
            if await asyncio.wait_for(_prove_to_caller(reader, writer, self._secret), CONNECTED_S):
                await ServedCalls(self._replica, writer).run(reader)
        except (OSError, EOFError, ValueError, KeyError, TypeError, asyncio.TimeoutError):
            pass  # it went away, or is none of ours
        except asyncio.CancelledError:
            pass  # the replica closes; asyncio would log it
        finally:
            self._connections.discard(task)
            writer.close()


async def connect(place: Place, name: str, tls: ssl.SSLContext | None = None) -> Calls:
    """Connect to a replica. Raises `ReplicaLostError` where it cannot be reached, or does not know the secret."""
    where = f"the replica {name} at {place.host}:{place.port}"
    try:
        opening = asyncio.open_connection(place.host, place.port, ssl=tls, limit=LINE_BYTES)
        reader, writer = await asyncio.wait_for(opening, CONNECTED_S)
    except (OSError, asyncio.TimeoutError) as error:
        reason = str(error) or "no answer"
        raise ReplicaLostError(f"{where} cannot be reached ({reason}): let machines of the cluster connect") from error
    try:
        if await asyncio.wait_for(_prove_to_replica(reader, writer, place.secret), CONNECTED_S):
            return Calls(reader, writer, where)
    except (OSError, EOFError, asyncio.TimeoutError) as error:
        writer.close()
        raise ReplicaLostError(f"{where} ended the connection") from error
    except BaseException:
        writer.close()
        raise
    writer.close()
    raise ReplicaLostError(f"{where} does not know the secret that it told: another process listens there")


async def _prove_to_caller(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> bool:
    """Send a nonce, check the caller's proof, and prove the same; False for a wrong one."""
    mine = secrets.token_bytes(NONCE_BYTES)
    writer.write(mine)
    theirs = await reader.readexactly(NONCE_BYTES)
    if not hmac.compare_digest(await reader.readexactly(PROOF_BYTES), _proof(secret, b"caller", mine + theirs)):
        return False
    writer.write(_proof(secret, b"replica", theirs + mine))
    await writer.drain()
    return True


async def _prove_to_replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str) -> bool:
    """Prove to a replica that this end knows the secret, and check its proof; False for a wrong one."""
    theirs, mine = await reader.readexactly(NONCE_BYTES), secrets.token_bytes(NONCE_BYTES)
    writer.write(mine + _proof(secret, b"caller", theirs + mine))
    return hmac.compare_digest(await reader.readexactly(PROOF_BYTES), _proof(secret, b"replica", mine + theirs))


def _proof(secret: str, role: bytes, nonces: bytes) -> bytes:
    return hmac.digest(secret.encode(), role + nonces, "sha256")


def tls_of_ray(*, listens: bool) -> ssl.SSLContext | None:
    """Return TLS with the certificates that Ray uses between nodes (``RAY_USE_TLS``); None where it uses none.

    Both ends show a certificate of the common authority, as Ray's own ports ask. Raises `RequestError`.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    certificate, key, authority = (os.environ.get(name) for name in names)
    if certificate is None or key is None or authority is None:
        raise RequestError(f"RAY_USE_TLS is set, so {', '.join(names)} must name files")
    purpose = ssl.Purpose.CLIENT_AUTH if listens else ssl.Purpose.SERVER_AUTH
    try:
        context = ssl.create_default_context(purpose, cafile=authority)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise RequestError(f"the certificates of RAY_USE_TLS cannot be used: {error}") from error
    context.check_hostname = False  # replicas are known by the authority and the secret, not by names of machines
    context.verify_mode = ssl.CERT_REQUIRED
    return context

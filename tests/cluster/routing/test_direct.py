"""Direct connections to replicas: calls side by side, and nobody without the secret."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from miaotui.cluster.replica import Replica
from miaotui.cluster.transport.calls import Calls
from miaotui.cluster.transport.direct import Place, ReplicaServer, connect, tls_of_ray
from miaotui.errors import ReplicaLostError, RequestError

LONG = "x" * 300_000  # longer than a stream's usual limit


class ScriptedReplica:
    """Answers ``count`` pieces and then waits, or ends; notes what was asked and what was left early."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.left = asyncio.Event()

    def describe(self) -> dict[str, Any]:
        self.asked.append("describe")
        return {"digest": LONG}

    def report(self) -> dict[str, Any]:
        self.asked.append("report")
        return {"healthy": True}

    async def answer(self, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.asked.append(message)
        try:
            for number in range(message["count"]):
                yield {"tokens": [number], "text": message["text"]}
                await asyncio.sleep(0)
            if message["waits"]:
                await asyncio.sleep(60)
            yield {"end": "stop"}
        finally:
            if message["waits"]:
                self.left.set()


def served(work: Callable[[Place, ScriptedReplica], Coroutine[Any, Any, None]], **tls: Any) -> None:
    """Run ``work`` with the place of a listening replica."""

    async def run() -> None:
        replica = ScriptedReplica()
        server = ReplicaServer(cast("Replica", replica), **tls)
        place = await server.start("127.0.0.1")
        try:
            await asyncio.wait_for(work(place, replica), 20)
        finally:
            await server.close()

    asyncio.run(run())


async def pieces_of(calls: Calls, **message: Any) -> list[Any]:
    async with aclosing(calls.answer({"waits": False, "text": "", **message})) as pieces:
        return [piece async for piece in pieces]


def test_calls_run_side_by_side_and_leaving_cancels() -> None:
    async def work(place: Place, replica: ScriptedReplica) -> None:
        calls = await connect(Place.read({**vars(place)}), "one")
        answers = [pieces_of(calls, count=count, text=LONG) for count in (3, 0, 7)]
        described, reported, *found = await asyncio.gather(calls.describe(), calls.report(), *answers)
        assert described == {"digest": LONG}
        assert reported == {"healthy": True}
        for count, pieces in zip((3, 0, 7), found, strict=True):
            assert pieces == [{"tokens": [n], "text": LONG} for n in range(count)] + [{"end": "stop"}]
        async with aclosing(calls.answer({"count": 1, "waits": True, "text": ""})) as left:
            assert await anext(left) == {"tokens": [0], "text": ""}
        await replica.left.wait()
        assert calls.in_flight == 0
        await calls.close()

    served(work)


def test_a_call_that_comes_twice_is_answered_once() -> None:
    async def work(place: Place, replica: ScriptedReplica) -> None:
        calls = await connect(place, "one")
        line = calls._lines.written(
            {"number": 77, "call": "answer", "message": {"count": 1, "waits": True, "text": ""}}
        )
        calls._writer.write(line + line)
        assert await calls.describe() == {"digest": LONG}
        assert [each for each in replica.asked if each != "describe"] == [{"count": 1, "waits": True, "text": ""}]
        await calls.close()

    served(work)


@pytest.mark.parametrize("end", ["abandon", "close"])
def test_calls_that_wait_end_with_the_connection(end: str) -> None:
    async def work(place: Place, replica: ScriptedReplica) -> None:
        calls = await connect(place, "one")
        pieces = calls.answer({"count": 1, "waits": True, "text": ""})
        await anext(pieces)
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        if end == "abandon":
            calls.abandon()
        else:
            await calls.close()
        with pytest.raises(ReplicaLostError, match="can no longer be reached"):
            await waiting
        with pytest.raises(ReplicaLostError):
            await calls.describe()
        await replica.left.wait()

    served(work)


def test_nothing_is_asked_without_the_secret() -> None:
    async def work(place: Place, replica: ScriptedReplica) -> None:
        for wrong in ("0" * 64, place.secret.upper()):
            with pytest.raises(ReplicaLostError, match="ended the connection"):
                await connect(replace(place, secret=wrong), "one")
        recorded = await asyncio.open_connection(place.host, place.port)
        nonce = await recorded[0].readexactly(32)
        for sent in (b'{"number": 1, "call": "describe"}\n' * 4, nonce + bytes(32)):  # no proof, and a guessed one
            reader, writer = await asyncio.open_connection(place.host, place.port)
            writer.write(sent)
            assert len(await reader.read()) == 32, "its nonce and no more"
            writer.close()
        recorded[1].close()
        assert replica.asked == []

    served(work)


def test_another_process_at_the_place_is_found_out() -> None:
    async def work(place: Place, replica: ScriptedReplica) -> None:
        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(bytes(32))
            await reader.readexactly(64)
            writer.write(bytes(32))
            writer.close()

        server = await asyncio.start_server(impostor, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ReplicaLostError, match="another process listens there"):
            await connect(replace(place, port=port), "one")
        server.close()
        with pytest.raises(ReplicaLostError, match="cannot be reached"):
            await connect(replace(place, port=port), "one")

    served(work)


@pytest.mark.parametrize("sent", [b"{]\n", b"[1]\n", b'{"number": []}\n', b'{"piece": 1}\n', b'{"number": 0, "pie'])
def test_lines_that_are_none_end_the_connection(sent: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(sent)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        calls = Calls(*await asyncio.open_connection(*server.sockets[0].getsockname()), "the replica one")
        with pytest.raises(ReplicaLostError, match="the replica one has ended"):
            await asyncio.wait_for(calls.describe(), 10)
        assert calls.is_lost
        await calls.close()
        server.close()

    asyncio.run(run())


def test_a_place_is_checked() -> None:
    for wrong in ({}, {"host": 1, "port": 2, "secret": "0" * 64}, {"host": "a", "port": 1, "secret": "short"}):
        with pytest.raises(RequestError, match="one version"):
            Place.read(wrong)


def test_connections_use_rays_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tls_of_ray(listens=True) is None
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(RequestError, match="must name files"):
        tls_of_ray(listens=True)
    certificate, key = _certificate(tmp_path)
    for name in ("SERVER_CERT", "CA_CERT"):
        monkeypatch.setenv(f"RAY_TLS_{name}", str(certificate))
    monkeypatch.setenv("RAY_TLS_SERVER_KEY", str(key))

    async def work(place: Place, replica: ScriptedReplica) -> None:
        calls = await connect(place, "one", tls_of_ray(listens=False))
        assert await calls.report() == {"healthy": True}
        await calls.close()
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(b"without TLS\n" * 8)
        assert len(await reader.read()) < 32, "no nonce: at most TLS's own refusal"
        writer.close()
        assert replica.asked == ["report"]

    served(work, tls=tls_of_ray(listens=True))


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  (as above)
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  (as above)

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cluster")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, key

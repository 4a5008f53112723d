"""The client over real gRPC, against the model grid behind a real server on a free port."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tidegrid.client import TlsOptions, connect
from tidegrid.grid.model.errors import ConfigurationError, DeadlineError, PeerError, UnavailableError
from tidegrid.v1 import control_pb2, grid_pb2_grpc

from tests.unit.client.fake_grid import FakeGrid


class Served(FakeGrid):
    """A model grid of one node whose address is a real one."""

    port = 0

    def member(self, node: int) -> control_pb2.Member:
        return control_pb2.Member(node=node, incarnation=1, address=f"localhost:{self.port}")


class Servicer(grid_pb2_grpc.GridServicer):
    def __init__(self, fake: FakeGrid) -> None:
        self.fake = fake
        self.transport = fake.transport()

    async def Hello(self, request: Any, context: Any) -> Any:
        return await self.transport.hello("node0:1", request, 1)

    async def Exchange(self, requests: Any, context: Any) -> Any:
        exchange = self.transport.exchange(control_pb2.Member(node=0))

        async def pump() -> None:
            async for request in requests:
                await exchange.send(request)

        pumping = asyncio.ensure_future(pump())
        try:
            while True:
                try:
                    yield await exchange.receive()
                except UnavailableError:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the node goes away")
        finally:
            pumping.cancel()

    async def Subscribe(self, request: Any, context: Any) -> Any:
        feed = self.transport.subscribe(control_pb2.Member(node=0), request)
        try:
            async for message in feed:
                yield message
        except UnavailableError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node goes away")
        finally:
            feed.cancel()

    async def Scan(self, request: Any, context: Any) -> Any:
        return await self.transport.call(control_pb2.Member(node=0), "Scan", request, 1)

    async def WaitEpoch(self, request: Any, context: Any) -> Any:
        await asyncio.Event().wait()  # it never closes


@asynccontextmanager
async def served(fake: Served, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    grid_pb2_grpc.add_GridServicer_to_server(Servicer(fake), server)  # type: ignore[no-untyped-call]
    address = f"localhost:{fake.port}"
    fake.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"localhost:{fake.port}"
    finally:
        await server.stop(None)


@pytest.fixture
def fake() -> Served:
    made = Served()
    made.add_map("m")
    return made


async def test_everything_over_grpc(fake: Served) -> None:
    async with served(fake) as address, connect(address) as grid:
        m = grid.map("m")
        outcomes = await m.put_many((index, {"n": index}) for index in range(5_000))
        assert len(outcomes) == len(fake.applied) == 5_000
        await asyncio.gather(*(m.put(index, 0) for index in range(100)))
        fake.tick()
        entry = await m.get(7)
        assert entry is not None and entry.value == 0
        assert [entry.key[0] async for entry in m.scan()] == list(range(5_000))
        got = 0
        async with m.subscribe(after=0) as feed:
            async for batch in feed:
                got += len(batch)
                if got == 5_100:
                    break
        fake.lose_answers = 2
        assert (await m.put("lost", 1)).repeated
        with pytest.raises(DeadlineError, match="did not answer"):
            await grid.wait_closed(10**6, deadline=0.1)


async def test_nothing_listens(fake: Served) -> None:
    async with served(fake) as address:
        pass
    with pytest.raises(UnavailableError, match=f"nothing answers at {address}; start a node with `tidegrid serve`"):
        async with connect(address, deadline=0.2):
            pass


async def test_an_address_that_leads_nowhere() -> None:
    with pytest.raises(
        UnavailableError, match=r"the address localhost:port leads nowhere: .*; check the name and the port"
    ):
        async with connect("localhost:port", deadline=0.2):
            pass


async def test_the_server_restarts(fake: Served) -> None:
    async with served(fake) as address:
        context = connect(address)
        grid = await context.__aenter__()
        m = grid.map("m")
        await m.put(1, 1)
        feed = await m.subscribe(after=0).__aenter__()
    put = asyncio.ensure_future(m.put(2, 2))
    with pytest.raises((UnavailableError, DeadlineError)):  # it may have gone out on the dying stream
        await m.put(3, 3, deadline=0.2)
    with pytest.raises((UnavailableError, DeadlineError), match="not stored"):  # between two attempts to reconnect
        await m.put(4, 4, deadline=0.2)
    async with served(fake):
        assert (await put).version == 1
        fake.tick()
        assert len(await anext(feed)) == 2
        await feed.close()
        await context.__aexit__(None, None, None)


async def test_what_answers_is_no_grid() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("localhost:0")
    await server.start()
    with pytest.raises(UnavailableError, match="no Tidegrid node"):
        async with connect(f"localhost:{port}", deadline=0.2):
            pass
    await server.stop(None)


def pem(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CA, and a certificate for localhost that it signed, used by both sides."""
    folder = tmp_path_factory.mktemp("tls")
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    files = {}
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "node")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in keys}
    for name, key in keys.items():
        builder = (
            x509.CertificateBuilder().subject_name(names[name]).issuer_name(names["ca"]).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        )  # fmt: skip
        certificate = builder.sign(keys["ca"], hashes.SHA256())
        files[name] = pem(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files[f"{name}.key"] = pem(folder / f"{name}.key", secret)
    return files


async def test_tls_and_mtls(fake: Served, tls: dict[str, Path]) -> None:
    pair = [(tls["node.key"].read_bytes(), tls["node"].read_bytes())]
    mutual = grpc.ssl_server_credentials(pair, tls["ca"].read_bytes(), require_client_auth=True)
    async with served(fake, grpc.ssl_server_credentials(pair)) as address:
        async with connect(address, tls=TlsOptions(ca=tls["ca"])) as grid:
            assert (await grid.map("m").put(1, 1)).version == 1
        for wrong in (None, TlsOptions()):
            with pytest.raises(PeerError):
                async with connect(address, deadline=0.3, tls=wrong):
                    pass
    async with served(fake, mutual) as address:
        async with connect(address, tls=TlsOptions(ca=tls["ca"], cert=tls["node"], key=tls["node.key"])) as grid:
            assert (await grid.map("m").put(1, 1)).version == 2
        with pytest.raises(PeerError):
            async with connect(address, deadline=0.3, tls=TlsOptions(ca=tls["ca"])):
                pass


def test_tls_files_that_are_not_there(tls: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"nope.pem"):
        TlsOptions(ca="nope.pem").credentials()
    with pytest.raises(ConfigurationError, match="both"):
        TlsOptions(cert=tls["node"]).credentials()

"""What a real Triton server and its client have of their own: TLS, tokens, and what it says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from service.backends.addresses import Address, Endpoint
from service.backends.base import BackendError
from service.backends.triton import TritonAccess
from service.backends.triton import TritonServer as Connection
from tests.support.listening import RecordingListener
from tests.support.triton_fleet import triton_fleet
from tests.support.triton_server import TritonServer, triton_server

TOKEN = "a-token-of-the-test"
GROUPS = "health,metadata,inference,model-config,model-repository"
RESTRICTED = f"--grpc-restricted-protocol={GROUPS}:authorization=Bearer {TOKEN}"


@pytest.fixture(scope="module")
def secure_triton(tiny_repository, tmp_path_factory):
    """A server that speaks TLS, under a certificate for "triton.test", and wants the token."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no openssl to make a certificate with")
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("secure")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=triton.test", "-addext", "subjectAltName=DNS:triton.test"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    options = (
        *("--", "--grpc-use-ssl=true", f"--grpc-server-cert={certificate}"),
        *(f"--grpc-server-key={key}", RESTRICTED),
    )
    with triton_server(tiny_repository, folder, options=options) as server:
        yield server, certificate


async def resolve_here(_: Address) -> frozenset[str]:
    return frozenset({"127.0.0.1"})


async def test_a_server_with_tls_and_a_token(secure_triton) -> None:
    server, certificate = secure_triton
    url = f"triton.test:{server.ports.grpc}"
    fleet = triton_fleet(
        url, access=TritonAccess(ca_file=certificate, token=TOKEN), resolve=resolve_here
    )
    listener = RecordingListener()
    await fleet.open(listener)
    await listener.until(lambda: bool(fleet.workers))
    assert [artifact.key for artifact in fleet.artifacts] == ["tiny:1"]
    await fleet.close()


def connection(server: TritonServer, access: TritonAccess, name: str = "triton.test") -> Connection:
    return Connection(access, Endpoint(Address("127.0.0.1", server.ports.grpc), name))


@pytest.mark.parametrize("token", ["another", None])
async def test_a_wrong_token_is_named_as_the_reason(secure_triton, token: str | None) -> None:
    server, certificate = secure_triton
    asked = connection(server, TritonAccess(ca_file=certificate, token=token))
    with pytest.raises(BackendError, match="This protocol is restricted"):
        await asked.list_models()
    await asked.close()


async def test_a_certificate_for_another_name_or_of_a_stranger_is_refused(
    secure_triton,
) -> None:
    server, certificate = secure_triton
    for asked in (
        connection(server, TritonAccess(ca_file=certificate, token=TOKEN), "another.test"),
        connection(
            server, TritonAccess(tls=True, token=TOKEN)
        ),  # signed by nobody the system knows
        connection(server, TritonAccess(token=TOKEN)),  # no TLS at all, though to loopback
    ):
        with pytest.raises(BackendError):
            await asked.list_models()
        await asked.close()


async def test_the_token_is_never_sent_in_the_clear_but_to_loopback() -> None:
    access = TritonAccess(token=TOKEN)
    for host in ("127.0.0.1", "127.0.0.7", "::1"):
        assert TOKEN in str(access.headers(Address(host, 1)))
    for host in ("10.0.0.1", "192.168.0.1", "fd00::1", "8.8.8.8"):
        with pytest.raises(BackendError, match="PERCEPT_TRITON_TLS"):
            access.headers(Address(host, 1))
        assert TOKEN in str(TritonAccess(tls=True, token=TOKEN).headers(Address(host, 1)))
        asked = Connection(access, Endpoint(Address(host, 9), "name"))
        for question in (asked.list_models, asked.beat, asked.examine):
            with pytest.raises(BackendError, match="not sent without TLS"):
                await question()
        await asked.close()
    assert TritonAccess().headers(Address("10.0.0.1", 1)) is None


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    here = tmp_path / "file.pem"
    here.touch()
    with pytest.raises(ValueError, match="belong together"):
        TritonAccess(cert_file=here)
    with pytest.raises(ValueError, match="there is no file"):
        TritonAccess(ca_file=tmp_path / "nonesuch.pem")
    assert TritonAccess(cert_file=here, key_file=here).is_secure
    assert TritonAccess(ca_file=here).is_secure
    assert not TritonAccess().is_secure


async def test_what_cannot_be_reached_says_so() -> None:
    asked = Connection(TritonAccess(), Endpoint(Address("127.0.0.1", 1), "127.0.0.1"))
    with pytest.raises(BackendError, match=r"connect|refused|unavailable"):
        await asked.beat()
    await asked.close()

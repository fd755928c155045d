"""Who talks to whom: telemetry under a token and under certificates, the endpoint under TLS; strangers at both."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from edge_fakes import SNAPSHOT, until
from test_site import REMOTE, routed, running, site_config
from test_telemetry import SWAP

from actors.router import Router
from cluster.telemetry.client import TelemetryClient
from cluster.telemetry.server import TelemetryServer
from cluster.telemetry.trust import NOBODY, Trust
from orchestrator.config import default_config
from orchestrator.trust import telemetry_trust
from policies.errors import BadConfig, Unreachable

NOWHERE = "http://127.0.0.1:9/v1"
TOKEN = Trust(token="a-shared-secret")


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own."""

    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate

    @classmethod
    def new(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _signed("authority", key, key, "authority", authority=True))

    def member(self, name: str) -> Trust:
        """The trust of an end that this authority vouches for."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _signed(name, key, self.key, "authority")
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        return Trust(None, self.cert.public_bytes(pem), cert.public_bytes(pem), private)


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: str,
    authority: bool = False,
) -> x509.Certificate:
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, said)]) for said in (name, issuer))
    now = datetime.datetime.now(datetime.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return made.sign(signer, hashes.SHA256())


@asynccontextmanager
async def ends(router: Trust, site: Trust) -> AsyncIterator[tuple[Router, TelemetryClient]]:
    known = Router(SNAPSHOT)
    server = TelemetryServer(known, trust=router)
    client = TelemetryClient(f"127.0.0.1:{await server.start()}", "north", trust=site)
    await client.start()
    try:
        yield known, client
    finally:
        await client.stop()
        await server.stop()


async def heard(client: TelemetryClient) -> object:
    async for directive in client.watch():
        return directive
    return None


VOUCHED = Authority.new()
CERTIFIED = VOUCHED.member("router"), VOUCHED.member("north")


@pytest.mark.parametrize(
    ("router", "site"),
    [(NOBODY, NOBODY), (TOKEN, TOKEN), CERTIFIED, tuple(replace(end, token="t") for end in CERTIFIED)],
)
async def test_ends_that_know_each_other_talk(router: Trust, site: Trust) -> None:
    async with ends(router, site) as (known, client):
        assert await client.probe(100, 100) > 0
        known.publish_swap(SWAP)
        assert await asyncio.wait_for(heard(client), 5.0) is not None


@pytest.mark.parametrize(
    ("router", "site"),
    [
        (TOKEN, NOBODY),
        (TOKEN, Trust(token="another")),
        (CERTIFIED[0], NOBODY),
        (CERTIFIED[0], Authority.new().member("stranger")),
        (Authority.new().member("another router"), CERTIFIED[1]),
        (replace(CERTIFIED[0], token="t"), CERTIFIED[1]),
    ],
)
async def test_strangers_get_no_word(router: Trust, site: Trust) -> None:
    async with ends(router, site) as (known, client):
        known.publish_swap(SWAP)
        with pytest.raises(Unreachable):
            await client.probe(0, 0, timeout_s=2.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(heard(client), 0.5)
        assert known.sites == {}


def test_secrets_are_in_no_repr() -> None:
    assert "a-shared-secret" not in repr(TOKEN)
    assert "PRIVATE" not in repr(CERTIFIED[0])


def written(directory: Path, trust: Trust) -> dict[str, str]:
    files = {}
    for name in ("ca", "cert", "key"):
        (directory / f"{name}.pem").write_bytes(getattr(trust, name))
        files[f"tls_{name}"] = str(directory / f"{name}.pem")
    return files


def test_trust_is_read_from_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_TOKEN", "t")
    telemetry = {**written(tmp_path, CERTIFIED[0]), "token_env": "ROUTER_TOKEN"}
    assert telemetry_trust(default_config(telemetry=telemetry).telemetry) == replace(CERTIFIED[0], token="t")


@pytest.mark.parametrize("missing", ["tls_ca", "tls_cert", "tls_key"])
def test_half_of_a_certificate_is_refused_and_named(tmp_path: Path, missing: str) -> None:
    files = written(tmp_path, CERTIFIED[0])
    del files[missing]
    with pytest.raises(BadConfig, match=rf"telemetry\.{missing}: missing"):
        default_config(telemetry=files)
    with pytest.raises(BadConfig, match=r"site\.tls_key: missing"):
        default_config(site={"tls_cert": "c.pem"})


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    files = written(tmp_path, CERTIFIED[0])
    Path(files["tls_key"]).write_text("hello")
    with pytest.raises(BadConfig, match=r"telemetry\.tls_key: .* no PEM file"):
        telemetry_trust(default_config(telemetry=files).telemetry)
    Path(files["tls_ca"]).unlink()
    with pytest.raises(BadConfig, match=r"telemetry\.tls_ca: .* cannot be read"):
        telemetry_trust(default_config(telemetry=files).telemetry)


async def test_a_site_serves_https_to_whoever_trusts_its_authority(tmp_path: Path) -> None:
    files = written(tmp_path, CERTIFIED[0])
    config = site_config(tmp_path, NOWHERE)
    site = config.site.model_copy(update={"tls_cert": Path(files["tls_cert"]), "tls_key": Path(files["tls_key"])})
    config = config.model_copy(update={"site": site})
    trusting = ssl.create_default_context(cafile=files["tls_ca"])
    async with routed(config) as (_, router), running(config, REMOTE, NOWHERE, router) as up:
        url = up.info()["url"].removesuffix("/v1")
        assert url.startswith("https://")
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            assert (await client.get(f"{url}/readyz")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as stranger:
            with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
                await stranger.get(f"{url}/readyz")
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False) as plain:
                await plain.get(f"{url.replace('https', 'http')}/readyz")
        await until(lambda: up.gauges()["requests_edge"] == 0.0)

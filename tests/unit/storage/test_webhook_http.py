"""Where webhooks may go: what is checked, that the checked address is the one connected to, and how long it may take."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.errors import UserError
from storage import webhook_http
from storage.webhook_http import Endpoints, NotDelivered, is_public
from tests.receiver import Receiver, receiving

PUBLIC = "93.184.215.14"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


def named(*addresses: str) -> Endpoints:
    """As if the name server gave these."""
    return Endpoints(resolve=lambda host, port: list(addresses))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.8", "198.18.0.1", "203.0.113.7", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe", "64:ff9b:1::1",
    ],
)  # fmt: skip
def test_addresses_inside_the_house(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "ftp://example.com", "https://", "https://user:pw@example.com/", "https://example.com/#part", "not a url",
        "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://0/", "https://[::1]/", "https://localhost/",
        "https://169.254.169.254/latest",
        "https://[::ffff:127.0.0.1]/", "https://exa mple.com/",
        "https://" + "a" * 2100 + ".com", "https://nowhere.invalid/", "file:///etc/passwd", "",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_when_it_is_entered(url: str) -> None:
    with pytest.raises(UserError) as refusal:
        Endpoints().check(url)
    assert refusal.value.type == "webhook/url"


def test_a_good_address_is_taken_as_it_is() -> None:
    assert named(PUBLIC).check(" https://hooks.example.com:8443/a?b=c ") == "https://hooks.example.com:8443/a?b=c"


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(NotDelivered, match=r"10\.0\.0\.5, which is not a public address"):
        named(PUBLIC, "10.0.0.5").post("https://hooks.example.com/", {}, b"{}")


def test_an_address_that_was_public_when_it_was_entered_is_checked_again(receiver: Receiver) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    changing = Endpoints(resolve=lambda host, port: next(answers))
    url = changing.check(f"https://hooks.example.com:{receiver.port}/")
    with pytest.raises(NotDelivered, match="not a public address"):
        changing.post(url, {}, b"{}")
    assert receiver.received == []


def test_the_connection_goes_to_the_address_that_was_checked(receiver: Receiver) -> None:
    """The name server is asked once an attempt; «localhost» itself would lead to another server."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.7"]

    with receiving("127.0.0.7") as checked:
        url = f"http://localhost:{checked.port}/x?y=z"
        assert Endpoints(allow_private=True, resolve=resolve).post(url, {"webhook-id": "msg_1"}, b"{}") == 204
    assert (asked, receiver.received) == (["localhost"], [])
    (one,) = checked.received
    assert (one.path, one.headers["host"], one.headers["webhook-id"], one.body) == ("/x?y=z", f"localhost:{checked.port}", "msg_1", b"{}")


def test_the_second_address_is_tried_if_the_first_does_not_answer(receiver: Receiver) -> None:
    found = Endpoints(allow_private=True, resolve=lambda host, port: ["127.0.0.99", "127.0.0.1"])
    assert found.post(f"http://hooks.test:{receiver.port}/", {}, b"{}") == 204


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.status, receiver.location = 307, elsewhere.url
        assert Endpoints(allow_private=True).post(receiver.url, {}, b"{}") == 307
        assert elsewhere.received == []


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        Endpoints(allow_private=True).post(receiver.url, {}, b"{}")
        assert proxy.received == []


def test_an_answer_that_trickles_is_cut_off(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; only the whole does not."""
    monkeypatch.setattr(webhook_http, "TOTAL_S", 0.5)
    receiver.slow = 0.05
    began = time.monotonic()
    with pytest.raises(NotDelivered, match="no answer within"):
        Endpoints(allow_private=True).post(receiver.url, {}, b"{}")
    assert time.monotonic() - began < 5


def test_nobody_listens() -> None:
    with receiving() as gone:
        pass
    with pytest.raises(NotDelivered, match="connection failed"):
        Endpoints(allow_private=True).post(gone.url, {}, b"{}")


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate for hooks.test, from an authority that this process trusts."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.test")])
    at = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), at - timedelta(days=1), at + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return context


def test_the_certificate_must_be_the_names_not_the_addresss(certified: ssl.SSLContext) -> None:
    inside = Endpoints(allow_private=True, resolve=lambda host, port: ["127.0.0.1"])
    with receiving(tls=certified) as receiver:
        assert inside.post(f"https://hooks.test:{receiver.port}/", {}, b"{}") == 204
        with pytest.raises(NotDelivered, match="certificate"):
            inside.post(f"https://other.test:{receiver.port}/", {}, b"{}")
    assert len(receiver.received) == 1

"""The private authority: what it issues, who may read it, and what it does not overwrite."""

import datetime
from pathlib import Path

import pytest
from command import latentwire
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pki import CAM

from latentwire import certificates
from latentwire.errors import CertificateError
from latentwire.identity import Identity


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_init_makes_an_authority_and_one_certificate_for_each(tmp_path: Path) -> None:
    made = latentwire("certs", "init", tmp_path / "pki", "--server", "fog.example", "--sensor", "a", "--sensor", "b")
    assert made.status == 0, made.err
    names = {path.name for path in (tmp_path / "pki").iterdir()}
    stems = ("ca", "server-fog.example", "sensor-a", "sensor-b", "admin-admin")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("pem", "key")}
    for key in (tmp_path / "pki").glob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700
    server = certificates.describe(tmp_path / "pki" / "server-fog.example.pem")
    assert server.hosts == ("fog.example", "localhost", "127.0.0.1", "::1")
    shown = latentwire("certs", "show", tmp_path / "pki").out
    assert "authority" in shown and "latentwire://sensor/a" in shown and "fog.example" in shown


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    assert latentwire("certs", "init", tmp_path).status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "--force replaces it" in latentwire("certs", "init", tmp_path).error
    assert "--force replaces it" in latentwire("certs", "issue", tmp_path, "--sensor", "sensor").error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert latentwire("certs", "issue", tmp_path, "--sensor", "sensor", "--force").status == 0
    assert (tmp_path / "sensor-sensor.pem").read_bytes() != before["sensor-sensor.pem"]
    assert (tmp_path / "sensor-sensor.key").stat().st_mode & 0o777 == 0o600


def test_a_certificate_says_who_and_for_how_long(tmp_path: Path) -> None:
    certificates.make_authority(tmp_path, days=20)
    made = load(certificates.issue(tmp_path, CAM, days=7))
    authority = load(tmp_path / "ca.pem")
    made.verify_directly_issued_by(authority)
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["latentwire://sensor/cam"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    left = made.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=6) < left <= datetime.timedelta(days=7)
    long = load(certificates.issue(tmp_path, CAM, days=700, force=True))
    assert long.not_valid_after_utc == authority.not_valid_after_utc


def test_what_is_no_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="holds no authority"):
        certificates.issue(tmp_path, CAM)
    certificates.make_authority(tmp_path)
    certificates.make_authority(tmp_path / "other")
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(CertificateError, match="is not the key of"):
        certificates.issue(tmp_path, CAM)
    (tmp_path / "ca.key").write_text("nothing")
    with pytest.raises(CertificateError, match="not what certs init makes"):
        certificates.issue(tmp_path, CAM)
    with pytest.raises(CertificateError, match="no certificate in PEM form"):
        certificates.describe(tmp_path / "ca.key")


@pytest.mark.parametrize("host", ["", "a:1", "http://a", "a b", "ü.example"])
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    assert latentwire("certs", "init", tmp_path, "--server", host).status == 2


@pytest.mark.parametrize("name", ["cam-1", "cam 2/ü", "..", "%2F", "x" * 128])
def test_a_name_comes_back_from_its_uri(name: str) -> None:
    who = Identity("sensor", name)
    assert who.uri.isascii() and Identity.of_uri(who.uri) == who


@pytest.mark.parametrize(
    "uri",
    [
        "latentwire://sensor/",
        "latentwire://sensor",
        "latentwire://king/a",
        "latentwire://sensor/a/b",
        "latentwire://sensor/%0A",
        "latentwire://sensor/%ff",
        "https://sensor/a",
        "sensor/a",
    ],
)
def test_other_uris_name_nobody(uri: str) -> None:
    with pytest.raises(ValueError):
        Identity.of_uri(uri)

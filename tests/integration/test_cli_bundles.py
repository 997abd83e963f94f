"""``latentwire ctl bundle``, ``ctl variant`` and ``bundle sign`` and ``verify``, as typed, on real processes."""

import shutil
import subprocess
from pathlib import Path

import pytest
from command import latentwire
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from benchmarks.switch import OTHER, make_other
from latentwire.bundle import MANIFEST, SIGNATURE, load_bundle
from latentwire.local_run import SENSOR, stream


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``private.pem`` and ``public.pem``, another pair, and keys of another kind."""
    folder = tmp_path_factory.mktemp("keys")
    for name, key in [
        ("", Ed25519PrivateKey.generate()),
        ("other-", Ed25519PrivateKey.generate()),
        ("x25519-", X25519PrivateKey.generate()),
    ]:
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}private.pem").write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}public.pem").write_bytes(public)
    return folder


def test_a_running_pair_is_moved_by_the_command_and_its_answers_stay_right(tmp_path: Path, keys: Path) -> None:
    made = make_other(load_bundle("digits"), tmp_path / "library" / "new", 1)
    assert latentwire("bundle", "sign", made.path, "--key", keys / "private.pem").status == 0
    sensor = ["--bundle-store", str(tmp_path / "store"), "--bundle-key", str(keys / "public.pem")]
    server = ["--library", str(tmp_path / "library")]
    with stream("digits", "digits", 1 << 40, 16, sensor, server) as pair:
        pair.wait_for(64)
        ctl = ("ctl", "--server", pair.target)
        listed = latentwire(*ctl, "bundle", "list").out
        assert "digits-1" in listed and made.digest[:12] in listed and f"full, {OTHER}" in listed
        pushed = latentwire(*ctl, "bundle", "push", SENSOR, made.path)
        assert pushed.status == 0, pushed.err
        assert pushed.out.startswith("before: rate scale 0.1") and "\nafter:  rate scale 0.1" in pushed.out
        assert "digits-1 full" in latentwire(*ctl, "sensors").out
        moved = latentwire(*ctl, "variant", "set", SENSOR, OTHER)
        assert f"{OTHER}/anchored" in moved.out.splitlines()[1]
        wrong = latentwire(*ctl, "bundle", "push", SENSOR, "none")
        assert wrong.error.startswith("the server holds no bundle 'none', but digits (")
        wrong = latentwire(*ctl, "variant", "set", SENSOR, "none")
        assert wrong.error == f"no variant 'none'; there are full, {OTHER}"
        results = pair.finish(stop=True)
    assert [row["sequence"] for row in results] == list(range(len(results)))
    assert [*dict.fromkeys(row["variant"] for row in results)] == ["full", OTHER]
    right = [row["label"] == row["truth"] for row in results]
    assert sum(right) / len(right) > 0.95  # the encoders are the same, and so are the answers


def test_a_signature_is_made_and_checked(tmp_path: Path, keys: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(load_bundle("digits").path, bundle)
    verify = ("bundle", "verify", bundle, "--key")
    assert "is not signed: latentwire bundle sign" in latentwire(*verify, keys / "public.pem").error
    done = latentwire("bundle", "sign", bundle, "--key", keys / "private.pem")
    assert done.status == 0 and f"signed bundle {load_bundle(bundle).digest}" in done.out
    assert f"{bundle}: signed by {keys / 'public.pem'}" in latentwire(*verify, keys / "public.pem").out
    assert "is not signed by the key that is trusted here" in latentwire(*verify, keys / "other-public.pem").error
    (bundle / SIGNATURE).write_bytes(b"short")
    assert "is not signed by the key" in latentwire(*verify, keys / "public.pem").error


def test_openssl_checks_the_signature_too(tmp_path: Path, keys: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    bundle = tmp_path / "bundle"
    shutil.copytree(load_bundle("digits").path, bundle)
    latentwire("bundle", "sign", bundle, "--key", keys / "private.pem")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "public.pem"), "-rawin"]
    command += ["-in", str(bundle / MANIFEST), "-sigfile", str(bundle / SIGNATURE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Verified Successfully" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("none.pem", "cannot be read"),
        ("public.pem", "is no private key in PEM form"),
        ("x25519-private.pem", "is no Ed25519 key"),
    ],
)
def test_what_is_no_signing_key_is_told(tmp_path: Path, keys: Path, key: str, match: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(load_bundle("digits").path, bundle)
    assert match in latentwire("bundle", "sign", bundle, "--key", keys / key).error
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize(
    ("key", "match"),
    [("none.pem", "cannot be read"), ("private.pem", "is no public key"), ("x25519-public.pem", "is no Ed25519 key")],
)
def test_what_is_no_trusted_key_is_told(keys: Path, key: str, match: str) -> None:
    assert match in latentwire("bundle", "verify", "digits", "--key", keys / key).error

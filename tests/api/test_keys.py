"""API keys: made, kept as hashes, read back, told apart."""

import hashlib

import pytest
from typer.testing import CliRunner

from service import cli
from service.api.keys import ApiKey, KeyRing, digest_of, load_keys, new_key, stored_digest


def test_a_new_key_is_known_by_its_line(tmp_path):
    secret, line = new_key("robot", {"rate": "60/minute", "evaluations": "5000/2hours"})
    assert secret not in line
    assert hashlib.sha256(secret.encode()).hexdigest() in line
    other, other_line = new_key("other", {"rate": None, "evaluations": None})
    path = tmp_path / "keys"
    path.write_text(f"# our keys\n\n{line}  # the one in the cellar\n{other_line}\n")
    ring = load_keys(path)
    key = ring.find(secret)
    assert key is not None
    assert (key.name, key.caller) == ("robot", "key:robot")
    assert key.rate is not None
    assert key.evaluations is not None
    assert (key.rate.amount, key.rate.get_expiry()) == (60, 60)
    assert (key.evaluations.amount, key.evaluations.get_expiry()) == (5000, 7200)
    found = ring.find(other)
    assert found is not None
    assert (found.name, found.rate, found.evaluations) == ("other", None, None)
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), "é", "\udc80"):
        assert ring.find(wrong) is None


def test_keys_differ():
    secrets = {new_key("a", {})[0] for _ in range(100)}
    assert len(secrets) == 100
    assert min(map(len, secrets)) > 43  # 32 bytes in base64


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        ("bob", "sha256 is missing"),
        (f"bob sha256={DIGEST[:-1]}", "64"),
        (f"bob sha256={'Z' * 64}", "64"),
        (f"bob sha256={DIGEST} sha256={DIGEST}", "twice"),
        (f"bob sha256={DIGEST} quota=3/day", "quota is not known"),
        (f"bob sha256={DIGEST} rate=0/day", "no quota"),
        (f"bob sha256={DIGEST} rate=1/minute;2/hour", "no quota"),
        (f"bob sha256={DIGEST} rate=fast", "no quota"),
        (f"b/b sha256={DIGEST}", "no name"),
        (f"{'b' * 65} sha256={DIGEST}", "no name"),
        (f"bob sha256={DIGEST}\nbob sha256={'1' * 64}", "same name"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, word):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=word):
        load_keys(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_keys(tmp_path / "none")


def test_every_key_is_compared(monkeypatch):
    """A search that ended at the first match would tell by its time which key it was."""
    secrets = [f"secret {i}" for i in range(3)]
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr("service.api.keys.hmac.compare_digest", compare)
    ring = KeyRing(ApiKey(secret, digest_of(secret)) for secret in secrets)
    assert ring.find(secrets[0]) is not None
    assert len(compared) == 3


def test_the_admins_key_is_stated_plainly_or_hashed():
    secret = "correct horse battery staple"
    assert stored_digest(secret) == digest_of(secret)
    assert stored_digest(f"sha256:{digest_of(secret).hex()}") == digest_of(secret)
    for wrong in ("", "short", "sha256:", "sha256:abc"):
        with pytest.raises(ValueError, match=r"character|digits"):
            stored_digest(wrong)


def test_the_command_prints_a_key_and_its_line(tmp_path):
    run = CliRunner().invoke(cli.main, ["key", "new", "bob", "--rate", "60/minute"])
    assert run.exit_code == 0, run.output
    secret, line = run.stdout.splitlines()
    path = tmp_path / "keys"
    path.write_text(line)
    key = load_keys(path).find(secret)
    assert key is not None
    assert key.name == "bob"
    assert CliRunner().invoke(cli.main, ["key", "new", "b b"]).exit_code == 2
    assert CliRunner().invoke(cli.main, ["key", "new", "bob", "--rate", "1"]).exit_code == 2

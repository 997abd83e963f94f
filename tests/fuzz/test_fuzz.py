"""A short run of the fuzzer, and that it has teeth. docs/fuzzing.md has the long ones."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.corpus import Corpus
from fuzz.mutate import mutate_message
from fuzz.targets import DECODED, Manifests, Messages, Models, SilentlyWrong

from latentwire.codec.bulk import BulkDecoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.mark.parametrize(("coder", "messages"), [("constriction", 10_000), ("portable", 4_000)])
def test_mutated_messages_are_exact_or_refused_quickly_and_in_little_memory(
    coder: str, messages: int, tmp_path: Path
) -> None:
    if coder == "constriction":
        pytest.importorskip("constriction")
    figures = tmp_path / "figures.json"
    options = ["--messages", str(messages), "--coder", coder, "--seed", "7", "--json", str(figures)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", *options], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reports = {report["target"]: report for report in json.loads(figures.read_text())}
    assert reports["message"]["inputs"] == messages
    for report in reports.values():
        assert sum(report["outcomes"].values()) == report["inputs"]
        assert report["outcomes"][DECODED] > 0, "no mutation was harmless: the mutations are too wild to reach far"


def test_what_is_valid_is_decoded(corpus: Corpus, tmp_path: Path) -> None:
    messages, models, manifests = Messages(corpus), Models(), Manifests(tmp_path)
    assert {messages(content) for content in (*corpus.batches, *corpus.slow)} == {DECODED}
    assert {models(model) for model in corpus.models} == {DECODED}
    assert manifests(corpus.manifests[0]) == DECODED


def test_a_codec_without_its_checksum_would_be_found(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    class Anything:
        def __ne__(self, other: object) -> bool:
            return False

    monkeypatch.setattr(BulkDecoder, "checksum", lambda *_: Anything())
    r = random.Random(1)
    take = Messages(corpus)
    with pytest.raises(SilentlyWrong):
        for _ in range(100):
            take(mutate_message(corpus, r))

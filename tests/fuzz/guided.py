"""Coverage-guided fuzzing of one target, for as long as it is let: needs atheris (the extra ``fuzz``).

    python -m tests.fuzz.guided payload -max_total_time=300 corpus_folder

What stands after the target goes to libFuzzer. An input that broke something is written beside as crash-*.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["latentwire"]):
    from latentwire.codec import coder
    from latentwire.codec.bulk import BulkDecoder
    from latentwire.errors import LatentwireError

    from .corpus import LIMITS, Corpus, npz_of
    from .targets import Manifests, Messages, Models


class Payloads:
    """A payload beyond its checksum: whatever the bytes, decoding ends, with symbols or a named refusal.

    The first byte chooses the operating point, the next two the images.
    """

    def __init__(self, corpus: Corpus, backend: str | None = None) -> None:
        coder.use(backend or coder.in_use())
        self._codecs = [served.point.codec for served in corpus.served.values()]
        BulkDecoder.checksum = lambda *_: 0  # type: ignore[method-assign]  # no mutation would get past a real one
        self.seeds = [
            bytes([number - 1]) + (images - 1).to_bytes(2, "little") + payload
            for number, images, payload in corpus.payloads()
        ]

    def __call__(self, data: bytes) -> None:
        """Take one payload."""
        head = data[:3].ljust(3, b"\0")
        codec = self._codecs[head[0] % len(self._codecs)]
        images = 1 + int.from_bytes(head[1:], "little") % LIMITS.max_images_per_message
        try:
            decoded = codec.decode(data[3:], images, 0)
        except LatentwireError:
            return
        assert decoded.latent.shape == (images, codec.anchors.shape[1])
        assert 0 <= decoded.anchor.min() <= decoded.anchor.max() < len(codec.anchors)


class Members:
    """A model in which one array's file is the input; the first byte says which."""

    def __init__(self, corpus: Corpus) -> None:
        self._take = Models()
        self._members = corpus.members[0]
        self._names = list(self._members)
        self.seeds = [bytes([i]) + content for i, content in enumerate(self._members.values())]

    def __call__(self, data: bytes) -> None:
        """Take one array."""
        name = self._names[(data[0] if data else 0) % len(self._names)]
        self._take(npz_of(self._members | {name: data[1:]}))


def main() -> None:
    """Fuzz the target that the first argument names, from seeds of its own."""
    name, folder = sys.argv[1], Path(sys.argv[-1])
    corpus = Corpus()
    targets: dict[str, tuple[Callable[[], Callable[[bytes], object]], list[bytes]]] = {
        "message": (lambda: Messages(corpus), [*corpus.others, *corpus.batches]),
        "payload": (lambda: Payloads(corpus), []),
        "payload-portable": (lambda: Payloads(corpus, "portable"), []),
        "model": (Models, corpus.models),
        "member": (lambda: Members(corpus), []),
        "manifest": (lambda: Manifests(Path(mkdtemp())), corpus.manifests),
    }
    make, seeds = targets[name]
    take = make()
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(getattr(take, "seeds", seeds)):
        (folder / f"seed-{number}").write_bytes(seed)

    def one_input(data: bytes) -> None:
        take(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

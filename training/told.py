"""A decoder that is told of the message, in torch; and the bundle it goes into."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from latentwire.bundle import Bundle, TableRow, file_entry, write_bundle
from latentwire.datasets import Dataset
from latentwire.errors import TrainingError
from latentwire.operating_point import OperatingPoint
from training.evaluation import Encoded, ToldDecoder, encode_dataset, sweep
from training.inference import OnnxGraph
from training.models import Decoder, PairConfig, cost
from training.onnx_export import CHECK_IMAGES, HALF_AGREEMENT, HALF_TOLERANCE, graph_bytes

ANSWERED_AT_ONCE = 512


class Told(nn.Module):
    """A decoder with ``width`` conditions beside the latent: (N, d), (N, width) -> (N, K)."""

    def __init__(self, pair: PairConfig, width: int, decoder_width: int | None) -> None:
        super().__init__()
        self.d, self.width = pair.d, width
        self.decoder = Decoder(replace(pair, d=pair.d + width, decoder_width=decoder_width or pair.decoder_width))

    def forward(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.decoder(torch.cat([latent, conditions], 1))
        return logits

    def start_from(self, decoder: Decoder) -> None:
        """Take a decoder's weights, and answer as it does whatever the conditions."""
        state, first = decoder.state_dict(), "grow.0.weight"
        state[first] = F.pad(state[first], (0, self.width))
        self.decoder.load_state_dict(state)

    def answer(self, latent: NDArray[np.float32], conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, K) of latents (N, d) and conditions (N, width), as ``training.evaluation`` asks for them."""
        device = next(self.parameters()).device
        self.eval()
        rows = torch.from_numpy(np.concatenate([latent, conditions], axis=1))
        with torch.inference_mode():
            parts = [self.decoder(part.to(device)).cpu().numpy() for part in torch.split(rows, ANSWERED_AT_ONCE)]
        logits: NDArray[np.float32] = np.concatenate(parts)
        return logits


def upgraded_bundle(
    path: Path,
    bundle: Bundle,
    variant: str,
    told: Told,
    test: Dataset,
    about: Mapping[str, str | int | float | bool | None],
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Write ``bundle`` to ``path``, ``told`` the decoder of ``variant``, the knobs measured anew on ``test``.

    All other files are the same bytes; ``about`` is added to what the manifest says of the training. TrainingError when
    the exported graph does not answer as torch does, BundleError when the bundle cannot be written.
    """
    say(f"encoding {len(test)} images of {test.name}")
    encoded = encode_dataset(bundle, variant, test)
    say("exporting the decoder to ONNX")
    examples = {"latent": torch.zeros(2, told.d), "conditions": torch.zeros(2, told.width)}
    content = graph_bytes(told, examples, ["logits"], half=True)
    manifest, entry = bundle.manifest, bundle.manifest.variant(variant)
    with tempfile.TemporaryDirectory(prefix="latentwire-upgrade-") as folder:
        file = Path(folder) / entry.decoder.path
        file.write_bytes(content)
        graph = OnnxGraph(file)
        decode = ToldDecoder(lambda latent, conditions: graph.run(latent, conditions=conditions)["logits"], told.width)
        _check(bundle, variant, told, decode, encoded)
        table: list[TableRow] = []
        for model in entry.models:
            say(f"{model}: measuring")
            parameters = bundle.codec_parameters(variant, model)
            table += sweep(parameters, model, variant, encoded, decode, parameters.frontier.rate_scale.tolist())
    server = cost(told.decoder, torch.zeros(1, told.d + told.width))
    training = {**manifest.training, **about}
    if variant == manifest.default_variant:
        training |= {"method": f"{manifest.training.get('method', '')}+upgrade"}
        training |= {"server_macs": server.macs, "server_parameters": server.parameters}
    others = {name: other for name, other in manifest.variants.items() if name != variant}
    shared = entry.decoder.path in {other.decoder.path for other in others.values()}
    decoder_file = file_entry(f"{variant}-upgraded-decoder.onnx" if shared else entry.decoder.path, content)
    upgraded = replace(entry, decoder=decoder_file, table=tuple(table))
    changed = replace(manifest, variants={**others, variant: upgraded}, training=training)
    kept = {file.path for file in changed.files()} - {decoder_file.path}
    files = {name: (bundle.path / name).read_bytes() for name in kept}
    return write_bundle(path, changed, {**files, decoder_file.path: content})


def _check(bundle: Bundle, variant: str, told: Told, decode: ToldDecoder, encoded: Encoded) -> None:
    """The graph answers as torch does, at the finest point of the default model."""
    model = bundle.manifest.variant(variant).default_model
    parameters = bundle.codec_parameters(variant, model)
    point = OperatingPoint.derive(parameters, variant, model, parameters.rate_max)
    latent = encoded.latent[:CHECK_IMAGES]
    anchor = (np.arange(len(latent)) % len(point.codec.anchors)).astype(np.int32)
    conditions = point.conditions(anchor, np.ones_like(anchor), told.width)
    ours, theirs = told.answer(latent, conditions), decode.run(latent, conditions)
    difference = float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-6))
    agreement = float(np.mean(ours.argmax(1) == theirs.argmax(1)))
    if not (difference <= HALF_TOLERANCE and agreement >= HALF_AGREEMENT):
        raise TrainingError(
            f"the exported decoder differs from torch by {difference:.2g} of the largest value and agrees on "
            f"{agreement:.2%} of {len(latent)} answers: the checkpoint may hold NaN; train it again"
        )

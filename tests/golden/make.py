"""``make golden``: write the golden vectors anew. Only on purpose.

``v1.json`` and ``v2.json`` pin the payload formats: models made up here and written out in full, latents, what became
of them, and the bytes. Another file of the same version is a broken format. ``shipped.json`` pins the tables and some
payloads of the bundles that ship; it changes whenever one of them is exported anew.
"""

import hashlib
from dataclasses import replace

import numpy as np

from latentwire.bundle import Bundle, load_bundle, shipped_bundles
from latentwire.codec.choice import Choice
from latentwire.codec.parameters import SHAPE_TOTAL_BITS, TAILS, CodecParameters, Frontier
from latentwire.codec.runs import MODES
from latentwire.operating_point import OperatingPoint

from .vectors import (
    SHIPPED,
    Json,
    coded_case,
    normal,
    parameters_to_json,
    short,
    to_text,
    uniform,
    versioned,
)

IMAGES = 96  # the first 64 are of any anchor; after them comes a scene that hardly changes
SCENE = 64
MESSAGES = ((0, 1), (0, 4), (0, 64), (SCENE, IMAGES))  # from where to where
SWEEP = 24  # rate scales at which a shipped model's tables are pinned, beside its knots
STEP_PAST_INT32 = 3e38


def made_up() -> dict[str, CodecParameters]:
    """Models of every kind: the paper's with one shape and with one an entry, few anchors, and a hundred."""
    return {
        "one-anchor-one-shape": _model("a", 1, 3, [_shape(64, 0)], 0),
        "one-anchor-a-shape-an-entry": _model("b", 1, 4, [_shape(32, k) for k in (-6, 0, 3, 9)], 0),
        "ten-anchors-snapped-ratios": _model("c", 10, 8, [_shape(64, 1)], 4),
        "hundred-anchors-exact-ratios": _model("d", 100, 2, [_shape(48, 0), _shape(48, -5)], 0),
    }


def _shape(cells: int, skew: int) -> np.ndarray:
    """A cumulative count with one peak and long tails, (cells + 1,), by integers alone."""
    weights = [2**40 // (256 + (2 * i + 1 - cells - 2 * skew) ** 4) + 1 for i in range(cells)]
    whole, cumulative = sum(weights), [0]
    for weight in weights:
        cumulative.append(cumulative[-1] + weight)
    return np.array([(c << SHAPE_TOTAL_BITS) // whole for c in cumulative], np.int64)


def _model(seed: str, anchors: int, d: int, shapes: list[np.ndarray], ratios_per_octave: int) -> CodecParameters:
    many = anchors > 1
    knots = np.array([0.0625, 0.5, 2.0, 8.0])
    each = 0.5 + uniform(f"{seed} share", anchors)
    share = np.array([0.0, 0.25, 0.75, 1.0]) if many else np.ones(4)
    frontier = Frontier(
        rate_scale=knots,
        step_scale=np.array([0.5, 0.5, 2.0, 8.0]) if many else knots,
        share=share,
        refine_share=short(np.minimum(share[:, None] * each, 1.0)) if many else np.ones((4, 1)),
        doubt_threshold=np.array([2.0, 0.5, 0.125, 0.0]) if many else np.zeros(4),
        bits=np.array([1.0, 2.0, 3.0, 4.0]),
    )
    spread = short(0.25 + 1.5 * uniform(f"{seed} spread", 2, anchors, d))
    return CodecParameters(
        anchors=short(3 * normal(f"{seed} anchors", anchors, d) * many).astype(np.float32),
        anchor_counts=1 + np.floor(500 * uniform(f"{seed} counts", anchors)).astype(np.int64),
        weights=short(0.5 + 2.5 * uniform(f"{seed} weights", d)),
        location=short(0.5 * normal(f"{seed} location", 2, anchors, d)),
        spread=spread,
        shapes=np.stack(shapes),
        shape_of=np.arange(d) % len(shapes),
        ratios_per_octave=ratios_per_octave,
        choice_spread=spread[1],
        named_by_head=False,
        frontier=frontier,
    )


def latents_for(seed: str, parameters: CodecParameters) -> np.ndarray:
    """Latents (IMAGES, d) float32 around the anchors; some entries far out, and some past any int32 index."""
    anchors, d = parameters.anchors.shape
    anchor = np.floor(anchors * uniform(f"{seed} which", IMAGES)).astype(np.int64)
    anchor[SCENE:] = np.repeat(anchor[:4], (IMAGES - SCENE) // 4)
    noise = parameters.spread[1][anchor] * normal(f"{seed} noise", IMAGES, d)
    latent = short(parameters.anchors[anchor] + parameters.location[1][anchor] + noise).astype(np.float32)
    latent[2, 0], latent[3, -1] = 5000.0, -77777.0
    latent[17, 1], latent[40, 0] = STEP_PAST_INT32, -STEP_PAST_INT32
    return latent


def _cases(parameters: CodecParameters, latent: np.ndarray, rate_scales: list[float], listed: bool) -> list[Json]:
    cases = []
    for scale in rate_scales:
        point = OperatingPoint.derive(parameters, "", "", scale)
        for start, end in MESSAGES:
            part = latent[start:end]
            cases.append(coded_case(point, part, start, point.codec.choose(part), listed))
    return cases


def _forced(parameters: CodecParameters, latent: np.ndarray, rate_scale: float) -> list[Json]:
    """Every run mode, and levels that no doubt decided, some images of all that are far out refined."""
    point = OperatingPoint.derive(parameters, "", "", rate_scale)
    anchors, cases = len(parameters.anchors), []
    for run in range(MODES if anchors > 1 else 1):
        anchor = (np.array([2, 2, 3, 3, 3, 2, 9, 9]) % anchors).astype(np.int32)
        level = np.array([1, 0, 1, 1, 0, 0, 1, 1], np.int32)
        cases.append(coded_case(point, latent[:8], 0, Choice(anchor, level, run), True))
    level = np.ones(64, np.int32)
    choice = point.codec.choose(latent[:64])
    cases.append(coded_case(point, latent[:64], 0, Choice(choice.anchor, level, choice.run), True))
    return cases


def format_vectors(payload_format: int) -> str:
    """The text of a format's file."""
    models = {}
    for name, made in made_up().items():
        parameters = replace(made, payload_format=payload_format)
        latent = latents_for(name, parameters)
        cases = _cases(parameters, latent, [0.0625, 0.71, 8.0], True) + _forced(parameters, latent, 1.3)
        models[name] = {"parameters": parameters_to_json(parameters), "latents": latent.tolist(), "cases": cases}
    return to_text({"payload_format": payload_format, "models": models}) + "\n"


def shipped_vectors() -> str:
    """The text of the shipped bundles' file."""
    bundles = {name: _bundle_vectors(load_bundle(name)) for name in shipped_bundles()}
    return to_text({"bundles": bundles}) + "\n"


def _bundle_vectors(bundle: Bundle) -> Json:
    found = {}
    for variant_name, variant in bundle.manifest.variants.items():
        for model, entry in variant.models.items():
            parameters = bundle.codec_parameters(variant_name, model)
            latent = latents_for(model, parameters)
            scales = [entry.rate_min, entry.rate_default, entry.rate_max]
            found[f"{variant_name}/{model}"] = {
                "sha256": hashlib.sha256((bundle.path / entry.file.path).read_bytes()).hexdigest(),
                "tables": {
                    repr(scale): OperatingPoint.derive(parameters, "", "", scale).digest.hex()
                    for scale in sweep(parameters)
                },
                "latents": latent.tolist(),
                "cases": _cases(parameters, latent, scales, False),
            }
    return found


def sweep(parameters: CodecParameters) -> list[float]:
    """Rate scales over the whole range: the knots, and between them."""
    low, high = parameters.rate_min, parameters.rate_max
    between = [low + (high - low) * (k / SWEEP) ** 2 for k in range(SWEEP)]
    return sorted({*parameters.frontier.rate_scale.tolist(), *between})


def main() -> None:
    """Write all files."""
    for path, text in [(versioned(n), format_vectors(n)) for n in TAILS] + [(SHIPPED, shipped_vectors())]:
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        print(f"{path}: {len(text):,} bytes, {'written anew' if changed else 'as it was'}")


if __name__ == "__main__":
    main()

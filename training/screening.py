"""``latentwire screen``: short CE-T trainings that differ in the latent's width alone, to choose one (paper.md)."""

from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from latentwire.errors import TrainingError
from training.ce import CETrainingConfig, find_device, run_train_ce, training_data
from training.checkpoint import load_checkpoint
from training.models import encoder_cost
from training.onnx_export import load_pair


@dataclass(frozen=True, slots=True)
class ScreeningConfig:
    """``base`` is the training that all trials share; the trial of width d lies in ``base.out``/d{d}, and one that was
    done or interrupted is gone on with. ``widths`` are the latent's. ValueError for a setting out of range."""

    base: CETrainingConfig
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if not self.widths or min(self.widths) < 1 or len({*self.widths}) < len(self.widths):
            raise ValueError(f"d must be different widths of at least 1, not {self.widths}")
        if self.base.validation == 0:
            raise ValueError("validation must be above 0: the choice is made on it")


@dataclass(frozen=True, slots=True)
class Trial:
    """One width: accuracies (0..1) on the validation images after the last epoch, the sensor's multiply-accumulates
    an image, and the training's time in seconds."""

    data: str
    d: int
    epochs: int
    seed: int
    validation_images: int
    validation_accuracy: float
    head_accuracy: float | None
    sensor_macs: int
    seconds: float


class Trials(NamedTuple):
    """A trial a width, in the order asked for."""

    rows: tuple[Trial, ...]

    @property
    def validation_images(self) -> int:
        """How many images the choice was made on."""
        return self.rows[0].validation_images

    def best(self) -> Trial:
        """The most accurate one, of equals the narrowest."""
        return max(self.rows, key=lambda trial: (trial.validation_accuracy, -trial.d))


def run_screening(config: ScreeningConfig) -> Trials:
    """Train every width: as trials of Ray Tune where Ray is installed, so that a cluster takes them, else one after
    another. Errors as ``run_train_ce``; TrainingError names the trials that failed on Ray.
    """
    images = len(training_data(config.base)[1])
    if ray_is_here():
        return Trials(tuple(_on_ray(config, images)))
    return Trials(tuple(run_trial(config, d, images) for d in config.widths))


def ray_is_here() -> bool:
    """Whether Ray Tune is installed."""
    return find_spec("ray") is not None and find_spec("ray.tune") is not None


def _on_ray(config: ScreeningConfig, validation_images: int) -> list[Trial]:
    tune: Any = import_module("ray.tune")  # not among our requirements, so unknown to the type checker
    base = config.base
    # a trial runs elsewhere: paths must not depend on the folder, and lie on storage that all machines share
    absolute = replace(base, out=base.out.resolve(), root=None if base.root is None else base.root.resolve())
    shared = ScreeningConfig(absolute, config.widths)

    def trial(values: dict[str, int]) -> dict[str, str | int | float | None]:
        return asdict(run_trial(shared, values["d"], validation_images))

    needs = {"cpu": base.threads or 1, "gpu": 1 if find_device(base.device).type == "cuda" else 0}
    tuner = tune.Tuner(
        tune.with_resources(trial, needs),
        param_space={"d": tune.grid_search(list(config.widths))},
        run_config=tune.RunConfig(name="ray", storage_path=str(absolute.out)),
    )
    results = tuner.fit()
    if results.errors:
        raise TrainingError(f"{len(results.errors)} trials failed on Ray, the first with: {results.errors[0]}")
    found = [{field.name: row.metrics[field.name] for field in fields(Trial)} for row in results]
    return sorted((Trial(**values) for values in found), key=lambda row: config.widths.index(row.d))


def run_trial(config: ScreeningConfig, d: int, validation_images: int) -> Trial:
    """Train one width, or go on with it."""
    base = config.base
    checkpoint = load_checkpoint(
        run_train_ce(replace(base, pair=replace(base.pair, d=d), out=base.out / f"d{d}", resume=True))
    )
    last = checkpoint.history[-1]
    return Trial(
        data=base.data,
        d=d,
        epochs=base.epochs,
        seed=base.seed,
        validation_images=validation_images,
        validation_accuracy=last["validation_accuracy"],
        head_accuracy=last.get("validation_head_accuracy"),
        sensor_macs=encoder_cost(load_pair(checkpoint)).macs,
        seconds=round(sum(row["seconds"] for row in checkpoint.history), 1),
    )

"""``latentwire screen``: short CE-T trainings that differ in the latent's width alone, to choose one (paper.md)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from training.ce import CETrainingConfig, run_train_ce, training_data
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
    """Train every width, one after another; errors as ``run_train_ce``."""
    images = len(training_data(config.base)[1])
    return Trials(tuple(run_trial(config, d, images) for d in config.widths))


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

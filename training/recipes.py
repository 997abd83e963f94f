"""The configurations behind the bundles that ship: functions, so that a command or a test says exactly which."""

from pathlib import Path

from training.ce import CETrainingConfig
from training.models import PairConfig


def digits(out: Path) -> CETrainingConfig:
    """The digits pair: small enough to be committed, half a minute on one core."""
    pair = PairConfig(width=8, cut=2, grid=4, d=8)
    return CETrainingConfig(
        data="digits", out=out, pair=pair, epochs=60, batch=64, peak_rate=0.1, validation=0.1, threads=1
    )


def cifar10_quarter(out: Path, root: Path) -> CETrainingConfig:
    """CIFAR-10 at quarter width, cut after layer2 (18.5 M multiply-accumulates on the sensor): 16 minutes on one
    core.
    """
    pair = PairConfig(width=16, cut=2, grid=4, d=16)
    return CETrainingConfig(data="cifar10", out=out, root=root, pair=pair, epochs=24, threads=1)

"""One batch on several devices, a process each: every process sees its share, and losses see the whole.

All that is random is drawn for the whole batch by every process, from the same states, and then shared out: a run has
one stream of random numbers however many devices walk it, so its checkpoint fits any number of them, and its losses
are those of one device but for rounding. With one process every function here gives back what it was given.

Processes are started by ``training.devices``. Gradients are averaged here and not by DistributedDataParallel, which
wants one module whose parameters all learn in every pass; our learners take turns on parts of the pair.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from latentwire.errors import TrainingError


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """The number of this process among them, from 0; process 0 alone shows progress and writes files."""
    return distributed.get_rank() if _together() else 0


def share(values: Tensor) -> Tensor:
    """This process's rows of a whole batch's ``values`` (B, ...); TrainingError if they cannot be shared evenly."""
    count = processes()
    if count == 1:
        return values
    if len(values) % count:
        raise TrainingError(
            f"a batch of {len(values)} images cannot be shared evenly by {count} devices: "
            f"give a --batch (or --self-images x --self-views) that divides by {count}"
        )
    rows = len(values) // count
    return values[rank() * rows : (rank() + 1) * rows]


def whole_batch(values: Tensor) -> Tensor:
    """The rows of all processes, in the batch's order, from this process's ``values`` (B / processes, ...).

    Gradients flow back to the process that a row came from, added up over those that used it.
    """
    if processes() == 1:
        return values
    gathered: Tensor = _Gather.apply(values)
    return gathered


def random_rows(values: Tensor, *shape: int) -> Tensor:
    """Uniform random numbers 0..1, (len(values), *shape), for this process's ``values``, drawn for the whole batch."""
    return share(torch.rand(len(values) * processes(), *shape, device=values.device))


def add_up(values: Tensor) -> Tensor:
    """The sum of all processes' ``values``, without gradients."""
    if processes() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is true in any process."""
    return flag if processes() == 1 else bool(add_up(torch.tensor([float(flag)], device=device)) > 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by the mean of all processes', in one message."""
    if processes() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = add_up(torch.cat([gradient.reshape(-1) for gradient in gradients])) / processes()
    means = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if processes() > 1:
        distributed.barrier()


def join_batch_norms(module: nn.Module) -> None:
    """Let every batch normalisation in ``module`` take its statistics over the whole batch; nothing for one process.

    Parameters stay the same objects, and the state's names the same.
    """
    if processes() == 1:
        return
    if next(module.parameters()).device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, _BatchNorm):
                setattr(part, name, _JointBatchNorm.of(child))


class _JointBatchNorm(_BatchNorm):
    """Batch normalisation over the whole batch on CPUs, for torch's SyncBatchNorm knows GPUs only."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> "_JointBatchNorm":
        """The same layer, with the same parameters and statistics."""
        joint = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        joint._parameters, joint._buffers, joint.training = norm._parameters, norm._buffers, norm.training
        return joint

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape; while training by the mean and variance of all processes' N."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        parts = whole_batch(torch.stack([x.mean(axes), x.var(axes, correction=0)])[None])
        mean = parts[:, 0].mean(0)
        variance = parts[:, 1].mean(0) + parts[:, 0].var(0, correction=0)
        self._note(mean.detach(), variance.detach(), processes() * x.numel() // x.shape[1])
        shape = [1, -1, *[1] * (x.ndim - 2)]
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised = (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    def _note(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)


class _Gather(torch.autograd.Function):
    """Rows of all processes, in order of their numbers; its gradient is every process's, added up."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.rows = len(values)
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(processes())]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return add_up(gradient.contiguous())[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()

"""BatchNorm over the batches of all processes, on any device; torch's own needs a GPU."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of the processes' tensors; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, of any shape."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the sum of the gradients of all processes."""
        total = grad.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes' images together.

    What one process computes with the whole batch, up to rounding. Same parameters, same keys.
    Source: Peng et al. 2018, MegDet, section 3.3 (cross-GPU batch normalization).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]; B may differ between the processes."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        # In float64, E[x^2] - E[x]^2 loses nothing that float32 would have kept.
        variance, mean = (t.double() for t in torch.var_mean(values, dim=(0, 2, 3), correction=0))
        count = mean.new_tensor([values.numel() // values.shape[1]])
        sums = torch.cat([count, count * mean, count * (variance + mean.square())])
        total = _SumOverProcesses.apply(sums)
        count = total[0].detach()
        mean, square = (total[1:] / count).view(2, -1)
        variance = square - mean.square()
        self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps).to(values)
        centred = values - mean.to(values)[:, None, None]
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Update them with the mean and the variance of a batch, [C] each."""
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var), self.momentum)
        self.num_batches_tracked += 1


def synchronize_batch_norm(model: nn.Module) -> None:
    """Replace each BatchNorm2d in the model by one that looks at all processes' images."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                synchronized = SyncBatchNorm2d(
                    child.num_features, eps=child.eps, momentum=child.momentum
                )
                synchronized.weight, synchronized.bias = child.weight, child.bias
                synchronized._buffers.update(child._buffers)
                setattr(parent, name, synchronized)

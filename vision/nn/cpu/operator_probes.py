"""Whether torch's private operators are there, and give the right result.

`are_usable` calls each once in a process, on a tiny input, and compares it with public operators.
Where one is missing, raises or is wrong, the caller takes its plain path, and the log says so.
"""

import functools
import logging
import platform
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.nn.cpu.private_operators import (
    add_convolution_,
    batch_norm_backward,
    batch_norm_statistics,
    convolution_1x1_backward,
    convolve,
    pack_weight,
    relu6_backward,
)

logger = logging.getLogger(__name__)

# The largest difference of a right result, over the largest value.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}


def are_usable(*operators: Callable, device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether private operators can be called instead of taking the plain path.

    The plain path is for other devices and number types, for machines other than x86 (nothing was
    measured there), and for torch.export, torch.jit.trace and torch.compile, whose result must not
    hold private operators.

    Args:
        operators: `convolve` and other functions of `private_operators`.
        device: of the tensors.
        dtype: of the activations.
    """
    return (
        dtype in _TOLERANCE
        and device.type == "cpu"
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(_gives_the_right_result(operator, dtype) for operator in operators)
    )


@functools.cache
def _gives_the_right_result(operator: Callable, dtype: torch.dtype) -> bool:
    """Compare one operator with public ones, once in a process; about 1 ms."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            error = max(_error(*pair) for pair in _PROBES[operator](dtype))
    except (AttributeError, RuntimeError, TypeError, ValueError) as exception:
        problem = str(exception).partition("\n")[0]
    else:
        if error <= _TOLERANCE[dtype]:
            return True
        problem = f"its result is wrong by {error:.0%}"
    logger.warning(
        "torch %s: the operator behind %s cannot be used in %s (%s); plain, slower layers run",
        torch.__version__, operator.__name__, dtype, problem,
    )  # fmt: skip
    return False


def _error(found: Tensor, exact: Tensor) -> float:
    """Return the largest difference over the largest value; infinity where something is NaN."""
    if found.shape != exact.shape:
        return float("inf")
    error = (found.double() - exact).abs().max() / exact.abs().max()
    return error.nan_to_num(nan=float("inf")).item()


def _draw(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return [B, C, H, W] between -1 and 1 without touching torch's random numbers."""
    size = torch.Size(shape).numel()
    values = torch.arange(size, dtype=torch.float32, device="cpu").square_().mul_(0.37).sin_()
    return values.view(shape).to(dtype, memory_format=torch.channels_last)


def _ramp(first: float, last: float) -> Tensor:
    return torch.linspace(first, last, 16, dtype=torch.float32, device="cpu")


Pairs = Sequence[tuple[Tensor, Tensor]]  # what an operator gives, and the same in float64


def _probe_convolve(dtype: torch.dtype) -> Pairs:
    x, bias = _draw(2, 16, 5, 5, dtype=dtype), _ramp(-2, 8)
    dense, depthwise = _draw(16, 16, 3, 3, dtype=dtype), _draw(16, 1, 1, 1, dtype=dtype)
    geometry = {"stride": (2, 2), "padding": (1, 1)}
    return [
        (
            convolve(x, dense, None, **geometry, relu6=False),
            F.conv2d(x.double(), dense.double(), **geometry),
        ),
        (
            convolve(x, depthwise, bias, groups=16, relu6=True),
            F.conv2d(x.double(), depthwise.double(), bias.double(), groups=16).clamp(0, 6),
        ),
    ]


def _probe_add_convolution(dtype: torch.dtype) -> Pairs:
    x, weight = _draw(2, 16, 5, 5, dtype=dtype), _draw(16, 16, 1, 1, dtype=dtype)
    total, bias = torch.full_like(x, 2), _ramp(-2, 2)
    exact = total.double() + F.conv2d(x.double(), weight.double(), bias.double())
    add_convolution_(total, x, weight, bias)
    return [(total, exact)]


def _probe_pack_weight(dtype: torch.dtype) -> Pairs:
    x, weight = _draw(2, 16, 5, 5, dtype=dtype), _draw(16, 1, 3, 3, dtype=dtype)
    geometry = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 16}
    packed = pack_weight(weight, x.shape, **geometry)
    exact = F.conv2d(x.double(), weight.double(), **geometry)
    return [(convolve(x, packed, None, **geometry, relu6=False), exact)]


def _probe_convolution_1x1_backward(dtype: torch.dtype) -> Pairs:
    grad, x = _draw(2, 32, 5, 5, dtype=dtype), _draw(2, 16, 5, 5, dtype=dtype)
    weight = _draw(32, 16, 1, 1, dtype=dtype)
    exact = (
        torch.einsum("bkhw,kc->bchw", grad.double(), weight.double().flatten(1)),
        torch.einsum("bkhw,bchw->kc", grad.double(), x.double())[:, :, None, None],
        grad.double().sum(dim=(0, 2, 3)),
    )
    return list(zip(convolution_1x1_backward(grad, x, weight), exact, strict=True))


def _probe_relu6_backward(dtype: torch.dtype) -> Pairs:
    grad = _draw(2, 16, 5, 5, dtype=dtype)
    y = (_draw(2, 16, 5, 5, dtype=dtype) * 9).clamp(0, 6)  # with many 0 and 6, which get none
    return [(relu6_backward(grad, y), grad.double() * ((y > 0) & (y < 6)))]


def _probe_batch_norm_statistics(dtype: torch.dtype) -> Pairs:
    x = _draw(2, 16, 5, 5, dtype=dtype)
    variance, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    return list(zip(batch_norm_statistics(x), (mean, variance), strict=True))


def _probe_batch_norm_backward(dtype: torch.dtype) -> Pairs:
    grad, x = _draw(2, 16, 5, 5, dtype=dtype), _draw(2, 16, 5, 5, dtype=dtype)
    grad, weight, eps = grad.flip(0), _ramp(0.5, 2), 1e-5
    variance, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0, keepdim=True)
    invstd = torch.rsqrt(variance + eps)
    normalized = (x - mean) * invstd
    grad_bias = grad.double().sum(dim=(0, 2, 3))
    grad_weight = (grad * normalized).sum(dim=(0, 2, 3))
    means = [g[:, None, None] / 50 for g in (grad_bias, grad_weight)]  # over 2 * 5 * 5 values
    grad_x = weight[:, None, None] * invstd * (grad - means[0] - normalized * means[1])
    statistics = [t.flatten().float() for t in (mean, invstd)]
    found = batch_norm_backward(grad, x, weight, *statistics, eps)
    return list(zip(found, (grad_x, grad_weight, grad_bias), strict=True))


_PROBES: dict[Callable, Callable[[torch.dtype], Pairs]] = {
    convolve: _probe_convolve,
    add_convolution_: _probe_add_convolution,
    pack_weight: _probe_pack_weight,
    convolution_1x1_backward: _probe_convolution_1x1_backward,
    relu6_backward: _probe_relu6_backward,
    batch_norm_statistics: _probe_batch_norm_statistics,
    batch_norm_backward: _probe_batch_norm_backward,
}

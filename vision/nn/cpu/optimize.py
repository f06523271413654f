"""The two fast forms of a plain network: one for training on CPUs, one for inference.

Networks are built of torch's own layers, which anyone can read, export and load weights into. Both
functions here look for layers that fit a pattern and leave all others as they are, so they take
any network. What stands in for the layers is in the other files of this folder.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vision.nn.cpu.inference_conv2d import InferenceConv2d
from vision.nn.cpu.training_layers import FusedSequential, StridedConv2d, has_hooks
from vision.nn.sync_batch_norm import SyncBatchNorm2d


def optimize_for_training(model: nn.Module) -> None:
    """Make a network on a CPU train faster there; one on another device stays as it is.

    Replaced in place are convolutions of stride 2 (by `StridedConv2d`, which also has a right
    gradient where oneDNN's is wrong) and Sequentials with a BatchNorm2d and a ReLU6 behind it (by
    `FusedSequential`). The objects only change their class: parameters, buffers, keys of the state
    dict, children and hooks are the same, and so are copies and what DistributedDataParallel sees.
    """
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return
    for module in model.modules():
        if StridedConv2d.can_be(module):
            module.__class__ = StridedConv2d
        elif _is_sequential(module) and _has_norm_and_relu6(module):
            module.__class__ = FusedSequential


@torch.no_grad()
def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Return a copy for inference that computes the same with fewer operations.

    Every BatchNorm2d that follows a Conv2d in a Sequential becomes part of its weights, and a ReLU6
    behind it part of its operation. An Identity keeps the place of each, so indices into the
    Sequential stay right. The copy's weights are not to be changed.

    Args:
        model: plain, or made by `optimize_for_training`; on any device.
    """
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        if _is_sequential(parent):
            _fold_sequence(parent)
            continue
        for name, child in parent.named_children():
            if _is_convolution(child):
                setattr(parent, name, InferenceConv2d(child, relu6=False))
    return model


def _fold_sequence(block: nn.Sequential) -> None:
    layers = [*block, None, None]
    for i, (conv, norm, relu6) in enumerate(zip(layers, layers[1:], layers[2:], strict=False)):
        if not _is_convolution(conv):
            continue
        has_norm = _is_norm(norm)
        has_relu6 = has_norm and type(relu6) is nn.ReLU6 and not has_hooks(relu6)
        if has_norm:
            conv = fuse_conv_bn_eval(conv, norm)
            block[i + 1] = nn.Identity()
        if has_relu6:
            block[i + 2] = nn.Identity()
        block[i] = InferenceConv2d(conv, relu6=has_relu6)


def _is_sequential(module: nn.Module) -> bool:
    """Tell whether it calls its layers one after the other, as torchvision's ConvNormActivation."""
    return type(module).forward in (nn.Sequential.forward, FusedSequential.forward)


def _has_norm_and_relu6(block: nn.Sequential) -> bool:
    kinds = [type(layer) for layer in block]
    return (nn.BatchNorm2d, nn.ReLU6) in pairwise(kinds)


def _is_convolution(layer: nn.Module | None) -> bool:
    """Tell whether InferenceConv2d can stand in: no other subclass, no padding by other values."""
    return (
        type(layer) in (nn.Conv2d, StridedConv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not has_hooks(layer)
    )


def _is_norm(layer: nn.Module | None) -> bool:
    """Tell whether it is a BatchNorm whose statistics are known."""
    return (
        type(layer) in (nn.BatchNorm2d, SyncBatchNorm2d)
        and layer.running_var is not None
        and not has_hooks(layer)
    )

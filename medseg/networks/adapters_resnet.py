"""Public checkpoints on ResNet: the names of their tensors, turned into this package's. One function a key layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

# torchvision's bottleneck, which most others share.
_BOTTLENECK: Rules = (
    (r"layer(\d)\.(\d+)\.", lambda m: f"backbone.layers.{int(m[1]) - 1}.{m[2]}."),
    (r"\.conv1\.", ".reduce.0."),
    (r"\.bn1\.", ".reduce.1."),
    (r"\.conv2\.", ".middle.0."),
    (r"\.bn2\.", ".middle.1."),
    (r"\.conv3\.", ".expand.0."),
    (r"\.bn3\.", ".expand.1."),
    (r"\.downsample\.", ".shortcut."),
)
_PLAIN_STEM: Rules = ((r"^conv1\.", "backbone.stem.0."), (r"^bn1\.", "backbone.stem.1."))
_TORCHVISION_AUXILIARY: Rules = (
    (r"^aux_classifier\.([01])\.", r"auxiliary.fuse.\1."),
    (r"^aux_classifier\.4\.", "auxiliary.classifier."),
)
_MMSEGMENTATION: Rules = (
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.classifier."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary.fuse."),
    (r"^decode_head\.conv_seg\.", "head.classifier."),
    (r"^decode_head\.bottleneck\.", "head.fuse."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"head.context.branches.\1.unit."),
    (r"^decode_head\.aspp_modules\.(\d)\.", r"head.context.branches.\1."),
    (r"^decode_head\.image_pool\.1\.", "head.context.branches.4.unit."),
    (r"^((?:head|auxiliary)\..*)\.conv\.", r"\1.0."),
    (r"^((?:head|auxiliary)\..*)\.bn\.", r"\1.1."),
)


def torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ResNet-50, 101 or 152 trained on ImageNet: the backbone alone; its classifier of 1000 classes is left out."""
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    return _renamed(kept, (*_PLAIN_STEM, *_BOTTLENECK))


def torchvision_fcn(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """FCN on ResNet as torchvision has it."""
    rules: Rules = (
        (r"^backbone\.", ""),
        (r"^classifier\.([01])\.", r"head.fuse.\1."),
        (r"^classifier\.4\.", "head.classifier."),
        *_TORCHVISION_AUXILIARY,
        *_PLAIN_STEM,
        *_BOTTLENECK,
    )
    return _renamed(state, rules)


def torchvision_deeplabv3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DeepLab v3 as torchvision has it."""
    rules: Rules = (
        (r"^backbone\.", ""),
        (r"^classifier\.0\.convs\.4\.([12])\.", lambda m: f"head.context.branches.4.unit.{int(m[1]) - 1}."),
        (r"^classifier\.0\.convs\.", "head.context.branches."),
        (r"^classifier\.0\.project\.", "head.context.project.0."),
        (r"^classifier\.([12])\.", lambda m: f"head.fuse.{int(m[1]) - 1}."),
        (r"^classifier\.4\.", "head.classifier."),
        *_TORCHVISION_AUXILIARY,
        *_PLAIN_STEM,
        *_BOTTLENECK,
    )
    return _renamed(state, rules)


def mmsegmentation_pspnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PSPNet on ResNetV1c as mmsegmentation has it."""
    return _renamed(state, (*_MMSEGMENTATION, (r"^backbone\.layer", "layer"), *_BOTTLENECK))


def mmsegmentation_deeplabv3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DeepLab v3 on ResNetV1c as mmsegmentation has it: image pooling stands first in the pyramid, not last."""
    result = mmsegmentation_pspnet(state)
    if (fuse := result.get("head.fuse.0.weight")) is not None:
        pooled = fuse.shape[1] // 5
        result["head.fuse.0.weight"] = torch.cat([fuse[:, pooled:], fuse[:, :pooled]], dim=1)
    return result


def semseg_pspnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The PSPNet authors' PyTorch form (hszhao/semseg)."""
    rules: Rules = (
        (r"^layer0\.", "backbone.stem."),
        (r"^ppm\.features\.(\d)\.([12])\.", lambda m: f"head.context.branches.{m[1]}.unit.{int(m[2]) - 1}."),
        (r"^cls\.([01])\.", r"head.fuse.\1."),
        (r"^cls\.4\.", "head.classifier."),
        (r"^aux\.([01])\.", r"auxiliary.fuse.\1."),
        (r"^aux\.4\.", "auxiliary.classifier."),
        *_BOTTLENECK,
    )
    return _renamed(state, rules)


def deeplab_pytorch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DeepLab v2 of kazuto1011/deeplab-pytorch, converted from the authors' Caffe model."""
    rules: Rules = (
        (r"^base\.", ""),
        (r"^layer1\.conv1\.", "backbone.stem."),
        (r"^layer(\d)\.block(\d+)\.", lambda m: f"backbone.layers.{int(m[1]) - 2}.{int(m[2]) - 1}."),
        (r"\.conv3x3\.", ".middle."),
        (r"\.increase\.", ".expand."),
        (r"\.conv\.(weight|bias)$", r".0.\1"),
        (r"\.bn\.", ".1."),
        (r"^aspp\.c(\d)\.", r"head.pyramid.branches.\1."),
    )
    return _renamed(state, rules)


def refinenet_pytorch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RefineNet of DrSleep/refinenet-pytorch, converted from the authors' model."""

    def block(pattern: str, name: str, offset: int = -1) -> tuple[str, Callable[[re.Match[str]], str]]:
        # The first group is the block; a second one, if any, the unit within it. Both count from 1.
        def replace(m: re.Match[str]) -> str:
            unit = f".{int(m[2]) - 1}" if m.re.groups > 1 else ""
            return f"head.blocks.{int(m[1]) + offset}.{name.replace('*', unit)}."

        return pattern, replace

    rules: Rules = (
        block(r"^p_ims1d2_outl(\d)_dimred\.", "reduce"),
        block(r"^adapt_stage(\d)_b\.0\.(\d)_conv\.", "adapt*.first"),
        block(r"^adapt_stage(\d)_b\.0\.(\d)_conv_relu_varout_dimred\.", "adapt*.second"),
        block(r"^adapt_stage(\d)_b2_joint_varout_dimred\.", "fuse_fine"),
        block(r"^mflow_conv_g(\d)_pool\.0\.(\d)_outvar_dimred\.", "chain*"),
        block(r"^mflow_conv_g(\d)_b\.0\.(\d)_conv\.", "refine*.first"),
        block(r"^mflow_conv_g(\d)_b\.0\.(\d)_conv_relu_varout_dimred\.", "refine*.second"),
        # What leaves a block belongs here to the next one, which fuses it.
        block(r"^mflow_conv_g(\d)_b3_joint_varout_dimred\.", "fuse_coarse", offset=0),
        (r"^clf_conv\.", "head.classifier."),
        *_PLAIN_STEM,
        *_BOTTLENECK,
    )
    return _renamed(state, rules)


def _renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Every key after all rules in turn; a key that no rule knows keeps its name, and is found surplus later."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)  # noqa: PLW2901
        result[key] = tensor
    return result

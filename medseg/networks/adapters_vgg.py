"""Public checkpoints of the VGG family: their keys, one layout a function, as the keys of our networks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from medseg.networks.vgg import DEPTHS

_VGG16 = DEPTHS[16]


def torchvision_vgg16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of torchvision's vgg16: VGG's blocks, and fc6 and fc7 as convolutions of 7×7 and 1×1.

    The third fully connected layer, to ImageNet's 1000 classes, is left out.
    """
    return _torchvision(state, has_norm=False)


def torchvision_vgg16_bn(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of torchvision's vgg16_bn, as `torchvision_vgg16`, for networks with batch normalisation."""
    return _torchvision(state, has_norm=True)


def pytorch_fcn8s(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """FCN-8s of pytorch-fcn, whose weights come from the authors' Caffe model."""
    ours = {
        "fc6": "head.fc6",
        "fc7": "head.fc7",
        "score_fr": "score",
        "upscore2": "fusions.0.up",
        "score_pool4": "fusions.0.score",
        "upscore_pool4": "fusions.1.up",
        "score_pool3": "fusions.1.score",
        "upscore8": "upscore",
    }
    for block, count in enumerate(_VGG16):
        for unit in range(count):
            ours[f"conv{block + 1}_{unit + 1}"] = f"backbone.blocks.{block}.{unit}.conv"
    renamed: dict[str, str] = {}
    for theirs, name in ours.items():
        for part in ("weight",) if "upscore" in theirs else ("weight", "bias"):
            renamed[f"{theirs}.{part}"] = f"{name}.{part}"
    return _renamed(state, renamed)


def _torchvision(state: Mapping[str, Tensor], *, has_norm: bool) -> dict[str, Tensor]:
    renamed: dict[str, str] = {}
    index = 0
    for block, count in enumerate(_VGG16):
        for unit in range(count):
            ours = f"backbone.blocks.{block}.{unit}"
            renamed |= {f"features.{index}.{part}": f"{ours}.conv.{part}" for part in ("weight", "bias")}
            if has_norm:
                parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
                renamed |= {f"features.{index + 1}.{part}": f"{ours}.norm.{part}" for part in parts}
            index += 3 if has_norm else 2  # convolution, perhaps normalisation, ReLU
        index += 1  # pooling
    for theirs, name in (("classifier.0", "head.fc6"), ("classifier.3", "head.fc7")):
        renamed |= {f"{theirs}.{part}": f"{name}.{part}" for part in ("weight", "bias")}
    adapted = _renamed({key: tensor for key, tensor in state.items() if not key.startswith("classifier.6.")}, renamed)
    # A fully connected layer over the last pooled map of 7×7, and one over all channels.
    if (fc6 := adapted.get("head.fc6.weight")) is not None:
        adapted["head.fc6.weight"] = fc6.reshape(len(fc6), -1, 7, 7)
    if (fc7 := adapted.get("head.fc7.weight")) is not None:
        adapted["head.fc7.weight"] = fc7[:, :, None, None]
    return adapted


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Every key by its new name; one that the layout does not have keeps its own, and is found surplus later."""
    return {names.get(key, key): tensor for key, tensor in state.items()}

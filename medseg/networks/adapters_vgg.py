"""Public checkpoints of the VGG family: their keys, one layout a function, as the keys of our networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from medseg.errors import ModelError
from medseg.networks.vgg import DEPTHS

_VGG16 = DEPTHS[16]


class Convention(NamedTuple):
    """What images the weights of a file were trained with: (value · scale - mean) / sd, per channel.

    Attributes:
        channels: Order of the colours, "RGB" or "BGR".
        scale: Factor on values from 0 to 255.
        mean: Of each channel, in that order.
        sd: Of each channel, in that order.
    """

    channels: str
    scale: float
    mean: tuple[float, float, float]
    sd: tuple[float, float, float]


# The convention of every layout that this file reads, by the name of its function.
CONVENTIONS = {
    "torchvision_vgg16": Convention("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "torchvision_vgg16_bn": Convention("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "wkentaro_fcn8s": Convention("BGR", 1.0, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0)),
}


def torchvision_vgg16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of torchvision's vgg16: VGG's blocks, and fc6 and fc7 as convolutions of 7×7 and 1×1.

    The third fully connected layer, to ImageNet's 1000 classes, is left out.

    Raises:
        ModelError: If keys are missing or surplus; the message names them.
    """
    return _torchvision(state, has_norm=False)


def torchvision_vgg16_bn(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of torchvision's vgg16_bn, as `torchvision_vgg16`, for networks with batch normalisation.

    Raises:
        ModelError: If keys are missing or surplus; the message names them.
    """
    return _torchvision(state, has_norm=True)


def wkentaro_fcn8s(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """FCN-8s of pytorch-fcn, whose weights come from the authors' Caffe model.

    Raises:
        ModelError: If keys are missing or surplus; the message names them.
    """
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
    return _rename(state, renamed)


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
    left_out = ("classifier.6.weight", "classifier.6.bias")
    adapted = _rename(state, renamed, left_out)
    # A fully connected layer over the last pooled map of 7×7, and one over all channels.
    last = adapted[f"backbone.blocks.4.{_VGG16[4] - 1}.conv.weight"].shape[0]
    adapted["head.fc6.weight"] = adapted["head.fc6.weight"].reshape(-1, last, 7, 7)
    adapted["head.fc7.weight"] = adapted["head.fc7.weight"][:, :, None, None]
    return adapted


def _rename(state: Mapping[str, Tensor], renamed: Mapping[str, str], left_out: Iterable[str] = ()) -> dict[str, Tensor]:
    expected = {*renamed, *left_out}
    for what, keys in (("lacks", expected - state.keys()), ("has, besides the layout's own,", state.keys() - expected)):
        if keys:
            raise ModelError(f"The checkpoint {what} {', '.join(sorted(keys))}; give a file of this layout.")
    return {ours: state[theirs] for theirs, ours in renamed.items()}

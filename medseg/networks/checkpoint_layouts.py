"""The key layouts of public checkpoints: how each is recognised, and what its file was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from torch import Tensor

from medseg.networks import adapters_resnet as resnet

State: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class InputConvention:
    """What the network was trained on: (image in 0…255 · scale − mean) / std, channel by channel.

    Attributes:
        order: Of the channels.
        scale: Factor of the image.
        mean: Subtracted after scaling, in `order`.
        std: Divided by at last, in `order`.
    """

    order: Literal["RGB", "BGR"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


TORCHVISION = InputConvention("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The same in grey values.
GREY_VALUES = InputConvention("RGB", 1.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = InputConvention("BGR", 1.0, (104.008, 116.669, 122.675))


@dataclass(frozen=True)
class Adapter:
    """A key layout.

    Attributes:
        name: For people.
        marks: Keys that occur together in this layout alone.
        translate: The file's tensors by this package's names.
        convention: The input that the file was trained with.
        build: The architecture that the file holds (None: a backbone), and its settings other than the defaults.
        covers: Prefix of the network's keys that the file fills.
        classifier: Key, after translation, of a weight whose first axis is the classes.
        structure: Attributes of the network or its backbone that no shape tells, as the authors have them.
        doubt: About the convention, for those who load the file.
    """

    name: str
    marks: tuple[str, ...]
    translate: Callable[[State], dict[str, Tensor]]
    convention: InputConvention
    build: tuple[str | None, Mapping[str, Any]]
    covers: str = ""
    classifier: str | None = None
    structure: Mapping[str, object] = field(default_factory=dict)
    doubt: str = ""


_ALIKE = {"stride_on": "3x3", "first_block": "alike", "ceil_mode": False, "align_corners": True}
_PREVIOUS = {**_ALIKE, "first_block": "previous", "align_corners": False, "output_stride": 8, "multi_grid": (1,)}

# In the order in which they are tried.
ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "torchvision DeepLab v3",
        ("classifier.0.project.0.weight",),
        resnet.torchvision_deeplabv3,
        TORCHVISION,
        ("deeplabv3", {"variant": "torchvision"}),
        classifier="head.classifier.weight",
        structure=_PREVIOUS,
    ),
    Adapter(
        "torchvision FCN",
        ("backbone.layer1.0.conv1.weight", "classifier.0.weight", "classifier.4.weight"),
        resnet.torchvision_fcn,
        TORCHVISION,
        ("fcn_resnet", {}),
        classifier="head.classifier.weight",
        structure=_PREVIOUS,
    ),
    Adapter(
        "mmsegmentation PSPNet",
        ("decode_head.psp_modules.0.1.conv.weight",),
        resnet.mmsegmentation_pspnet,
        GREY_VALUES,
        ("pspnet", {"variant": "mmsegmentation"}),
        classifier="head.classifier.weight",
        structure=_PREVIOUS,
    ),
    Adapter(
        "mmsegmentation DeepLab v3",
        ("decode_head.aspp_modules.0.conv.weight",),
        resnet.mmsegmentation_deeplabv3,
        GREY_VALUES,
        ("deeplabv3", {"variant": "mmsegmentation"}),
        classifier="head.classifier.weight",
        structure=_PREVIOUS,
    ),
    Adapter(
        "semseg PSPNet",
        ("layer0.0.weight", "ppm.features.0.1.weight"),
        resnet.semseg_pspnet,
        GREY_VALUES,
        ("pspnet", {}),
        classifier="head.classifier.weight",
        structure={**_ALIKE, "output_stride": 8},
    ),
    Adapter(
        "deeplab-pytorch DeepLab v2",
        ("base.aspp.c0.weight",),
        resnet.deeplab_pytorch,
        CAFFE,
        ("deeplabv2", {"align_corners": False}),
        classifier="head.pyramid.branches.0.weight",
        structure={**_ALIKE, "stride_on": "1x1", "ceil_mode": True, "align_corners": False, "output_stride": 8},
    ),
    Adapter(
        "refinenet-pytorch",
        ("p_ims1d2_outl1_dimred.weight",),
        resnet.refinenet_pytorch,
        CAFFE,
        ("refinenet", {}),
        classifier="head.classifier.weight",
        structure={**_ALIKE, "output_stride": 32},
        doubt="Sources differ on whether the file takes BGR less the mean or RGB normalised; try both on an image.",
    ),
    Adapter(
        "torchvision ResNet",
        ("conv1.weight", "layer1.0.conv1.weight"),
        resnet.torchvision_resnet,
        TORCHVISION,
        (None, {}),
        covers="backbone.",
        structure={"stride_on": "3x3", "ceil_mode": False},
    ),
)

"""The key layouts of public checkpoints: how each is recognised, and what its file was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from medseg.convention import InputConvention
from medseg.networks import adapters_resnet as resnet
from medseg.networks import adapters_vgg as vgg

State: TypeAlias = Mapping[str, Tensor]


TORCHVISION = InputConvention(order="RGB", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# The same in grey values.
GREY_VALUES = InputConvention(order="RGB", scale=1.0, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
CAFFE = InputConvention(order="BGR", scale=1.0, mean=(104.008, 116.669, 122.675))
CAFFE_FCN = InputConvention(order="BGR", scale=1.0, mean=(104.00698793, 116.66876762, 122.67891434))


@dataclass(frozen=True)
class Adapter:
    """A key layout.

    Attributes:
        name: For people.
        marks: Keys that occur together in this layout alone.
        translate: The file's tensors by this package's names.
        convention: The input that the file was trained with.
        build: The architecture that the file holds (None: a backbone), and its settings other than 2D's defaults.
        covers: Prefix of the network's keys that the file fills.
        offers: Prefixes of keys beyond `covers` that are taken where the network has all of them in the file's shape.
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
    offers: tuple[str, ...] = ()
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
        doubt="The file is taken to expect BGR less the mean, as Caffe's do. Its publisher's notebook gives it RGB "
        "normalised as torchvision does; to do so too, set preparation.convention to order RGB, scale 0.0039216, mean "
        "[0.485, 0.456, 0.406], std [0.229, 0.224, 0.225].",
    ),
    Adapter(
        "torchvision ResNet",
        ("conv1.weight", "layer1.0.conv1.weight"),
        resnet.torchvision_resnet,
        TORCHVISION,
        (None, {"norm": "batch"}),
        covers="backbone.",
        structure={"stride_on": "3x3", "ceil_mode": False},
    ),
    Adapter(
        "pytorch-fcn FCN-8s",
        ("score_fr.weight", "upscore_pool4.weight"),
        vgg.pytorch_fcn8s,
        CAFFE_FCN,
        ("fcn8s", {}),
        offers=("fusions.0.up.", "fusions.1.up.", "upscore."),  # bilinear and frozen, in whatever form
        classifier="score.weight",
        structure={"padding": "paper"},
    ),
    Adapter(
        "torchvision VGG-16 with batch normalisation",
        ("features.1.running_mean", "classifier.6.weight"),
        vgg.torchvision_vgg16_bn,
        TORCHVISION,
        (None, {"norm": "batch"}),
        covers="backbone.",
        offers=("head.fc6.", "head.fc7."),
    ),
    Adapter(
        "torchvision VGG-16",
        ("features.2.weight", "classifier.6.weight"),
        vgg.torchvision_vgg16,
        TORCHVISION,
        (None, {"norm": "none"}),
        covers="backbone.",
        offers=("head.fc6.", "head.fc7."),
    ),
)

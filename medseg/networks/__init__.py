"""Networks: image tensor in, logits of the same size out. One paper a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.networks.crfrnn import CRFRNN
from medseg.networks.deeplabv1 import DeepLabV1, DeepLabV1MSc
from medseg.networks.deeplabv2 import DeepLabV2
from medseg.networks.deeplabv3 import DeepLabV3, DeepLabV3Cascade
from medseg.networks.dilation import Dilated, DilatedFrontend
from medseg.networks.fcn import FCN8s, FCN16s, FCN32s
from medseg.networks.fcn_resnet import FCNResNet
from medseg.networks.gcn import GCN
from medseg.networks.patch_classifier import PatchClassifier
from medseg.networks.pspnet import PSPNet
from medseg.networks.random_forest import RandomForest
from medseg.networks.refinenet import RefineNet
from medseg.networks.segnet import SegNet
from medseg.networks.unet import UNet


@dataclass(frozen=True)
class Architecture:
    """An entry of the table of architectures.

    Attributes:
        name: What `build` and configurations call it.
        builder: Called with spatial_dims, in_channels, num_classes and the settings.
        title: The name in print.
        paper: Where it was published.
        year: Of the first publication.
        receptive_field: Voxels an axis that a logit depends on, at the default settings.
        voc_test_miou: Published mean IoU on the PASCAL VOC 2012 test set, in per cent, if there is one.
        voc_conditions: What that figure was reached with.
    """

    name: str
    builder: Callable[..., nn.Module]
    title: str
    paper: str
    year: int
    receptive_field: str = ""
    voc_test_miou: float | None = None
    voc_conditions: str = ""

    def parameters(self, spatial_dims: int, *, in_channels: int = 1, num_classes: int = 2) -> int:
        """How many there are at the default settings, counted without making them."""
        with torch.device("meta"):
            network = self.builder(spatial_dims, in_channels, num_classes)
        return sum(parameter.numel() for parameter in network.parameters())

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of the settings that the builder takes, its backbone's among them."""
        names: list[str] = []
        for name, parameter in inspect.signature(self.builder).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                names += get_type_hints(*get_args(get_type_hints(self.builder.__init__)[name]))
            elif name not in ("self", "spatial_dims", "in_channels", "num_classes"):
                names.append(name)
        return tuple(dict.fromkeys(names))


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("unet", UNet, "U-Net", "arXiv 1505.04597", 2015, "204"),
    Architecture("fcn32s", FCN32s, "FCN-32s", "arXiv 1411.4038", 2014, "404"),
    Architecture("fcn16s", FCN16s, "FCN-16s", "arXiv 1411.4038", 2014, "404"),
    Architecture("fcn8s", FCN8s, "FCN-8s", "arXiv 1411.4038", 2014, "404", 62.2, "SBD; 67.2 with the later recipe"),
    Architecture("segnet", SegNet, "SegNet", "arXiv 1511.00561", 2015, "392", 59.9, "leaderboard"),
    Architecture(
        "dilated_frontend", DilatedFrontend, "Dilation, front end", "arXiv 1511.07122", 2015, "380", 67.6, "SBD"
    ),
    Architecture("dilated", Dilated, "Dilation8", "arXiv 1511.07122", 2015, "908", 73.5, "SBD, COCO; 74.7 with CRF"),
    Architecture("deeplabv1", DeepLabV1, "DeepLab v1 LargeFOV", "arXiv 1412.7062", 2014, "435", 70.3, "SBD, CRF"),
    Architecture(
        "deeplabv1_msc", DeepLabV1MSc, "DeepLab v1 MSc-LargeFOV", "arXiv 1412.7062", 2014, "435", 71.6, "SBD, CRF"
    ),
    Architecture("crfrnn", CRFRNN, "CRF-RNN", "arXiv 1502.03240", 2015, "whole image", 74.7, "SBD, COCO"),
    Architecture(
        "patch_classifier", PatchClassifier, "Patch classifier", "NIPS 2012, Cireşan et al.", 2012, "95; 47 in 3D"
    ),
    Architecture("random_forest", RandomForest, "Random forest", "Machine Learning 45, 5–32", 2001, "51"),
    Architecture(
        "deeplabv2",
        DeepLabV2,
        "DeepLab v2",
        "arXiv 1606.00915",
        2016,
        "1411; 2822 at half scale",
        79.7,
        "SBD, COCO, CRF",
    ),
    Architecture(
        "refinenet", RefineNet, "RefineNet", "arXiv 1611.06612", 2016, "3571", 83.4, "ResNet-152; 84.2 with COCO, CRF"
    ),
    Architecture(
        "pspnet", PSPNet, "PSPNet", "arXiv 1612.01105", 2016, "whole image", 82.6, "SBD; 85.4 with COCO; no CRF"
    ),
    Architecture("gcn", GCN, "GCN", "arXiv 1703.02719", 2017, "2151", 82.2, "SBD, COCO, multi-scale, CRF"),
    Architecture(
        "deeplabv3", DeepLabV3, "DeepLab v3", "arXiv 1706.05587", 2017, "whole image", 85.7, "86.9 with JFT; no CRF"
    ),
    Architecture("deeplabv3_cascade", DeepLabV3Cascade, "DeepLab v3 cascade", "arXiv 1706.05587", 2017, "4651"),
    Architecture("fcn_resnet", FCNResNet, "FCN on ResNet-101", "arXiv 1411.4038", 2019, "987"),
)


def build(name: str, *, spatial_dims: int, in_channels: int, num_classes: int, **settings: Any) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: One of `ARCHITECTURES`.
        spatial_dims: 2 for images (B, C, I, J), 3 for volumes (B, C, I, J, K).
        in_channels: Channels of the image.
        num_classes: Channels of the logits, background among them.
        settings: The architecture's own.

    Raises:
        ConfigError: If the name or a setting is unknown or out of range; the message lists what there is.
    """
    by_name = {architecture.name: architecture for architecture in ARCHITECTURES}
    if name not in by_name:
        raise ConfigError(f"Architecture {name!r} is unknown; there are: {', '.join(by_name)}.")
    if spatial_dims not in (2, 3) or in_channels < 1 or num_classes < 2:
        raise ConfigError(
            f"Network of {spatial_dims} spatial dims, {in_channels} channels and {num_classes} classes; "
            "spatial_dims is 2 or 3, in_channels at least 1, num_classes at least 2."
        )
    architecture = by_name[name]
    if unknown := sorted(set(settings) - set(architecture.settings)):
        raise ConfigError(f"{name} has no setting {unknown[0]!r}; there are: {', '.join(architecture.settings)}.")
    try:
        return architecture.builder(spatial_dims, in_channels, num_classes, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}.") from error

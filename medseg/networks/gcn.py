"""Global convolutional network ("Large kernel matters"): Peng et al., arXiv 1703.02719, figure 2."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.resnet import ResNet, ResNetSettings
from medseg.networks.segmenter import Segmenter

PAPER: ResNetSettings = {"depth": 152}


class GCN(Segmenter):
    """ResNet at stride 32; each map's scores by a global convolution, refined at boundaries and summed upwards.

    A global convolution of size k is separable: k×1 then 1×k, plus 1×k then k×1, without nonlinearity. There is no
    published GCN in 3D; here it has three branches, each of which goes over the three axes in turn, starting with
    another one.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits, and of everything outside the backbone.
        kernel: k of the global convolutions.
        align_corners: Of the upsampling by two.
        backbone: Settings of `ResNet`, by default those of `PAPER`.

    Parameters at 3 channels: 60,688,084 (21 classes) and 58,375,404 (2 classes) in 2D, with ResNet-101 45,044,436
    (21 classes); 7.5 M (2 classes) in 3D at its default width of 1/4.
    Receptive field in 2D: 2151 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        kernel: int = 15,
        align_corners: bool = False,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is not an odd number")
        trunk = ResNet(spatial_dims, in_channels, **(PAPER | backbone))
        super().__init__(trunk, _Sides(trunk, num_classes, kernel, align_corners), align_corners=align_corners)
        self.last = nn.ModuleList(_Boundary(spatial_dims, num_classes, trunk) for _ in range(2))
        # Nothing normalises the scores, so each of the nine refinements starts by adding little.
        for name, parameter in self.named_parameters():
            if name.endswith("residual.2.weight"):
                parameter.data.mul_(0.1)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        return self._raised(self.forward_features(x), x)

    def training_outputs(self, x: Float[Tensor, "b c *space"]) -> list[tuple[Tensor, float]]:
        """The logits and the weight of their loss."""
        return [(self(x), 1.0)]

    def _raised(self, logits: Tensor, x: Tensor) -> Tensor:
        """From stride 4 to the stem's size and to the image's, refined at each."""
        middle = [-(-n // s) for n, s in zip(x.shape[2:], self.backbone.strides[0], strict=True)]
        for size, refine in zip((middle, x.shape[2:]), self.last, strict=True):
            logits = refine(layer.resize(logits, size, align_corners=self.align_corners))
        return logits


class GlobalConvolution(nn.Module):
    """Separable convolutions of a large kernel, one branch for each order of the axes that is a rotation."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for first in range(spatial_dims):
            order = [(first + step) % spatial_dims for step in range(spatial_dims)]
            # Named by axis, so that the branches of a 2D network are found in a 3D one.
            self.branches.append(
                nn.ModuleDict(
                    {
                        str(axis): layer.conv(
                            spatial_dims,
                            channels if step else in_channels,
                            channels,
                            [kernel if a == axis else 1 for a in range(spatial_dims)],
                        )
                        for step, axis in enumerate(order)
                    }
                )
            )

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """The sum over the branches."""
        results = []
        for branch in self.branches:
            result = x
            for convolution in _by_axis(branch).values():
                result = convolution(result)
            results.append(result)
        return torch.stack(results).sum(0)

    def beyond_plane(self) -> dict[str, Tensor]:
        """What makes a 3D module compute what a 2D one does on every plane, for the weights that the latter has not.

        The convolutions over the third axis pass on what they get, and the third branch ends in zeros.
        """
        values = {}
        for index, branch in enumerate(self.branches):
            for axis, convolution in _by_axis(branch).items():
                weight, name = convolution.weight, f"branches.{index}.{axis}"
                bias = torch.zeros(len(weight), device=weight.device)
                if index < 2 and axis == "2":
                    identity = torch.zeros_like(weight)
                    middle = [size // 2 for size in weight.shape[2:]]
                    diagonal = torch.arange(len(weight), device=weight.device)
                    identity[diagonal, diagonal, *middle] = 1  # type: ignore[index]
                    values[f"{name}.weight"] = identity
                    values[f"{name}.bias"] = bias
                elif index == 2:
                    last = axis == "1"
                    values[f"{name}.weight"] = torch.zeros_like(weight) if last else weight.detach()
                    values[f"{name}.bias"] = bias
        return values


def _by_axis(branch: nn.Module) -> dict[str, nn.Conv2d | nn.Conv3d]:
    """A branch's convolutions in their order, by the axis that each goes over."""
    return dict(branch.named_children())  # type: ignore[arg-type]  # what was put into it


class _Boundary(nn.Module):
    """Boundary refinement: S + conv(relu(conv(S)))."""

    def __init__(self, spatial_dims: int, channels: int, trunk: ResNet) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            layer.conv(spatial_dims, channels, channels, trunk.kernel_size),
            nn.ReLU(inplace=True),
            layer.conv(spatial_dims, channels, channels, trunk.kernel_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        refined: Tensor = x + self.residual(x)
        return refined


class _Sides(nn.Module):
    """Scores of each map, and their sum from coarse to fine."""

    def __init__(self, trunk: ResNet, num_classes: int, kernel: int, align_corners: bool) -> None:
        super().__init__()
        dims = trunk.spatial_dims
        self.align_corners = align_corners
        self.scores = nn.ModuleList(
            GlobalConvolution(dims, stage.channels, num_classes, kernel) for stage in trunk.stages
        )
        self.sides = nn.ModuleList(_Boundary(dims, num_classes, trunk) for _ in trunk.stages)
        self.fusions = nn.ModuleList(_Boundary(dims, num_classes, trunk) for _ in trunk.stages[:-1])

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b classes *strided"]:
        """The backbone's maps to logits at stride 4."""
        *finer, x = [
            side(score(feature)) for side, score, feature in zip(self.sides, self.scores, features, strict=True)
        ]
        for side, fuse in zip(reversed(finer), reversed(self.fusions), strict=True):
            x = fuse(side + layer.resize(x, side.shape[2:], align_corners=self.align_corners))
        logits: Tensor = x
        return logits

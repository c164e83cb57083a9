"""RefineNet: Lin et al., arXiv 1611.06612, figures 2 and 3."""

from __future__ import annotations

from typing import Unpack

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks import layers as layer
from medseg.networks.layers import PerAxis, Stage, per_axis
from medseg.networks.resnet import ResNet, ResNetSettings
from medseg.networks.segmenter import Segmenter

# The depth of figure 3; the released network of the count below has more.
PAPER = {"pools": 2, "output_units": 1}

# The units that prepare a path for fusion. Those of the coarser path end its own block, as in the released network.
_ADAPTING_UNITS = 2


class RefineNet(Segmenter):
    """ResNet at stride 32, whose maps of res5 to res2 are refined one after another, from coarse to fine.

    A block adapts the backbone's map and the coarser block's result, sums them at the finer size, adds pooled context
    in a chain, and refines. The default is the VOC network that the authors released; `PAPER` has the numbers that
    figure 3 draws. There is no normalisation outside the backbone.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        pools: Poolings of the chain.
        output_units: Residual units at the end of the last block; the other blocks end with the two that adapt their
            result to the next as well, or with as many as are given if those are more.
        dropout: On res5, res4 and before the classifier.
        align_corners: Of every interpolation.
        backbone: Settings of `ResNet`.

    Parameters at 3 channels: 118,052,437 (21 classes) and 118,008,642 (2 classes) in 2D; 19.5 M (2 classes) in 3D at
    its default width of 1/4.
    Receptive field in 2D: 3571 pixels.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        pools: int = 4,
        output_units: int = 3,
        dropout: float = 0.5,
        align_corners: bool = True,
        **backbone: Unpack[ResNetSettings],
    ) -> None:
        trunk = ResNet(spatial_dims, in_channels, **backbone)
        super().__init__(
            trunk,
            _Cascade(trunk, num_classes, pools, output_units, dropout, align_corners=align_corners),
            align_corners=align_corners,
        )
        # Nothing normalises the 36 sums of the four blocks, so each starts by adding little.
        for name, parameter in self.head.named_parameters():
            if name.endswith("second.weight") or ".chain." in name:
                parameter.data.mul_(0.1)


class _ResidualUnits(nn.Sequential):
    """Residual convolution units: rectifier, 3×3, rectifier, 3×3, added to the input."""

    def __init__(self, spatial_dims: int, channels: int, units: int, kernel_size: PerAxis) -> None:
        super().__init__(*(_ResidualUnit(spatial_dims, channels, kernel_size) for _ in range(units)))


class _ResidualUnit(nn.Module):
    def __init__(self, spatial_dims: int, channels: int, kernel_size: PerAxis) -> None:
        super().__init__()
        self.first = layer.conv(spatial_dims, channels, channels, kernel_size)
        self.second = layer.conv(spatial_dims, channels, channels, kernel_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(functional.relu(self.first(functional.relu(x))))
        return x + residual


class _Block(nn.Module):
    """One RefineNet block on a map of the backbone and, but for the first, on the coarser block's result."""

    def __init__(
        self,
        spatial_dims: int,
        stage: Stage,
        channels: int,
        coarse_channels: int | None,
        *,
        pools: int,
        output_units: int,
        kernel_size: PerAxis,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = layer.conv(spatial_dims, stage.channels, channels, kernel_size, bias=False)
        self.adapt = _ResidualUnits(spatial_dims, channels, _ADAPTING_UNITS, kernel_size)
        if coarse_channels is not None:
            self.fuse_fine = layer.conv(spatial_dims, channels, channels, kernel_size, bias=False)
            self.fuse_coarse = layer.conv(spatial_dims, coarse_channels, channels, kernel_size, bias=False)
        window = [1 if k == 1 else 5 for k in per_axis(kernel_size, spatial_dims)]
        self.pool = layer.max_pool(spatial_dims, window, stride=1, padding=[w // 2 for w in window])
        self.chain = nn.ModuleList(
            layer.conv(spatial_dims, channels, channels, kernel_size, bias=False) for _ in range(pools)
        )
        self.refine = _ResidualUnits(spatial_dims, channels, output_units, kernel_size)

    def forward(self, fine: Tensor, coarse: Tensor | None) -> Tensor:
        x = self.adapt(self.reduce(fine))
        if coarse is not None:
            raised = layer.resize(self.fuse_coarse(coarse), fine.shape[2:], align_corners=self.align_corners)
            x = self.fuse_fine(x) + raised
        x = top = functional.relu(x)
        for convolution in self.chain:
            top = convolution(self.pool(top))
            x = x + top
        refined: Tensor = self.refine(x)
        return refined


class _Cascade(nn.Module):
    """The four blocks, coarse to fine, and the classifier at stride 4."""

    def __init__(
        self,
        trunk: ResNet,
        num_classes: int,
        pools: int,
        output_units: int,
        dropout: float,
        *,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        widths = [trunk.scaled(channels) for channels in (512, 256, 256, 256)]
        self.blocks = nn.ModuleList(
            _Block(
                trunk.spatial_dims,
                stage,
                width,
                coarse,
                pools=pools,
                output_units=output_units if last else max(output_units, 1 + _ADAPTING_UNITS),
                kernel_size=trunk.kernel_size,
                align_corners=align_corners,
            )
            for stage, width, coarse, last in zip(
                reversed(trunk.stages), widths, [None, *widths[:-1]], [False, False, False, True], strict=True
            )
        )
        self.classifier = layer.conv(trunk.spatial_dims, widths[-1], num_classes, trunk.kernel_size)

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b classes *strided"]:
        """The backbone's maps to logits at stride 4."""
        # The released network drops values of the two deepest maps too.
        fine, finer, *deep = features
        x = None
        for block, feature in zip(self.blocks, [*(self.dropout(f) for f in reversed(deep)), finer, fine], strict=True):
            x = block(feature, x)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits

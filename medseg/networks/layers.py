"""The few layers that know whether an image has two or three spatial axes; every network is written on top of these.

Sizes (`kernel_size`, `stride`, ...) are one integer for all axes or one integer an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.borders import extend
from medseg.networks.norms import BatchNorm, FrozenBatchNorm, GroupNorm

T = TypeVar("T")
PerAxis: TypeAlias = int | Sequence[int]
# Names that come from configurations, so any text may arrive: `norm` and `activation` check them.
Norm: TypeAlias = str
Activation: TypeAlias = str
NORMS = ("instance", "batch", "frozen_batch", "group", "none")

_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOL_TO: dict[int, Callable[..., Tensor]] = {
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
_LINEAR = {2: "bilinear", 3: "trilinear"}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": nn.GELU,
}


class Stage(NamedTuple):
    """One feature map of a backbone: its channels, and how many voxels of the image one of its voxels stands for."""

    channels: int
    stride: tuple[int, ...]


def per_axis(value: PerAxis, spatial_dims: int) -> tuple[int, ...]:
    """One integer an axis.

    Raises:
        ValueError: If a sequence has another length than there are axes.
    """
    sizes = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(sizes) != spatial_dims:
        raise ValueError(f"{value} has {len(sizes)} entries, expected one or {spatial_dims}")
    return sizes


def by_dims(spatial_dims: int, two: T, three: T) -> T:
    """What a setting is by default in 2D, and what it is in 3D."""
    return {2: two, 3: three}[spatial_dims]


def per_level(value: PerAxis | Sequence[PerAxis], levels: int, spatial_dims: int, what: str) -> list[tuple[int, ...]]:
    """One integer an axis for every level of a network.

    Raises:
        ValueError: If a sequence has another length than there are levels; the message calls the setting `what`.
    """
    if isinstance(value, int):
        return [per_axis(value, spatial_dims)] * levels
    if len(value) != levels:
        raise ValueError(f"{what} {value} has {len(value)} entries, expected one integer or {levels}, one a level")
    return [per_axis(entry, spatial_dims) for entry in value]


def conv(  # noqa: D417  # the other arguments are torch's own
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: PerAxis | Literal["same"] = "same",
    dilation: PerAxis = 1,
    bias: bool = True,
) -> nn.Module:
    """A convolution.

    Args:
        padding: "same" keeps the size at stride 1, by half the dilated kernel on each side.
    """
    kernel, dilations = per_axis(kernel_size, spatial_dims), per_axis(dilation, spatial_dims)
    if padding == "same":
        padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilations, strict=True)]
    return _CONV[spatial_dims](
        in_channels,
        out_channels,
        kernel,  # type: ignore[arg-type]  # a tuple an axis
        stride=per_axis(stride, spatial_dims),  # type: ignore[arg-type]
        padding=per_axis(padding, spatial_dims),  # type: ignore[arg-type]
        dilation=dilations,  # type: ignore[arg-type]
        bias=bias,
    )


def up_conv(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    stride: PerAxis,
    *,
    kernel_size: PerAxis | None = None,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A transposed convolution; unless `kernel_size` says otherwise, every voxel becomes a block of `stride` voxels."""
    steps = per_axis(stride, spatial_dims)
    kernel = per_axis(stride if kernel_size is None else kernel_size, spatial_dims)
    return _CONV_TRANSPOSE[spatial_dims](in_channels, out_channels, kernel, stride=steps, groups=groups, bias=bias)  # type: ignore[arg-type]


def max_pool(
    spatial_dims: int,
    size: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.Module:
    """Max pooling, over blocks of `size` unless `stride` says otherwise; `ceil_mode` keeps a rest at the end."""
    return _MAX_POOL[spatial_dims](
        per_axis(size, spatial_dims),
        stride=per_axis(size if stride is None else stride, spatial_dims),
        padding=per_axis(padding, spatial_dims),
        dilation=per_axis(dilation, spatial_dims),
        ceil_mode=ceil_mode,
        return_indices=return_indices,
    )


def average(x: Float[Tensor, "b c *space"], size: Sequence[int]) -> Float[Tensor, "b c *space"]:
    """The mean of `size` voxels (odd) around every voxel.

    Zeros beyond the border of the plane count, as in Caffe; in depth the last slice goes on instead, so that a volume
    that is constant in depth has the same mean on every slice.
    """
    # Padded beforehand, since torch's own padding refuses images smaller than the kernel.
    margins = [n // 2 for n in size]
    return _AVERAGE[x.ndim - 2](extend(x, margins, margins), tuple(size), stride=1)


def enlarge(
    x: Float[Tensor, "b c *space"], factors: Sequence[int], size: Sequence[int]
) -> Float[Tensor, "b c *enlarged"]:
    """Bilinear or trilinear enlargement by whole factors, cut to `size`, between zeros beyond the border of the plane.

    In the plane it is the fixed deconvolution of kernel 2·s, stride s and padding s/2; in depth the last slice goes on.
    """
    margins = [1, 1, *(0 for _ in factors[2:])]
    x = extend(x, margins, margins)
    large = resize(x, [n * factor for n, factor in zip(x.shape[2:], factors, strict=True)])
    for axis, (margin, factor, n) in enumerate(zip(margins, factors, size, strict=True), start=2):
        large = large.narrow(axis, margin * factor, n)
    return large


def average_pool_to(x: Float[Tensor, "b c *space"], bins: Sequence[int]) -> Float[Tensor, "b c *bins"]:
    """The mean of each of `bins` equal parts of every axis; parts overlap where there are fewer voxels than bins."""
    return _AVERAGE_POOL_TO[x.ndim - 2](x, tuple(bins))


def conv_norm(  # noqa: D417  # the other arguments are `conv`'s
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: PerAxis,
    kind: Norm,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    relu: bool = True,
    pooled: bool = False,
) -> nn.Sequential:
    """A convolution of half-kernel padding, a normalisation, and a rectifier.

    Args:
        kind: The normalisation, and `pooled`, as `norm` takes them.
        relu: Whether a rectifier follows.
    """
    unit = nn.Sequential(
        conv(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            # A normalisation takes the mean away again, so an offset before it would be dead weight.
            bias=kind == "none",
        ),
        norm(kind, spatial_dims, out_channels, pooled=pooled),
    )
    return unit.append(nn.ReLU(inplace=True)) if relu else unit


def norm(kind: Norm, spatial_dims: int, channels: int, *, pooled: bool = False) -> nn.Module:
    """A normalisation with learned scale and offset: per channel and sample, per channel and batch, or in groups.

    Args:
        kind: "instance", "batch", "frozen_batch" (never trained, as DeepLab v2's), "group" or "none".
        spatial_dims: 2 or 3.
        channels: Of the map.
        pooled: That the map has been averaged to one voxel or a few. Nothing would be left of a single voxel once its
            channel's own mean is taken away, so "instance" and "group" then go over all channels together.

    Raises:
        ValueError: If `kind` is unknown.
    """
    match kind:
        case "instance" | "group" if pooled:
            return GroupNorm(1, channels)
        case "instance":
            return GroupNorm(channels, channels)
        case "group":
            return GroupNorm(next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0), channels)
        case "batch":
            return BatchNorm(channels)
        case "frozen_batch":
            return FrozenBatchNorm(channels)
        case "none":
            return nn.Identity()
    raise ValueError(f"norm {kind!r} is unknown; there are: {', '.join(NORMS)}")


def activation(kind: Activation) -> nn.Module:
    """A nonlinearity.

    Raises:
        ValueError: If `kind` is unknown.
    """
    if kind not in _ACTIVATIONS:
        raise ValueError(f"activation {kind!r} is unknown; there are: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[kind]()


def resize(
    x: Float[Tensor, "b c *space"], size: Sequence[int], *, align_corners: bool = False
) -> Float[Tensor, "b c *resized"]:
    """Bilinear or trilinear interpolation to a spatial size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode=_LINEAR[x.ndim - 2], align_corners=align_corners)


def initialise(network: nn.Module) -> None:
    """He initialisation (arXiv 1502.01852) for convolutions, zero for offsets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=0.01, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

"""A patch classifier: Cireşan et al., Deep neural networks segment neuronal membranes, NIPS 2012, network N4."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.borders import leading_crop, pad
from medseg.networks.layers import Activation, PerAxis, by_dims, per_axis, per_level


class PatchClassifier(nn.Module):
    """A network that says what the centre of a patch is, run over whole images by the very same weights.

    Its fully connected layers are read as convolutions, and its poolings beyond `output_stride` keep every voxel and
    dilate what follows instead. The logits of a voxel are then exactly those of the patch around it (the image goes
    on mirrored beyond its border), so that training on a window is training on all of its patches at once
    (arXiv 1411.4038, section 3.4), at a fraction of the cost.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        channels: Of each convolution, every one followed by max pooling; 48 four times in 2D, three times in 3D.
        kernels: Of each convolution, an integer or one an axis; (4, 5, 4, 4) in 2D, (4, 5, 4) in 3D by default.
        strides: Of the poolings: one for all, or one a pooling, each an integer or one an axis.
        fc_kernel: Voxels that the first fully connected layer takes: one integer or one an axis.
        head_channels: Width of that layer.
        dropout: Probability that an element of it is dropped in training.
        activation: "relu", "leaky_relu", "elu" or "gelu".
        output_stride: Classify every nth voxel and interpolate between; 1 in 2D, 4 in 3D by default. It changes no
            weight, so that a model may be trained with one and used with another.

    Attributes:
        patch: Voxels an axis of the patch that a voxel's logits depend on: 95 in 2D, 47 in 3D by default.

    Parameters at 2 classes and 1 channel: 0.22 M in 2D and 0.70 M in 3D.
    Receptive field: the patch.

    Raises:
        ValueError: If a setting is out of range, or no poolings multiply to `output_stride`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        channels: Sequence[int] | None = None,
        kernels: Sequence[PerAxis] | None = None,
        strides: PerAxis | Sequence[PerAxis] = 2,
        fc_kernel: PerAxis = 3,
        head_channels: int = 200,
        dropout: float = 0.0,
        activation: Activation = "relu",
        output_stride: PerAxis | None = None,
    ) -> None:
        super().__init__()
        channels = channels or by_dims(spatial_dims, (48,) * 4, (48,) * 3)
        kernels = per_level(
            kernels or by_dims(spatial_dims, (4, 5, 4, 4), (4, 5, 4)), len(channels), spatial_dims, "kernels"
        )
        pools = per_level(strides, len(channels), spatial_dims, "strides")
        self.output_stride = per_axis(
            by_dims(spatial_dims, 1, 4) if output_stride is None else output_stride, spatial_dims
        )
        units: list[nn.Module] = []
        stride, dilation, self.patch = (1,) * spatial_dims, (1,) * spatial_dims, (1,) * spatial_dims
        for inputs, width, kernel, pool in zip((in_channels, *channels), channels, kernels, pools, strict=False):
            self._reach(kernel, stride, dilation)
            self._reach(pool, stride, dilation)
            # A pooling strides as long as the output stride allows, axis by axis.
            steps = [p if o % (s * p) == 0 else 1 for p, s, o in zip(pool, stride, self.output_stride, strict=True)]
            units += [
                layer.conv(spatial_dims, inputs, width, kernel, padding=0, dilation=dilation),
                layer.activation(activation),
                layer.max_pool(spatial_dims, pool, stride=steps, dilation=dilation),
            ]
            stride = tuple(s * step for s, step in zip(stride, steps, strict=True))
            dilation = tuple(d * p // step for d, p, step in zip(dilation, pool, steps, strict=True))
        if stride != self.output_stride:
            raise ValueError(f"output_stride {self.output_stride} is not a product of the first strides {pools}")
        self._reach(per_axis(fc_kernel, spatial_dims), stride, dilation)
        self.body = nn.Sequential(*units)
        self.head = nn.Sequential(
            layer.conv(spatial_dims, channels[-1], head_channels, fc_kernel, padding=0, dilation=dilation),
            layer.activation(activation),
            nn.Dropout(dropout),
            layer.conv(spatial_dims, head_channels, num_classes, 1),
        )
        layer.initialise(self)

    def _reach(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> None:
        """Widen the patch by what a kernel takes in."""
        taken = ((k - 1) * s * d for k, s, d in zip(kernel, stride, dilation, strict=True))
        self.patch = tuple(n + more for n, more in zip(self.patch, taken, strict=True))

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        before = [n // 2 for n in self.patch]
        # Behind, as far as the last classified voxel needs, which lies on the image's last or beyond.
        rest = [-(n - 1) % s for n, s in zip(x.shape[2:], self.output_stride, strict=True)]
        after = [n - 1 - low + more for n, low, more in zip(self.patch, before, rest, strict=True)]
        logits = self.forward_features(pad(x, before, after))
        span = [n + more for n, more in zip(x.shape[2:], rest, strict=True)]
        return leading_crop(layer.resize(logits, span, align_corners=True), x.shape[2:])

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *valid"]:
        """Logits of every patch that lies within the image, at `output_stride`; of a patch itself, one voxel.

        The centre of a patch of n voxels is voxel n // 2.
        """
        logits: Tensor = self.head(self.body(x))
        return logits

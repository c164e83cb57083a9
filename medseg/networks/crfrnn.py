"""CRF-RNN: Zheng et al., arXiv 1502.03240: FCN-8s and the mean field of a dense CRF, trained as one network."""

from __future__ import annotations

from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from medseg.networks.fcn import FCN8s, FCNSettings


class CRFRNN(FCN8s):
    """FCN-8s, whose logits a recurrent mean-field layer refines by what the image shows.

    With the defaults in 2D it is the released network: the deconvolution after score_fr has a bias, which is learned,
    and the layer has two C×C matrices for its kernels, first 3·I and 5·I, and a C×C compatibility, first Potts. The
    image goes to the layer as it comes to the network; `image_scale` brings its values to the 0 to 255 that the
    bilateral kernel's deviation of 3 is meant for.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        iterations: Of the mean field in training.
        eval_iterations: Of the mean field in prediction.
        spatial_sd: Of the spatial kernel, in voxels.
        bilateral_sd: Of the bilateral kernel, in voxels.
        bilateral_sd_value: Of the bilateral kernel, in intensity times `image_scale`.
        image_scale: Factor on the image before the mean field.
        network: Settings of `FCN32s`.

    Parameters at 2 classes: 134.3 M in 2D (at 21: 134.5 M) and 14.9 M in 3D.
    Receptive field: the whole image, by the mean field.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    first_up_has_bias = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        iterations: int = 5,
        eval_iterations: int = 10,
        spatial_sd: float = 3.0,
        bilateral_sd: float = 160.0,
        bilateral_sd_value: float = 3.0,
        image_scale: float = 1.0,
        **network: Unpack[FCNSettings],
    ) -> None:
        # Only who builds this network waits for it.
        from medseg.refine.crf import MeanField  # noqa: PLC0415

        super().__init__(spatial_dims, in_channels, num_classes, **network)
        self.image_scale = image_scale
        self.mean_field = MeanField(
            num_classes,
            iterations,
            eval_iterations=eval_iterations,
            spatial_sd=spatial_sd,
            bilateral_sd=bilateral_sd,
            bilateral_sd_value=bilateral_sd_value,
        )

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to refined logits at the image's own size."""
        refined: Tensor = self.mean_field(super().forward(x), x * self.image_scale)
        return refined

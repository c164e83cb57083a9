"""What the networks on a ResNet have in common: backbone, head, and the way back to the image's own size."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from medseg.networks import layers as layer
from medseg.networks.resnet import ResNet


class Segmenter(nn.Module):
    """A backbone, a head that turns its maps into logits, and in training perhaps a second head.

    Args:
        backbone: Image to maps.
        head: The backbone's maps to logits.
        align_corners: Whether interpolation puts the corner voxels of two grids on top of each other (as in Caffe and
            by the authors of PSPNet) or the corners of the grids (as in torchvision).
        auxiliary: A head whose logits count in training only.
        auxiliary_weight: Of its loss; that of the main head's loss is 1.
    """

    def __init__(
        self,
        backbone: ResNet,
        head: nn.Module,
        *,
        align_corners: bool,
        auxiliary: nn.Module | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.auxiliary = backbone, head, auxiliary
        self.align_corners, self.auxiliary_weight = align_corners, auxiliary_weight
        layer.initialise(self)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to logits at the image's own size."""
        return self.resized(self.forward_features(x), x)

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *strided"]:
        """Image to logits at the stride of the head."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def training_outputs(self, x: Float[Tensor, "b c *space"]) -> list[tuple[Tensor, float]]:
        """The logits that training looks at, each at the image's own size, and the weight of its loss."""
        features = self.backbone(x)
        outputs = [(self.resized(self.head(features), x), 1.0)]
        if self.auxiliary is not None:
            outputs.append((self.resized(self.auxiliary(features), x), self.auxiliary_weight))
        return outputs

    def resized(self, logits: Float[Tensor, "b n *strided"], x: Float[Tensor, "b c *space"]) -> Tensor:
        """Logits at the size of an image."""
        return layer.resize(logits, x.shape[2:], align_corners=self.align_corners)

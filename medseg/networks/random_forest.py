"""A random forest on texture features: Breiman, Random forests, Machine Learning 45, 2001."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medseg.networks.borders import pad

# Of every channel and scale: intensity, gradient, Laplacian, standard deviation, coherence of the structure tensor.
_PER_SCALE = 5
_LEAST_PROBABILITY = 1e-6


class RandomForest(nn.Module):
    """Trees that vote on every voxel by the texture around it; the logits are the logarithm of the mean vote.

    Trees are plain tensors, so that a forest is saved, moved and run like any network. They are grown by `fit`, with
    scikit-learn. Until then their splits are random; the distributions in their leaves are parameters, which gradient
    descent may learn or refine.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        trees: How many.
        max_depth: Splits from the root to a leaf at most.
        max_leaves: Of a tree, at most.
        scales: Standard deviations in voxels of the Gaussians that features are taken at.
        min_samples_leaf: Voxels that a leaf has in training at least.
        samples_per_image: Voxels that `fit` draws from an image, as many of every class where there are.

    Parameters at 2 classes: 51,100 in 2D and 3D alike: 50 trees × 511 nodes × 2 classes.
    Receptive field in 2D: 51 pixels.

    Raises:
        ValueError: If a setting is out of range.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        trees: int = 50,
        max_depth: int = 12,
        max_leaves: int = 256,
        scales: Sequence[float] = (1.0, 2.0, 4.0),
        min_samples_leaf: int = 5,
        samples_per_image: int = 2000,
    ) -> None:
        super().__init__()
        if min(trees, max_depth, min_samples_leaf, samples_per_image) < 1 or max_leaves < 2 or min(scales) <= 0:
            raise ValueError("trees, depth, leaves, scales and samples must be positive, and max_leaves at least 2")
        self.spatial_dims, self.num_classes = spatial_dims, num_classes
        self.trees, self.max_depth, self.max_leaves, self.scales = trees, max_depth, max_leaves, tuple(scales)
        self.min_samples_leaf, self.samples_per_image = min_samples_leaf, samples_per_image
        nodes = 2 * max_leaves - 1
        features = in_channels * (1 + _PER_SCALE * len(self.scales))
        # A complete binary tree as deep as the nodes allow; a leaf is its own child.
        own = torch.arange(nodes)
        first = 2 * own + 1
        inner = first < 2 ** (min(max_depth, int(math.log2(max_leaves))) + 1) - 1
        children = torch.stack([torch.where(inner, first, own), torch.where(inner, first + 1, own)], dim=-1)
        self.register_buffer("feature", torch.randint(features, (trees, nodes)))
        self.register_buffer("threshold", torch.randn(trees, nodes))
        self.register_buffer("child", children.repeat(trees, 1, 1))
        self.leaves = nn.Parameter(torch.randn(trees, nodes, num_classes))

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b classes *space"]:
        """Image to log-probabilities at the image's own size."""
        features = self.forward_features(x)
        voxels = features.movedim(1, -1).flatten(0, -2)
        votes = torch.stack([self._vote(tree, voxels) for tree in range(self.trees)]).mean(0)
        probabilities = votes.reshape(x.shape[0], *x.shape[2:], self.num_classes).movedim(-1, 1)
        return probabilities.clamp_min(_LEAST_PROBABILITY).log()

    def forward_features(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b features *space"]:
        """Image to the features that trees split on: each channel itself, then those of each scale."""
        maps = [x]
        for sd in self.scales:
            smooth = _gaussian(x, sd)
            slopes = [(_shift(smooth, axis, 1) - _shift(smooth, axis, -1)) / 2 for axis in range(self.spatial_dims)]
            bends = [
                _shift(smooth, axis, 1) - 2 * smooth + _shift(smooth, axis, -1) for axis in range(self.spatial_dims)
            ]
            variance = _gaussian(x.square(), sd) - smooth.square()
            maps += [
                smooth,
                torch.stack(slopes).square().sum(0).sqrt(),
                torch.stack(bends).sum(0),
                variance.clamp_min(0).sqrt(),
                _coherence(slopes, sd),
            ]
        return torch.cat(maps, dim=1)

    def _vote(self, tree: int, voxels: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Let every voxel fall through a tree to the distribution in its leaf."""
        feature, threshold, children = self.feature[tree], self.threshold[tree], self.child[tree].flatten()
        node = torch.zeros(len(voxels), dtype=torch.long, device=voxels.device)
        for _ in range(self.max_depth):
            value = voxels.gather(1, feature[node, None]).squeeze(1)
            node = children[2 * node + (value > threshold[node])]
        return self.leaves[tree].softmax(-1)[node]

    @torch.no_grad()
    def fit(self, samples: Iterable[tuple[Tensor, Tensor]], *, seed: int) -> None:
        """Grow the trees.

        Args:
            samples: Images (B, C, *space) with the class of every voxel (B, 1, *space), as training draws them.
            seed: Of the choice of voxels and of the trees.

        Raises:
            ValueError: If there is no sample.
        """
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415  # prediction does without it

        random = np.random.default_rng(seed)
        drawn = [
            self._draw(features, classes, random)
            for images, targets in samples
            for features, classes in zip(
                self.forward_features(images.float()).flatten(2), targets.flatten(1), strict=True
            )
        ]
        if not drawn:
            raise ValueError("a forest cannot grow without samples")
        features, classes, weights = (np.concatenate(part) for part in zip(*drawn, strict=True))
        forest = RandomForestClassifier(
            self.trees,
            max_depth=self.max_depth,
            max_leaf_nodes=self.max_leaves,
            min_samples_leaf=self.min_samples_leaf,
            random_state=seed,
        ).fit(features, classes, weights)
        for tree, estimator in enumerate(forest.estimators_):
            self._take(tree, estimator.tree_, forest.classes_.astype(int))

    def _draw(
        self, features: Float[Tensor, "features voxels"], classes: Int[Tensor, " voxels"], random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxels of one image, each weighing as many as it stands for, so that votes remain probabilities."""
        of_voxel = classes.cpu().numpy()
        present, counts = np.unique(of_voxel, return_counts=True)
        quota = max(1, self.samples_per_image // len(present))
        chosen = [
            random.choice(np.flatnonzero(of_voxel == index), min(quota, count), replace=False)
            for index, count in zip(present, counts, strict=True)
        ]
        weights = [np.full(len(voxels), count / len(voxels)) for voxels, count in zip(chosen, counts, strict=True)]
        voxels = np.concatenate(chosen)
        table = features.T.cpu().numpy()[voxels]
        return table.astype(np.float32), of_voxel[voxels], np.concatenate(weights)

    def _take(self, tree: int, grown: object, classes: np.ndarray) -> None:
        """Copy one of scikit-learn's trees."""
        left, right, feature, threshold, value = (
            np.asarray(getattr(grown, name))
            for name in ("children_left", "children_right", "feature", "threshold", "value")
        )
        count, own = len(left), np.arange(len(left))
        leaf = left < 0
        # Rounded down, so that a value at most the threshold in double precision is so in single precision.
        single = threshold.astype(np.float32)
        single = np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)
        children = np.stack([np.where(leaf, own, left), np.where(leaf, own, right)], axis=-1)
        votes = np.zeros((count, self.num_classes))
        votes[:, classes] = value[:, 0] / value[:, 0].sum(-1, keepdims=True)
        entries = (
            (self.feature, np.where(leaf, 0, feature)),
            (self.threshold, single),
            (self.child, children),
            (self.leaves, np.log(np.maximum(votes, _LEAST_PROBABILITY))),
        )
        for tensor, content in entries:
            tensor[tree].zero_()
            tensor[tree, :count] = torch.from_numpy(content).to(tensor)


def _gaussian(x: Tensor, sd: float) -> Tensor:
    """Smooth every spatial axis; not by convolutions, which mixed precision would round."""
    radius = math.ceil(3 * sd)
    weights = (-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / sd).square()).softmax(0)
    for axis in range(x.ndim - 2):
        x = (_extend(x, axis, radius).unfold(2 + axis, len(weights), 1) * weights).sum(-1)
    return x


def _shift(x: Tensor, axis: int, step: int) -> Tensor:
    """The neighbour of every voxel, one step along an axis."""
    return _extend(x, axis, 1).narrow(2 + axis, 1 + step, x.shape[2 + axis])


def _extend(x: Tensor, axis: int, radius: int) -> Tensor:
    margin = [radius if a == axis else 0 for a in range(x.ndim - 2)]
    return pad(x, margin, margin)


def _coherence(slopes: Sequence[Tensor], sd: float) -> Tensor:
    """Of the structure tensor J over a Gaussian: tr J² / (tr J)², 1 where all gradients lie on one line."""
    trace, squared = torch.zeros_like(slopes[0]), torch.zeros_like(slopes[0])
    for a, b in combinations_with_replacement(range(len(slopes)), 2):
        entry = _gaussian(slopes[a] * slopes[b], sd)
        squared = squared + entry.square() * (1 if a == b else 2)
        if a == b:
            trace = trace + entry
    return squared / (trace.square() + 1e-12)

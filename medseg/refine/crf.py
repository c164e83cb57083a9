"""Fully connected CRFs (Krähenbühl and Koltun, NeurIPS 2011) and CRF-RNN (Zheng et al., ICCV 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.refine.appearance import Plan, WindowPlan, appearance_operator, plan_appearance
from medseg.refine.checks import check_crf
from medseg.refine.gaussian import SmoothnessFilter
from medseg.refine.operators import Kernel, Normalization, normalised
from medseg.refine.pruning import likely_labels, with_pruned_labels

# Compiled kernels take so many voxels of a row at a time.
_SHORTEST_ROW = 16


def dense_crf(
    probabilities: Tensor,
    image: Tensor,
    *,
    spacing_mm: Sequence[float],
    smoothness_weight: float | Tensor,
    smoothness_sd_mm: float,
    appearance_weight: float | Tensor,
    appearance_sd_mm: float,
    appearance_sd_value: float | Sequence[float],
    compatibility: Literal["potts"] | Tensor = "potts",
    iterations: int = 5,
    normalization: Normalization = "symmetric",
    accurate: bool = False,
    prune: float = 0.0,
) -> Tensor:
    """Refine label probabilities with a fully connected CRF whose kernels are Gaussians in mm and intensity.

    The mean field of Krähenbühl and Koltun (2011) in pydensecrf's convention: with U = -log p and Q = softmax(-U), it
    repeats Q ← softmax(-U - μ · Σ w·n·K(n·Q)) with n = 1/√(K1), the self term included. For "potts", where μ is 1 off
    the diagonal, that is softmax(-U + Σ w·n·K(n·Q)). The smoothness kernel is an exact Gaussian; the appearance kernel
    is a bilateral grid for an image of one channel and a permutohedral lattice for several.

    Differentiable in `probabilities`, both weights and `compatibility`; the image is constant.

    Args:
        probabilities: (L, *space), two or three spatial axes, at least two labels, summing to one over the labels.
            Zeros are raised to the smallest normal number.
        image: (C, *space), any range of intensities.
        spacing_mm: Distance between voxel centres along every spatial axis.
        smoothness_weight: Of exp(-|Δp|²/2sd²).
        smoothness_sd_mm: Its standard deviation.
        appearance_weight: Of exp(-|Δp|²/2sd² - |Δv|²/2sd_v²).
        appearance_sd_mm: Its standard deviation in space.
        appearance_sd_value: Its standard deviation in the image's intensities, one for all channels or one for each.
        compatibility: "potts", or (L, L) where entry (l, m) is the penalty of label l near label m; Potts is 1 - I.
        iterations: Of the mean field.
        normalization: "symmetric" as above; "before", "after" and "none" as in pydensecrf.
        accurate: For several channels a finer lattice without missing vertices: slower, with a fraction of the error.
        prune: Leave out labels that together stay below this probability everywhere (see `plan_pruning`); they come
            back as zero. What was left out is logged. For Potts compatibility and constant weights.

    Returns:
        (L, *space), summing to one, of the type and on the device of `probabilities`.

    Raises:
        ValueError: If the tensors do not fit together, hold NaN, do not sum to one, have one label, or if a spacing or
            standard deviation is not positive.
    """
    check_crf(
        probabilities,
        image,
        spacing_mm=spacing_mm,
        smoothness_sd_mm=smoothness_sd_mm,
        appearance_sd_mm=appearance_sd_mm,
        appearance_sd_value=appearance_sd_value,
        compatibility=compatibility,
        iterations=iterations,
    )
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    # MPS has no sparse matrices.
    device = torch.device("cpu") if probabilities.device.type == "mps" else probabilities.device
    p, picture = probabilities.to(device, dtype), image.detach().to(device, dtype)
    smoothness_sd = [smoothness_sd_mm / s for s in spacing_mm]
    appearance_sd = [appearance_sd_mm / s for s in spacing_mm]
    weights = (smoothness_weight, appearance_weight)
    tolerance = prune if isinstance(compatibility, str) else 0.0
    plan = plan_appearance(picture, appearance_sd, appearance_sd_value, accurate)
    plain = isinstance(compatibility, str) and normalization == "symmetric"
    if plain and not isinstance(plan, WindowPlan) and _is_compilable(p, weights):
        from medseg.refine.compiled import compiled_crf  # noqa: PLC0415  # numba takes half a second to import

        q = compiled_crf(
            p,
            picture,
            plan,
            smoothness_sd_voxels=smoothness_sd,
            weights=(float(weights[0]), float(weights[1])),
            iterations=iterations,
            tolerance=tolerance,
        )
        return q.to(probabilities)
    kernels = pairwise_kernels(picture, smoothness_sd, plan, normalization)
    weighted = list(zip(weights, kernels, strict=True))
    flat = p.flatten(1)
    kept = likely_labels(
        flat, lambda: float(_messages(torch.ones_like(flat[:1]), weighted).detach().max()), iterations, tolerance
    )
    penalty = None if isinstance(compatibility, str) else compatibility.to(device, dtype)
    q = mean_field(flat[list(kept)], weighted, penalty, iterations)
    return with_pruned_labels(q, kept, len(p)).reshape(p.shape).to(probabilities)


def _is_compilable(p: Float[Tensor, "labels ..."], weights: Sequence[float | Tensor]) -> bool:
    """Whether nothing is asked for that the compiled mean field leaves out."""
    graph = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (p, *weights))
    return not graph and p.device.type == "cpu" and p.dtype == torch.float32 and max(p.shape[1:]) >= _SHORTEST_ROW


def mean_field(
    probabilities: Float[Tensor, "labels pixels"],
    kernels: Sequence[tuple[float | Tensor, Kernel]],
    penalty: Float[Tensor, "labels labels"] | None,
    iterations: int,
) -> Float[Tensor, "labels pixels"]:
    """The iterations of `dense_crf`; a penalty of None is Potts. Probabilities are normalised over their labels."""
    log_p = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    q = log_p.softmax(0)
    if len(q) == 1:
        return q
    mass = _messages(torch.ones_like(q[:1]), kernels)
    for _ in range(iterations):
        others = _messages(q[1:], kernels)
        # Probabilities sum to one, so the messages of all labels to the kernels' mass.
        message = torch.cat((mass - others.sum(0, keepdim=True), others))
        q = (log_p + message if penalty is None else log_p - penalty @ message).softmax(0)
    return q


def _messages(
    q: Float[Tensor, "labels pixels"], kernels: Sequence[tuple[float | Tensor, Kernel]]
) -> Float[Tensor, "labels pixels"]:
    return reduce(torch.add, [weight * kernel(q) for weight, kernel in kernels])


def pairwise_kernels(
    image: Float[Tensor, "channels ..."],
    smoothness_sd_voxels: Sequence[float],
    plan: Plan,
    normalization: Normalization,
) -> tuple[Kernel, Kernel]:
    """The smoothness and the appearance kernel of one image, built once for all labels and iterations."""
    shape = image.shape[1:]
    smoothness = SmoothnessFilter(shape, smoothness_sd_voxels, image.dtype, image.device)
    ones = torch.ones(1, math.prod(shape), dtype=image.dtype, device=image.device)
    appearance = appearance_operator(image, plan)
    return normalised(smoothness, ones, normalization), normalised(appearance, ones, normalization)


class MeanField(nn.Module):
    """A dense CRF as a layer whose weights are learnt with the network below it (CRF-RNN).

    Its kernels and first weights are the paper's: 3 · I for the spatial and 5 · I for the bilateral kernel, Potts
    compatibility, each message divided by its kernel's mass.

    Args:
        num_classes: C.
        iterations: In training.
        eval_iterations: In prediction.
        spatial_sd: Of the spatial kernel, in voxels.
        bilateral_sd: Of the bilateral kernel in space, in voxels.
        bilateral_sd_value: Of the bilateral kernel in intensity; the paper's 3 is for images of 0-255.
        normalization: Of the messages.
    """

    def __init__(
        self,
        num_classes: int,
        iterations: int = 5,
        *,
        eval_iterations: int = 10,
        spatial_sd: float = 3.0,
        bilateral_sd: float = 160.0,
        bilateral_sd_value: float = 3.0,
        normalization: Normalization = "after",
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"A CRF over {num_classes} class has nothing to choose from; it needs at least two.")
        self.iterations = iterations
        self.eval_iterations = eval_iterations
        self.spatial_sd = spatial_sd
        self.bilateral_sd = bilateral_sd
        self.bilateral_sd_value = bilateral_sd_value
        self.normalization = normalization
        self.spatial_weights = nn.Parameter(3.0 * torch.eye(num_classes))
        self.bilateral_weights = nn.Parameter(5.0 * torch.eye(num_classes))
        self.compatibility = nn.Parameter(1.0 - torch.eye(num_classes))

    def forward(
        self, unary_logits: Float[Tensor, "batch classes *space"], image: Float[Tensor, "batch channels *space"]
    ) -> Float[Tensor, "batch classes *space"]:
        """Refined logits.

        Args:
            unary_logits: The network's, (B, C, *space).
            image: (B, channels, *space) in the intensities that `bilateral_sd_value` is meant for; constant.
        """
        # An exported graph follows shapes, and the filters depend on values: there they are one opaque operator.
        refine: Callable[..., Tensor] = torch.ops.medseg.mean_field if torch.compiler.is_compiling() else refine_logits
        return refine(
            unary_logits,
            image.detach(),
            self.spatial_weights,
            self.bilateral_weights,
            self.compatibility,
            self.iterations if self.training else self.eval_iterations,
            self.spatial_sd,
            self.bilateral_sd,
            self.bilateral_sd_value,
            self.normalization,
        )


def refine_logits(  # noqa: PLR0917  # an operator takes its arguments by position
    unary_logits: Float[Tensor, "batch classes *space"],
    image: Float[Tensor, "batch channels *space"],
    spatial_weights: Float[Tensor, "classes classes"],
    bilateral_weights: Float[Tensor, "classes classes"],
    compatibility: Float[Tensor, "classes classes"],
    iterations: int,
    spatial_sd: float,
    bilateral_sd: float,
    bilateral_sd_value: float,
    normalization: Normalization,
) -> Float[Tensor, "batch classes *space"]:
    """What `MeanField` computes, as a function of all that it holds."""
    results = []
    # Autocast would run the messages in half precision, in which their sums over thousands of pixels overflow.
    with torch.autocast(unary_logits.device.type, enabled=False):
        dtype = torch.float64 if unary_logits.dtype == torch.float64 else torch.float32
        for unary, pixels in zip(unary_logits, image, strict=True):
            picture, axes = pixels.to(dtype), pixels.ndim - 1
            plan = plan_appearance(picture, [bilateral_sd] * axes, bilateral_sd_value, accurate=False)
            spatial, bilateral = pairwise_kernels(picture, [spatial_sd] * axes, plan, normalization)
            refined = logits = unary.to(dtype).reshape(unary.shape[0], -1)
            for _ in range(iterations):
                q = refined.softmax(0)
                message = spatial_weights @ spatial(q) + bilateral_weights @ bilateral(q)
                refined = logits - compatibility @ message
            results.append(refined.reshape(unary.shape))
    return torch.stack(results)


# Programs that torch.export saved need this operator: import medseg.refine before they are loaded.
torch.library.custom_op(
    "medseg::mean_field",
    refine_logits,
    mutates_args=(),
    schema="(Tensor unary_logits, Tensor image, Tensor spatial_weights, Tensor bilateral_weights, "
    "Tensor compatibility, int iterations, float spatial_sd, float bilateral_sd, float bilateral_sd_value, "
    "str normalization) -> Tensor",
).register_fake(
    lambda unary_logits, *_: torch.empty_like(
        unary_logits, dtype=torch.promote_types(unary_logits.dtype, torch.float32)
    )
)

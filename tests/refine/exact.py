"""The mean field of a dense CRF with every pair of pixels written out: O(N²), the reference of all tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def kernel_matrix(features: Tensor) -> Tensor:
    """K(i, j) = exp(-|f_i - f_j|²/2) for features (pixels, d)."""
    squared = (features**2).sum(1)
    return torch.exp(-0.5 * (squared[:, None] + squared[None] - 2 * features @ features.T).clamp_min(0))


def positions_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float64) * s for n, s in zip(shape, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def exact_dense_crf(
    probabilities: Tensor,
    image: Tensor,
    *,
    spacing_mm: Sequence[float],
    smoothness_weight: float,
    smoothness_sd_mm: float,
    appearance_weight: float,
    appearance_sd_mm: float,
    appearance_sd_value: float | Sequence[float],
    compatibility: str | Tensor = "potts",
    iterations: int = 5,
    normalization: str = "symmetric",
) -> Tensor:
    """pydensecrf's convention: Q0 = softmax(-U); Q ← softmax(-U + Σ w·n·K(n·Q)), n = 1/√(K1), self term included."""
    labels, *shape = probabilities.shape
    places = positions_mm(shape, spacing_mm)
    values = image.reshape(image.shape[0], -1).T.double() / torch.as_tensor(appearance_sd_value, dtype=torch.float64)
    kernels = [
        (smoothness_weight, kernel_matrix(places / smoothness_sd_mm)),
        (appearance_weight, kernel_matrix(torch.cat((places / appearance_sd_mm, values), 1))),
    ]
    log_p = probabilities.reshape(labels, -1).double().clamp_min(1e-30).log()
    penalty = 1 - torch.eye(labels, dtype=torch.float64) if isinstance(compatibility, str) else compatibility.double()
    q = log_p.softmax(0)
    for _ in range(iterations):
        message = torch.zeros_like(q)
        for weight, kernel in kernels:
            mass = kernel.sum(1)
            before = {"symmetric": mass**-0.5, "before": 1 / mass}.get(normalization, torch.ones_like(mass))
            after = {"symmetric": mass**-0.5, "after": 1 / mass}.get(normalization, torch.ones_like(mass))
            message += weight * after * ((before * q) @ kernel)
        q = (log_p - penalty @ message).softmax(0)
    return q.reshape(labels, *shape)


def mean_kl(exact: Tensor, found: Tensor) -> float:
    """Mean over pixels of KL(exact ‖ found) in nats."""
    p, q = exact.double().clamp_min(1e-12), found.double().clamp_min(1e-12)
    return float((p * (p / q).log()).sum(0).mean())


def disagreement(exact: Tensor, found: Tensor) -> float:
    """Share of pixels whose most probable label differs."""
    return float((exact.argmax(0) != found.argmax(0)).double().mean())


def noisy_scene(
    shape: Sequence[int], labels: int, channels: int = 1, seed: int = 0, noise: float = 1.5
) -> tuple[Tensor, Tensor]:
    """An image (channels, *shape) of blobs with grain, and a poor classifier's probabilities (labels, *shape)."""
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415

    random = np.random.default_rng(seed)
    blobs = np.stack(
        [gaussian_filter(random.standard_normal(shape), [min(shape) / 8 for _ in shape]) for _ in range(labels)]
    )
    truth = blobs.argmax(0)
    tones = random.uniform(30, 220, (channels, labels))
    image = tones[:, truth] + 8 * random.standard_normal((channels, *shape))
    logits = noise * random.standard_normal((labels, *shape)) + 1.5 * (
        np.arange(labels).reshape(-1, *[1] * len(shape)) == truth
    )
    return torch.tensor(image, dtype=torch.float32), torch.tensor(logits, dtype=torch.float32).softmax(0)

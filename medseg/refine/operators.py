"""What every kernel of a dense CRF is to the mean field: a linear map from pixels to pixels, with its adjoint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Normalization: TypeAlias = Literal["symmetric", "before", "after", "none"]


@runtime_checkable
class Operator(Protocol):
    """A square matrix over the pixels of one image, such as K(i, j) = exp(-|f_i - f_j|²/2), never written out."""

    def apply(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """K x, for every channel."""
        ...

    def adjoint(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """Kᵀ x, for every channel."""
        ...


class _Apply(torch.autograd.Function):
    """Operator.apply with Operator.adjoint as its backward; the operator itself is constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        return operator.apply(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.adjoint(gradient.contiguous()), None


@dataclass(frozen=True, eq=False)
class Kernel:
    """An operator between two diagonal matrices that normalise it: x ↦ after · K(before · x).

    Attributes:
        operator: The unnormalised kernel matrix K.
        before: (pixels,), or None for ones.
        after: (pixels,), or None for ones.
    """

    operator: Operator
    before: Tensor | None
    after: Tensor | None

    def __call__(self, x: Float[Tensor, "channels pixels"]) -> Float[Tensor, "channels pixels"]:
        """The message of every channel; differentiable in `x`."""
        if self.before is not None:
            x = x * self.before
        x = _Apply.apply(x.contiguous(), self.operator)  # type: ignore[no-untyped-call]
        return x if self.after is None else x * self.after


def normalised(operator: Operator, ones: Float[Tensor, "1 pixels"], normalization: Normalization) -> Kernel:
    """The operator with the normalisation that pydensecrf knows under the same name, from K1.

    "symmetric" is D^-½ K D^-½ with D = diag(K1), "before" K D⁻¹, "after" D⁻¹ K, "none" K itself.
    """
    if normalization == "none":
        return Kernel(operator, None, None)
    # The self term alone makes K1 at least one; a lattice that loses mass must not turn that into a division by zero.
    mass = operator.apply(ones)[0].clamp_min(1e-6)
    if normalization == "symmetric":
        mass = mass.rsqrt()
        return Kernel(operator, mass, mass)
    return Kernel(operator, 1 / mass, None) if normalization == "before" else Kernel(operator, None, 1 / mass)


class Interpolation:
    """Every pixel as a weighted mean of a few cells; splatting is the transposed matrix, slicing the matrix.

    Args:
        indices: (pixels, corners) cell numbers.
        weights: (pixels, corners) that sum to one over the corners.
        cells: How many cells there are.
    """

    def __init__(
        self, indices: Int[Tensor, "pixels corners"], weights: Float[Tensor, "pixels corners"], cells: int
    ) -> None:
        pixels, corners = indices.shape
        starts = torch.arange(0, pixels * corners + 1, corners, device=indices.device, dtype=torch.int32)
        shape = (pixels, cells)
        self.matrix = _csr(starts, indices.reshape(-1).to(torch.int32), weights.reshape(-1), shape)
        # The transpose is stored too, so that splatting gathers: scattering would add atomically, in any order.
        flat = indices.reshape(-1)
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=cells)
        starts = torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(torch.int32)
        pixel = torch.div(order, corners, rounding_mode="floor").to(torch.int32)
        self.transpose = _csr(starts, pixel, weights.reshape(-1)[order], (cells, pixels))

    def splat(self, x: Float[Tensor, "pixels channels"]) -> Float[Tensor, "cells channels"]:
        """Distribute the pixels over their cells."""
        return self.transpose @ x

    def slice(self, cells: Float[Tensor, "cells channels"]) -> Float[Tensor, "pixels channels"]:
        """Read the cells at the pixels."""
        return self.matrix @ cells


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)

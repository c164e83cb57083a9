"""Windows on their way through a network: mirrored as often as the model asks, in the arithmetic that it asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.config import Windows
from medseg.devices import has_bfloat16
from medseg.errors import ConfigError, ModelError
from medseg.geometry import Shape
from medseg.inference.compiling import Compiler
from medseg.inference.convolutions import channels_last, laid_out
from medseg.inference.folding import folded
from medseg.inference.head import Head, split_head
from medseg.inference.mirroring import mirror, mirrorings, swapped
from medseg.inference.windows import cut
from medseg.volume import Volume


class Passes:
    """Sends windows of a volume through a network; finds its head on the first.

    Args:
        prepared: Volume (C, I, J, K) of float32.
        network: Is moved to the device.
        windows: The model's conventions.
        device: Where the network runs.
        compiler: Compiles the network; None runs it as it is.

    Attributes:
        head: The layer that is put off, known after the first window; None if none is.

    Raises:
        ConfigError: If the device has not the arithmetic that is asked for.
    """

    def __init__(
        self,
        prepared: Volume,
        network: nn.Module,
        windows: Windows,
        device: torch.device | str,
        compiler: Compiler | None = None,
    ) -> None:
        self._compiler, self._origin = compiler, network
        self._usual: torch.Size | None = None
        self.prepared, self.windows, self.device = prepared, windows, torch.device(device)
        self.network = folded(network.to(device).eval())
        self._is_half = windows.precision == "bfloat16"
        if self._is_half and not has_bfloat16(str(self.device)):
            raise ConfigError(f"Precision bfloat16: {self.device} does not compute with it; leave --precision out.")
        self._is_laid_out = self._is_half or self.device.type == "cpu"
        if self._is_laid_out:
            # oneDNN's own layers hold weights that torch.compile cannot look into.
            by_onednn = self.device.type == "cpu" and not self._is_half and compiler is None
            self.network = channels_last(self.network, by_onednn=by_onednn)
        self.head: Head | None = None
        # No linear layer can follow probabilities, and what comes before the last one has no sides to swap.
        self._is_split = windows.average == "probabilities" or bool(windows.mirror_axes and windows.mirror_swaps)

    def scores(self, starts: list[Shape], size: Shape | None = None) -> Float[Tensor, "b channels i j k"]:
        """What the windows at `starts` give: logits, probabilities, or what the head takes.

        Args:
            starts: First voxels (i, j, k).
            size: Of the windows, if not the model's.
        """
        windows = self.windows
        size = size or windows.size
        context = (windows.thin_axis or 0, windows.context)
        array, filler = self.prepared.array, windows.padding_value
        batch = torch.stack([cut(array, start, size, filler, context=context) for start in starts]).to(self.device)
        total: Tensor | None = None
        passes = list(mirrorings(windows.mirror_axes))
        for axes in passes:
            scores = swapped(mirror(self.through(mirror(batch, axes)), axes), axes, windows.mirror_swaps)
            if windows.average == "probabilities":
                scores = scores.softmax(dim=1)
            total = scores if total is None else total.add_(scores)
        assert total is not None  # the plain pass is always among the mirrorings
        return total.div_(len(passes)) if len(passes) > 1 else total

    def through(self, image: Float[Tensor, "b c i j k"], *, exact: bool = False) -> Float[Tensor, "b channels i j k"]:
        """Logits, or what the head takes, of images on the device, in float32.

        Args:
            image: Of any size that the network takes.
            exact: Whether to compute in float32 whatever the arithmetic asked for.

        Raises:
            ModelError: If the network gives another size than it was given.
        """
        thin = self.windows.thin_axis
        seen = image if thin is None else image.squeeze(2 + thin)
        if not exact:
            self._usual = self._usual or seen.shape
        seen = laid_out(seen) if self._is_laid_out else seen
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._is_half and not exact):
            if self._is_split:
                scores = (self.network if exact else self._compiled(seen.shape))(seen)
            else:
                self._is_split = True
                scores, split = split_head(self.network, seen)
                if split is not None:
                    self.network, self.head = split.body, split.head
        scores = scores.float()
        scores = scores if thin is None else scores.unsqueeze(2 + thin)
        if scores.shape[2:] != image.shape[2:]:
            raise ModelError(f"The network gave {tuple(scores.shape[2:])} for a window of {tuple(image.shape[2:])}.")
        return scores

    def _compiled(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        """The network, compiled for the shape of the first batch: a smaller last one is not worth another one."""
        if self._compiler is None or shape != self._usual:
            return self.network
        key = (self._origin, str(self.device), self._is_half, self.head is None, shape)
        return self._compiler.compiled(self.network, key)

"""What is optimised and how: loss, schedule, and Dice on whole validation volumes, as a Lightning module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from monai.losses import DiceCELoss
from torch import Tensor, nn

from medseg.config import TrainConfig
from medseg.inference import predict
from medseg.labels import LabelSet
from medseg.metrics import confusion, dice
from medseg.pipeline import label
from medseg.training.augmentation import IMAGE, LABEL
from medseg.training.dataset import PreparedCase
from medseg.training.hardware import gathered, processes, rank
from medseg.training.rates import parameter_groups
from medseg.volume import Segmentation


class SegmentationModule(pl.LightningModule):
    """A network in training.

    Args:
        config: Of the training run.
        network: With the weights that training starts from.

    Logs `loss` each epoch, and `dice` (the mean over labels and cases) with `dice_<label>` at each validation.
    """

    def __init__(self, config: TrainConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        # Dice over the batch as one volume: a small structure that one patch misses does not rule the gradient.
        self.loss: nn.Module = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        # Mirrored passes cost much and change little from one epoch to the next.
        self._windows = config.windows.model_copy(update={"mirror_axes": ()})
        self._dice: list[dict[int, float]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch of patches."""
        # Chance inside the network (dropout) depends on the step alone, so that a resumed run meets the same.
        torch.manual_seed(int(np.random.default_rng((self.config.training.seed, self.global_step)).integers(2**63)))
        outputs = _training_outputs(self.network, batch[IMAGE])
        loss = torch.stack([weight * self._loss_of(logits, batch[LABEL]) for logits, weight in outputs]).sum()
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[IMAGE]), sync_dist=True)
        return loss

    def validation_step(self, case: PreparedCase, batch_idx: int) -> None:
        """Segment one whole volume on the model's grid; of several processes each takes its share of them."""
        if batch_idx % processes() != rank():
            return
        slabs = predict(case.image, self.network, self._windows, device=self.device)
        predicted = label(slabs, self.config.labels, case.image.geometry)
        self._dice.append(dice_per_label(case.reference, predicted, self.config.labels))

    def on_validation_epoch_end(self) -> None:
        """Log the mean Dice of each label over the cases, and the mean over labels."""
        cases = gathered(self._dice)
        means = {i: mean_defined([case[i] for case in cases]) for i in self.config.labels.indices}
        self._dice.clear()
        self.log_dict({f"dice_{self.config.labels[i].name}": mean for i, mean in means.items()})
        self.log("dice", mean_defined(list(means.values())))

    def configure_optimizers(self) -> Any:
        """AdamW, or SGD with Nesterov momentum; a linear warm-up, then polynomial decay to zero, step by step."""
        training = self.config.training
        groups = parameter_groups(
            self.network,
            training.learning_rate,
            weight_decay=training.weight_decay,
            head_factor=training.head_factor,
            bias_factor=training.bias_factor,
        )
        optimizer: torch.optim.Optimizer
        if training.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups)
        else:
            optimizer = torch.optim.SGD(groups, momentum=0.99, nesterov=True)
        steps = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
            return float(warmup * max(0.0, 1 - step / steps) ** training.poly_power)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm; a step whose gradients are not finite is left out, or it would ruin the weights for good."""
        assert gradient_clip_val is not None
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)
        if not torch.isfinite(norm):
            optimizer.zero_grad(set_to_none=True)
            print(f"note: step {self.global_step + 1} is left out: its gradients are not finite", file=sys.stderr)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Patches move to the device as a whole; of a validation case `predict` moves one window after another."""
        if isinstance(batch, PreparedCase):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _loss_of(self, logits: Float[Tensor, "b classes *size"], target: Int[Tensor, "b 1 *space"]) -> Tensor:
        if logits.shape[2:] != target.shape[2:]:
            mode = "bilinear" if logits.ndim == 4 else "trilinear"
            logits = nn.functional.interpolate(logits, target.shape[2:], mode=mode, align_corners=False)
        loss: Tensor = self.loss(logits.float(), target)
        return loss


def _training_outputs(network: nn.Module, x: Tensor) -> list[tuple[Tensor, float]]:
    """Logits and their weight in the loss: one pair, or as many as a network with auxiliary outputs gives."""
    auxiliary: Callable[[Tensor], list[tuple[Tensor, float]]] | None = getattr(network, "training_outputs", None)
    return auxiliary(x) if auxiliary is not None else [(network(x), 1.0)]


def dice_per_label(reference: Segmentation, prediction: Segmentation, labels: LabelSet) -> dict[int, float]:
    """Dice coefficient of each label of the set; NaN for a label that neither has."""
    pairs = confusion(reference.array, prediction.array, labels.indices)
    values = dict(zip(pairs.indices, dice(pairs).tolist(), strict=True))
    return {index: values[index] for index in labels.indices}


def mean_defined(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan

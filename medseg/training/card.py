"""The model card: what people must know of a model before they use it, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from medseg.config import TrainConfig

Dice: TypeAlias = Mapping[
    str, Mapping[int, float]
]  # of each case, of each label; NaN where the label is absent in both


@dataclass(frozen=True)
class Facts:
    """What a finished training run took.

    Attributes:
        train_cases: Names of the cases trained on.
        validation_cases: Names of the cases kept out.
        seconds: Wall time of all epochs.
        hardware: Kind of machine, such as "2 CPU cores".
        precision: Of the arithmetic, such as "bf16-mixed".
        is_fitted: Whether the model was fitted to one epoch of patches at once rather than by gradient descent.
    """

    train_cases: Sequence[str]
    validation_cases: Sequence[str]
    seconds: float
    hardware: str
    precision: str
    is_fitted: bool = False


@dataclass(frozen=True)
class Results:
    """What was measured on the cases that took no part in training.

    Attributes:
        dice: Of each case and label.
        calibration_error: Expected calibration error over what is or is taken for foreground.
        behaviour: What the model does with scans that are unlike, in words.
    """

    dice: Dice
    calibration_error: float
    behaviour: Mapping[str, str]


def metrics(config: TrainConfig, facts: Facts, results: Results) -> dict[str, Any]:
    """The card's numbers for machines: Dice per label (mean, sd, cases) and per case, and the training cost."""
    per_label, dice = {}, results.dice
    for label in config.labels:
        values = [of_case[label.index] for of_case in dice.values() if not math.isnan(of_case[label.index])]
        per_label[label.name] = {
            "mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "cases": len(values),
        }
    per_case = {
        name: {config.labels[i].name: None if math.isnan(value) else round(value, 4) for i, value in of_case.items()}
        for name, of_case in dice.items()
    }
    return {
        "validation_dice": per_label,
        "validation_dice_per_case": per_case,
        "expected_calibration_error": None
        if math.isnan(results.calibration_error)
        else round(results.calibration_error, 4),
        "behaviour": dict(results.behaviour),
        "training_cases": len(facts.train_cases),
        "epochs": 1 if facts.is_fitted else config.training.epochs,
        "training_seconds": round(facts.seconds),
        "hardware": facts.hardware,
    }


def licence_notice(config: TrainConfig) -> str:
    """What stands beside the weights."""
    card = config.card
    whose = f"{card.name} {card.version} ({card.title}) by {card.authors}"
    return f"The weights of {whose} are licensed under {card.licence}.\n\n{card.data_source}\n"


def render(config: TrainConfig, facts: Facts, results: Results) -> str:
    """The card as Markdown."""
    card, settings = config.card, config.training
    rows = "\n".join(
        f"| {name} | {_number(row['mean'])} ± {_number(row['sd'])} | {row['cases']} |"
        for name, row in metrics(config, facts, results)["validation_dice"].items()
    )
    reactions = "\n".join(f"| {what} | {result} |" for what, result in results.behaviour.items())
    averaged = f", averaged with a decay of {settings.ema_decay:g} a step" if settings.ema_decay else ""
    weights = "as fitted" if facts.is_fitted else f"those of the last epoch{averaged}"
    calibration = None if math.isnan(results.calibration_error) else results.calibration_error
    fold = (
        f"fold {config.data.fold} of {config.data.folds}"
        if not config.data.validation
        else "named in the configuration"
    )
    return f"""# {card.title}

{card.description}

- Name and version: {card.name} {card.version}
- Authors: {card.authors}
- Licence of the weights: {card.licence}

## Intended use

{card.intended_use}

## Limits

{card.limits}

## Data

{card.data_source}

{len(facts.train_cases)} cases were trained on; {len(facts.validation_cases)} took no part in it ({fold})
and were used for validation alone:

{", ".join(facts.validation_cases)}

## Validation

Dice coefficient, mean ± standard deviation over the validation cases, each on its own grid, by the same path that
`medseg predict` takes:

| label | Dice | cases |
|---|---|---|
{rows}

The weights are {weights}. They were not chosen by their validation score,
so the figures are not flattered by a choice.

Expected calibration error over the voxels that the reference or the model labels (15 bins): {_number(calibration)}.
Scans that are unlike those trained on get a finding in `run.json` where their field of view, voxel size or intensities
tell; what the model makes of some:

| scan | result |
|---|---|
{reactions}

## Training

{config.network.architecture}, {config.network.spatial_dims}D; {_course(config, facts)};
seed {settings.seed}. It took {facts.seconds / 60:.0f} minutes on {facts.hardware}, {facts.precision} arithmetic.

`medseg train train.yaml --data FOLDER` makes the weights again; `train.yaml`, every setting, and `log.csv`, loss and
Dice of every epoch, lie beside this card.
"""


def _course(config: TrainConfig, facts: Facts) -> str:
    settings = config.training
    patch = f"patches of {' × '.join(map(str, settings.patch))} voxels"
    if facts.is_fitted:
        return f"fitted to one epoch of {patch}, {settings.samples_per_case} a case"
    return (
        f"{settings.epochs} epoch(s) in batches of {settings.batch_size} {patch};\nDice + cross-entropy; "
        f"{_OPTIMIZERS[settings.optimizer]}; learning rate {settings.learning_rate:g}{_start(config)}"
    )


def _start(config: TrainConfig) -> str:
    weights = config.network.checkpoint
    if weights is None:
        return ""
    return f"; started from {weights.name if weights.suffix else f'the model {weights.parent.name}/{weights.name}'}"


_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD with Nesterov momentum"}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

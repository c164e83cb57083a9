"""Every case predicted by a model that did not see it: one run a fold, and what they give together."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

from medseg.atomic import write_text
from medseg.bundle import METADATA, read_info
from medseg.config import TrainConfig, load_config
from medseg.errors import ConfigError
from medseg.training.run import train

SUMMARY, TABLE = "cross_validation.json", "cross_validation.csv"


def cross_validate(config_path: Path, *, output: Path, resume: bool = False, **options: Any) -> Path:
    """Train one model a fold, and gather what they give on the cases that each did not see.

    Args:
        config_path: A file in configs/train.
        output: Gets a folder `fold_N` a fold, and the summary as JSON and, case by case, as CSV.
        resume: Leave folds alone that are finished, and continue the one that is not.
        options: Of every run, as `train` takes them.

    Returns:
        The summary: Dice per label over all cases, and what training cost.

    Raises:
        ConfigError: If the configuration names its validation cases, or a fold lies there and `resume` was not asked
            for.
        InputError: If cases are missing or unreadable.
    """
    config = load_config(Path(config_path), TrainConfig)
    if config.data.validation:
        raise ConfigError(f"{config_path}: data.validation names the cases kept out; remove it to have folds.")
    folders = [Path(output) / f"fold_{fold}" for fold in range(config.data.folds)]
    for fold, folder in enumerate(folders):
        if not (resume and (folder / "model" / METADATA).is_file()):
            started = any((folder / "checkpoints").glob("*.ckpt"))
            train(config_path, output=folder, resume=resume and started, fold=fold, **options)
    summary = gathered(folders)
    write_text(Path(output) / SUMMARY, json.dumps(summary, indent=2) + "\n")
    write_text(Path(output) / TABLE, _table(summary))
    return Path(output) / SUMMARY


def gathered(folders: list[Path]) -> dict[str, Any]:
    """The figures of finished runs: per label the mean and deviation over all cases, per case, and the cost.

    Raises:
        ModelError: If a run has left no model.
    """
    runs = [read_info(folder / "model").metrics for folder in folders]
    cases = {
        name: {"fold": fold, **of_case}
        for fold, run in enumerate(runs)
        for name, of_case in run["validation_dice_per_case"].items()
    }
    labels = {}
    for label in runs[0]["validation_dice"]:
        values = [of_case[label] for of_case in cases.values() if of_case[label] is not None]
        labels[label] = {
            "mean": round(statistics.fmean(values), 4) if values else None,
            "sd": round(statistics.stdev(values), 4) if len(values) > 1 else None,
            "cases": len(values),
            "mean_of_each_fold": [run["validation_dice"][label]["mean"] for run in runs],
        }
    return {
        "dice": labels,
        "folds": len(runs),
        "training_seconds": sum(run["training_seconds"] for run in runs),
        "hardware": runs[0]["hardware"],
        "dice_per_case": cases,
    }


def as_text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    lines = [
        f"{label}: Dice {row['mean']:.3f} ± {row['sd'] or 0:.3f} ({row['cases']} cases)"
        for label, row in summary["dice"].items()
        if row["mean"] is not None
    ]
    minutes = summary["training_seconds"] / 60
    return "\n".join([*lines, f"{summary['folds']} folds, {minutes:.0f} min of training on {summary['hardware']}"])


def _table(summary: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["case", "fold", *summary["dice"]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"case": name, **of_case} for name, of_case in summary["dice_per_case"].items())
    return text.getvalue()

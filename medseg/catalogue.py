"""What there is: the shipped models and the architectures, for people and as plain values for --json."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from medseg.bundle import WEIGHTS, read_info, shipped_models

_WIDTH = 80


def models_json() -> dict[str, Any]:
    """Shipped models and architectures as plain values; no weights are loaded."""
    from medseg.networks import ARCHITECTURES

    return {
        "models": [_model(folder) for folder in shipped_models().values()],
        "architectures": [
            {"name": entry.name, "title": entry.title, "paper": entry.paper, "year": entry.year}
            for entry in ARCHITECTURES
        ],
    }


def _model(folder: Path) -> dict[str, Any]:
    info = read_info(folder)
    weights = folder / WEIGHTS
    return {
        "name": info.name,
        "version": info.card.version,
        "title": info.card.title,
        "licence": info.card.licence,
        "accepts": info.accepts.model_dump(mode="json"),
        "labels": {str(index): name for index, name in info.labels.names.items()},
        "architecture": info.network.architecture,
        "bytes": weights.stat().st_size if weights.is_file() else None,
        "sha256": info.sha256,
    }


def models_text(content: dict[str, Any]) -> str:
    """The same for people, in 80 columns."""
    lines = ["models:"] if content["models"] else []
    for model in content["models"]:
        size = f"{model['bytes'] / 1e6:.1f} MB" if model["bytes"] else "weights missing"
        accepts = model["accepts"]
        low, high = accepts["field_of_view_mm"]
        modalities = " or ".join(accepts["modalities"]) or "any modality"
        view = f"{low:g} to {high:g} mm an axis" if high is not None and high < 1e9 else f"at least {low:g} mm an axis"
        labels = ", ".join(f"{index} {name}" for index, name in model["labels"].items())
        lines.append(f"  {model['name']} {model['version']}  {model['title']}")
        for text in (
            f"takes: {modalities}, {accepts['dimensions']}D, {view}{'; with --model' * accepts['by_name_only']}",
            f"labels: {labels}",
            f"{model['architecture']}, {size}, {model['licence']}",
        ):
            lines += textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="      ")
    lines.append("architectures:")
    lines += [f"  {a['name']:<20} {a['title']}, {a['year']}, {a['paper']}" for a in content["architectures"]]
    return "\n".join(lines)


def architectures_json() -> dict[str, Any]:
    """Every architecture with its figures; parameters are counted at 1 channel and 2 classes, weights are not made."""
    from medseg.networks import ARCHITECTURES

    return {
        "architectures": [
            {
                "name": entry.name,
                "title": entry.title,
                "paper": entry.paper,
                "year": entry.year,
                "parameters_2d": entry.parameters(2),
                "parameters_3d": entry.parameters(3),
                "receptive_field": entry.receptive_field,
                "voc2012_test_miou": entry.voc_test_miou,
                "voc2012_conditions": entry.voc_conditions,
                "settings": list(entry.settings),
            }
            for entry in ARCHITECTURES
        ]
    }


def architectures_text(content: dict[str, Any]) -> str:
    """The same as a table of 80 columns."""
    lines = [f"{'name':<17} {'year':<4} {'2D':>6} {'3D':>6} {'field':>11} {'VOC':>4}  paper"]
    for entry in content["architectures"]:
        flat, deep = (f"{entry[key] / 1e6:.1f}" for key in ("parameters_2d", "parameters_3d"))
        field = entry["receptive_field"].split(";")[0]
        miou = "" if entry["voc2012_test_miou"] is None else f"{entry['voc2012_test_miou']:.1f}"
        row = f"{entry['name']:<17} {entry['year']} {flat:>6} {deep:>6} {field:>11} {miou:>4}  {entry['paper']}"
        lines.append(row)
    explained = (
        "2D, 3D: million parameters at 1 channel, 2 classes and default settings. field: receptive field in 2D, pixels "
        "an axis. VOC: mean IoU on the PASCAL VOC 2012 test set as its authors published it, in per cent; --json tells "
        "with what data and refinement."
    )
    return "\n".join([*lines, "", *textwrap.wrap(explained, _WIDTH)])

"""The options that several commands share, and what is made of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from medseg.errors import ConfigError

if TYPE_CHECKING:
    from medseg.config import PredictConfig
    from medseg.study import ScanOptions

FILE = click.Path(path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])

_PREDICTION = (
    click.option("--model", metavar="NAME|FOLDER", help="Default: the shipped model that takes the scan."),
    click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is."),
    click.option("--overlap", type=click.FloatRange(0, 1, max_open=True), help="Share of a window seen twice."),
    click.option("--disable-tta", is_flag=True, default=None, help="No mirrored passes (test-time augmentation)."),
    click.option("--fast", is_flag=True, default=None, help="--disable-tta and --overlap 0.25; labels may differ."),
    click.option("--tiling", type=click.Choice(["overlap", "even", "halo"]), help="How windows are laid; see README."),
    click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of the network; labels may differ."),
    click.option("--body-only", is_flag=True, default=None, help="Leave out the air around the body."),
    click.option("--compile", is_flag=True, default=None, help="Compile the network (torch.compile); see README."),
    click.option("--max-memory", metavar="SIZE", help="Make the run fit, such as 8GB, or end with 5 before it starts."),
    click.option("--roi-subset", multiple=True, metavar="LABEL,...", help="Keep these labels only."),
    click.option("--crf", is_flag=False, flag_value="auto", metavar="[PRESET]", help="Refine by a dense CRF."),
    click.option("--largest-component", is_flag=True, default=None, help="Keep each label's largest component only."),
    click.option("--min-volume", type=click.FloatRange(min=0), metavar="MM3", help="Remove smaller components."),
    click.option("--fill-holes", is_flag=True, default=None, help="Fill what one label encloses."),
    click.option("--output-type", metavar="TYPE", help="nifti (default), dicom-seg, dicom-seg-binary, dicom-rtstruct."),
    click.option("--statistics/--no-statistics", default=None, help="Write statistics.json (default: yes)."),
    click.option("--preview/--no-preview", default=None, help="Write preview.png (default: yes)."),
    click.option("--report/--no-report", default=None, help="Write report.html (default: no)."),
    click.option("--frame", type=click.IntRange(min=0), help="Which volume of a 4D file, from 0."),
    click.option("--geometry", type=click.Choice(["repair", "strict"]), help="Gaps and uneven slices: default repair."),
    click.option("--prefer", type=click.Choice(["latest"]), help="Of contradicting slices; default: refuse."),
    click.option("--keep-identifiers", is_flag=True, help="Names of results may tell who the patient is."),
    click.option("--config", type=FILE, help="YAML in configs/predict; options win over it."),
    click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout."),
    click.option("--quiet", is_flag=True, help="Errors only."),
    click.option("--verbose", is_flag=True, help="Stages, seconds and memory too."),
)

# Options of a clean-up, and the keys of `components` in a configuration.
_CLEANING = {"largest_component": "keep_largest", "min_volume": "min_volume_mm3", "fill_holes": "fill_holes"}


def prediction_options(command: F) -> F:
    """Give a command the options of a prediction."""
    for option in reversed(_PREDICTION):
        command = option(command)
    return command


def prediction_settings(config: Path | None, options: dict[str, Any]) -> PredictConfig:
    """The configuration file with the options that were given on top.

    Raises:
        ConfigError: If a setting is unknown or out of range.
    """
    from medseg.config import PredictConfig, load_config, validate

    given = {key: value for key, value in options.items() if value not in (None, ())}
    if "roi_subset" in given:
        given["roi_subset"] = [name.strip() for names in given["roi_subset"] for name in names.split(",")]
    available = get_args(PredictConfig.model_fields["output_type"].annotation)
    if given.get("output_type", available[0]) not in available:
        raise ConfigError(f"Output type {given['output_type']!r} is not available; available: {', '.join(available)}.")
    base = load_config(config, PredictConfig) if config else PredictConfig()
    cleaned = {key: given.pop(name) for name, key in _CLEANING.items() if name in given}
    if cleaned:
        given["components"] = {**base.components.model_dump(), **cleaned}
    return validate({**base.model_dump(), **given}, PredictConfig, where="options")


def scan_options(options: dict[str, Any]) -> ScanOptions:
    """How doubtful scans are dealt with; takes what decides it out of the options."""
    from medseg.study import ScanOptions

    return ScanOptions(
        options.pop("geometry") or "repair", options.pop("prefer"), options.pop("keep_identifiers", False)
    )


def silence_libraries(verbose: bool) -> None:
    """Keep the libraries' warnings off a screen that shall hold one line an error."""
    if not verbose:
        warnings.simplefilter("ignore")

"""The `medseg` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from medseg import __version__
from medseg.cli_evaluate import evaluate
from medseg.cli_formats import convert, inspect
from medseg.cli_voc import voc
from medseg.errors import BatchError, ConfigError, MedsegError
from medseg.pacs.commands import pacs
from medseg.program import EXIT_CODES, Program, complain

if TYPE_CHECKING:
    from medseg.case import Result
    from medseg.config import PredictConfig

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
_FILE = click.Path(path_type=Path)


@click.group("medseg", cls=Program, context_settings=_CONTEXT, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="medseg")
def main() -> None:
    """Segment medical images: files in, files out, geometry exact.

    \b
    medseg predict scan.nii.gz             scan_seg.nii.gz beside the scan
    medseg predict dicom_folder -o out     all results into out/
    medseg evaluate truth.nii.gz scan_seg.nii.gz
    medseg models                          what can be segmented
    """


@main.command(epilog=EXIT_CODES)
@click.argument("inputs", nargs=-1, metavar="[SCAN]...")
@click.option("-i", "--input", "more_inputs", multiple=True, metavar="SCAN", help="The same as the argument.")
@click.option("-o", "--output", type=_FILE, help="A mask (.nii.gz, .nii, .dcm) or a folder.")
@click.option("--model", metavar="NAME|FOLDER", help="Default: the shipped model that takes the scan.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--overlap", type=click.FloatRange(0, 1, max_open=True), help="Share of a window seen twice.")
@click.option("--disable-tta", is_flag=True, default=None, help="No mirrored passes (test-time augmentation).")
@click.option("--fast", is_flag=True, default=None, help="--disable-tta and --overlap 0.25; labels may differ.")
@click.option("--roi-subset", multiple=True, metavar="LABEL,...", help="Keep these labels only.")
@click.option("--crf", is_flag=False, flag_value="auto", metavar="[PRESET]", help="Refine by a dense CRF.")
@click.option("--output-type", metavar="TYPE", help="nifti (default), dicom-seg, dicom-seg-binary, dicom-rtstruct.")
@click.option("--statistics/--no-statistics", default=None, help="Write statistics.json (default: yes).")
@click.option("--preview/--no-preview", default=None, help="Write preview.png (default: yes).")
@click.option("--report/--no-report", default=None, help="Write report.html (default: no).")
@click.option("--frame", type=click.IntRange(min=0), help="Which volume of a 4D file, from 0.")
@click.option("--geometry", type=click.Choice(["repair", "strict"]), help="Gaps and uneven slices: default repair.")
@click.option("--prefer", type=click.Choice(["latest"]), help="Of slices that contradict one another; default: refuse.")
@click.option("--keep-identifiers", is_flag=True, help="Names of results may tell who the patient is.")
@click.option("--continue-prediction", is_flag=True, help="Skip cases that are done and unchanged.")
@click.option("--config", type=_FILE, help="YAML in configs/predict; options win over it.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Stages, seconds and memory too.")
def predict(
    inputs: tuple[str, ...],
    more_inputs: tuple[str, ...],
    output: Path | None,
    frame: int | None,
    geometry: Literal["repair", "strict"] | None,
    prefer: Literal["latest"] | None,
    keep_identifiers: bool,
    continue_prediction: bool,
    config: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Label every voxel of one or more scans.

    SCAN is a file, a folder (of scans, or a DICOM series), a zip or tar of one, a
    DICOMDIR, or a quoted glob. For a model of several channels: files
    CASE_0000.nii.gz, CASE_0001.nii.gz, ... or a 4D file.

    \b
    What is written for scan.nii.gz:
      scan_seg.nii.gz    labels on the scan's own grid
      statistics.json    volume, voxels, mean intensity of every label
      preview.png        three slices with contours
      report.html        all of it to read and look at, with --report
      run.json           hashes, versions, settings, findings, seconds
    Where:
      no -o              scan_seg.nii.gz beside the scan (a DICOM series: beside
                         its folder), the rest in scan_seg/
      -o mask.nii.gz     that file, the rest in mask/
      -o FOLDER          all in FOLDER; of several scans each in FOLDER/scan/.
                         Where FOLDER has another scan's run.json already, the
                         rest goes to FOLDER/scan_seg/.
    Files appear whole or not at all, run.json last.

    Of a DICOM series --output-type writes scan_seg.dcm instead of the .nii.gz:
    dicom-seg (LABELMAP, small), dicom-seg-binary (one bit a voxel, for older
    viewers); or scan_rtstruct.dcm: dicom-rtstruct (contours).

    \b
    medseg predict scan.nii.gz -o out --fast
    medseg predict dicom_folder -o out --output-type dicom-seg
    medseg predict scans/ -o out --continue-prediction
    """
    patterns = (*inputs, *more_inputs)
    if not patterns:
        raise click.UsageError("No scan was given.", click.get_current_context())
    settings = _predict_settings(config, options)
    _silence_libraries(verbose)
    from medseg.case import Predictor, plan_cases, run_cases
    from medseg.console import CaseProgress, describe, summary
    from medseg.devices import choose_device
    from medseg.inputs import find_inputs
    from medseg.study import ScanOptions

    options_ = ScanOptions(geometry or "repair", prefer, keep_identifiers)
    predictor = Predictor(settings, device=choose_device(settings.device), frame=frame, options=options_)
    scans = find_inputs(patterns, channels=predictor.channels, options=options_)
    cases = plan_cases(scans, output, settings.output_type)
    results: list[Result] = []
    with CaseProgress(len(cases), show=not quiet) as progress:
        for result in run_cases(cases, predictor, progress=progress.begin, skip_done=continue_prediction):
            results.append(result)
            progress.end()
            if not quiet:
                describe(result, verbose=verbose, to_stderr=as_json)
    if as_json:
        click.echo(json.dumps(summary(results)))
    _raise_failures(results)


def _predict_settings(config: Path | None, options: dict[str, Any]) -> PredictConfig:
    """The configuration file with the options that were given on top."""
    from medseg.config import PredictConfig, load_config, validate

    given = {key: value for key, value in options.items() if value not in (None, ())}
    if "roi_subset" in given:
        given["roi_subset"] = [name.strip() for names in given["roi_subset"] for name in names.split(",")]
    available = get_args(PredictConfig.model_fields["output_type"].annotation)
    if given.get("output_type", available[0]) not in available:
        raise ConfigError(f"Output type {given['output_type']!r} is not available; available: {', '.join(available)}.")
    base = load_config(config, PredictConfig) if config else PredictConfig()
    return validate({**base.model_dump(), **given}, PredictConfig, where="options")


def _raise_failures(results: Sequence[Result]) -> None:
    failed = [(result.case.input.name, result.error) for result in results if result.error is not None]
    if not failed:
        return
    if len(results) == 1 and failed[0][1] is not None:
        raise failed[0][1]
    for name, error in failed:
        if not isinstance(error, MedsegError):
            traceback.print_exception(error)
        complain(f"{name}: {error}", 0)
    raise BatchError(f"{len(failed)} of {len(results)} cases failed: {', '.join(name for name, _ in failed)}.")


@main.command(epilog=EXIT_CODES)
@click.argument("config", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="Folder of the run (default: runs/NAME of the configuration).")
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in the output folder.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the configuration's.")
@click.option("--architecture", metavar="NAME", help="Instead of the configuration's; `medseg models` lists them.")
@click.option("--data", "--root", "root", type=_FILE, help="Data set, instead of the configuration's.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Warnings of the libraries too.")
def train(
    config: Path,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Train a model as one YAML file says.

    CONFIG names the data, the network and the schedule. The model's folder, which
    `medseg predict --model` takes, is printed at the end.

    \b
    medseg train configs/train/hippocampus.yaml -o runs/hippocampus
    medseg train configs/train/hippocampus.yaml -o runs/hippocampus --resume
    """
    _silence_libraries(verbose)
    from medseg.training import train as run

    folder = run(config, output=output or Path("runs") / config.stem, progress=not quiet, **options)
    if as_json:
        click.echo(json.dumps({"model": str(folder)}))
    elif not quiet:
        click.echo(folder)


@main.command(epilog=EXIT_CODES)
@click.option("--architectures", is_flag=True, help="The architectures only, with their figures.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
def models(architectures: bool, as_json: bool) -> None:
    """List the models that come with medseg, and the architectures.

    A model is ready for `medseg predict --model NAME`; an architecture is what
    `medseg train --architecture NAME` can train. With --architectures: their
    parameters, receptive fields and published figures.
    """
    from medseg.catalogue import architectures_json, architectures_text, models_json, models_text

    content = architectures_json() if architectures else models_json()
    as_text = architectures_text if architectures else models_text
    click.echo(json.dumps(content) if as_json else as_text(content))


for _command in (evaluate, convert, inspect, voc, pacs):
    main.add_command(_command)
for _command in (evaluate, convert, inspect, voc, *voc.commands.values()):
    _command.epilog = EXIT_CODES


def _silence_libraries(verbose: bool) -> None:
    """Keep the libraries' warnings off a screen that shall hold one line an error."""
    if not verbose:
        warnings.simplefilter("ignore")

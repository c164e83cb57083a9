"""The `medseg` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medseg import __version__
from medseg.cli_batch import batch
from medseg.cli_evaluate import evaluate
from medseg.cli_formats import convert, inspect
from medseg.cli_plan import plan
from medseg.cli_voc import voc
from medseg.errors import BatchError, MedsegError
from medseg.options import FILE, prediction_options, prediction_settings, scan_options, silence_libraries
from medseg.pacs.commands import pacs
from medseg.program import EXIT_CODES, Program, complain

if TYPE_CHECKING:
    from medseg.cases import Result

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


@click.group("medseg", cls=Program, context_settings=_CONTEXT, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="medseg")
def main() -> None:
    """Segment medical images: files in, files out, geometry exact.

    \b
    medseg predict scan.nii.gz             scan_seg.nii.gz beside the scan
    medseg predict dicom_folder -o out     all results into out/
    medseg batch scans out                 all that is new or has changed
    medseg evaluate truth.nii.gz scan_seg.nii.gz
    medseg models                          what can be segmented
    """


@main.command(epilog=EXIT_CODES)
@click.argument("inputs", nargs=-1, metavar="[SCAN]...")
@click.option("-i", "--input", "more_inputs", multiple=True, metavar="SCAN", help="The same as the argument.")
@click.option("-o", "--output", type=FILE, help="A mask (.nii.gz, .nii, .dcm) or a folder.")
@click.option("--continue-prediction", is_flag=True, help="Skip cases that are done and unchanged.")
@prediction_options
def predict(
    inputs: tuple[str, ...],
    more_inputs: tuple[str, ...],
    output: Path | None,
    frame: int | None,
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
    reading = scan_options(options)
    settings = prediction_settings(config, options)
    silence_libraries(verbose)
    from medseg.case import Predictor, run_cases
    from medseg.cases import plan_cases
    from medseg.console import CaseProgress, describe, summary
    from medseg.devices import choose_device
    from medseg.inputs import find_inputs

    predictor = Predictor(settings, device=choose_device(settings.device), frame=frame, options=reading)
    scans = find_inputs(patterns, channels=predictor.channels, options=reading)
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
@click.argument("config", type=FILE)
@click.option("-o", "--output", type=FILE, help="Folder of the run (default: runs/NAME of the configuration).")
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in the output folder.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--devices", type=click.IntRange(min=1), default=1, help="How many train together (default: 1).")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the configuration's.")
@click.option("--architecture", metavar="NAME", help="Instead of the configuration's; `medseg models` lists them.")
@click.option("--fold", type=click.IntRange(min=0), help="Which fold to keep out, instead of the configuration's.")
@click.option("--all-folds", is_flag=True, help="One run a fold (cross-validation), and their figures together.")
@click.option("--data", "--root", "root", type=FILE, help="Data set, instead of the configuration's.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
@click.option("--quiet", is_flag=True, help="Errors only.")
@click.option("--verbose", is_flag=True, help="Warnings of the libraries too.")
def train(
    config: Path,
    output: Path | None,
    all_folds: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Train a model as one YAML file says.

    CONFIG names the data, the network and the schedule. The model's folder, which
    `medseg predict --model` takes, is printed at the end; with --all-folds Dice
    per label over all cases, which cross_validation.json holds too.

    \b
    medseg train configs/train/hippocampus.yaml -o runs/hippocampus
    medseg train configs/train/hippocampus.yaml -o runs/hippocampus --resume
    medseg train configs/train/hippocampus.yaml -o runs/folds --all-folds
    """
    silence_libraries(verbose)
    if all_folds and options["fold"] is not None:
        raise click.UsageError("Give --fold or --all-folds, not both.", click.get_current_context())
    output = output or Path("runs") / config.stem
    if all_folds:
        _train_all_folds(config, output, as_json, quiet, options)
        return
    from medseg.training import train as run

    folder = run(config, output=output, progress=not quiet, **options)
    if as_json:
        click.echo(json.dumps({"model": str(folder)}))
    elif not quiet:
        click.echo(folder)


def _train_all_folds(config: Path, output: Path, as_json: bool, quiet: bool, options: dict[str, Any]) -> None:
    from medseg.training import cross_validate
    from medseg.training.cross_validation import as_text

    del options["fold"]
    path = cross_validate(config, output=output, progress=not quiet, **options)
    summary = json.loads(path.read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps({"summary": str(path), "dice": summary["dice"]}))
    elif not quiet:
        click.echo(as_text(summary))
        click.echo(path)


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


for _command in (batch, evaluate, plan, convert, inspect, voc, pacs):
    main.add_command(_command)
for _command in (evaluate, plan, convert, inspect, voc, *voc.commands.values()):
    _command.epilog = EXIT_CODES

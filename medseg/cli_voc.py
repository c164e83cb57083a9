"""`medseg voc`: the published VOC 2012 figures, and the same measure of a network that you have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)


@click.group()
def voc() -> None:
    """PASCAL VOC 2012: published figures, and yours beside them.

    \b
    medseg voc table
    medseg voc evaluate --root VOC2012 --architecture fcn8s --weights FILE
    """


@voc.command("table")
@click.option("--format", "kind", type=click.Choice(["text", "csv", "json"]), default="text", help="Default: text.")
@click.option("--architecture", metavar="NAME", help="Of one architecture only.")
def table(kind: Any, architecture: str | None) -> None:
    """Print the published mean IoU of the surveyed architectures."""
    from medseg.errors import ConfigError
    from medseg.voc.published import published, published_table

    names = sorted({row.architecture for row in published()})
    if architecture not in (None, *names):
        raise ConfigError(f"No figure of {architecture!r} was published; there are: {', '.join(names)}.")
    click.echo(published_table(kind, architecture))


@voc.command("evaluate")
@click.option("--root", type=_FILE, required=True, help="VOCdevkit/VOC2012, or a data set in its layout.")
@click.option("--split", default="val", help="A list in ImageSets/Segmentation, or a file (default: val).")
@click.option("--architecture", required=True, metavar="NAME", help="`medseg models --architectures` lists them.")
@click.option("--weights", type=_FILE, required=True, help="Ours, public ones (.pth), or a model's folder.")
@click.option("--input", "convention", type=click.Choice(["rgb", "bgr"]), help="Where the file does not tell it.")
@click.option("--setting", "settings", multiple=True, metavar="NAME=VALUE", help="Of the architecture.")
@click.option("--multi-scale", is_flag=True, help="Average over six sizes, 0.5 to 1.75.")
@click.option("--flip", is_flag=True, help="Average over mirrored photos.")
@click.option("--crf", is_flag=True, help="Refine with a dense CRF as DeepLab v2's.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
def evaluate(root: Path, split: str, architecture: str, weights: Path, convention: Any, **options: Any) -> None:
    """Measure a network's mean IoU on a list of photos.

    One confusion matrix over all photos, 21 classes, 255 left out: the official
    measure, printed beside the published figures. Files of torchvision,
    mmsegmentation, semseg and the survey's authors are recognised, and bring
    the input that they were trained with.

    \b
    medseg voc evaluate --root VOC2012 --architecture deeplabv3 \\
        --weights FILE.pth --multi-scale --flip
    """
    from medseg.console import counting
    from medseg.devices import choose_device
    from medseg.refine import crf_refiner
    from medseg.voc.dataset import find_photos
    from medseg.voc.evaluator import SCALES, evaluate_photos, segment_photo
    from medseg.voc.settings import parse_settings
    from medseg.voc.show import result_text
    from medseg.voc.weights import voc_model

    device = choose_device(options["device"])
    photos = find_photos(root, split)
    model, findings = voc_model(architecture, weights, convention, parse_settings(options["settings"]))
    for finding in findings:
        click.echo(f"note: {weights.name}: {finding}", err=True)
    refiners = (crf_refiner("deeplab-v2"),) if options["crf"] else ()
    scales = SCALES if options["multi_scale"] else (1.0,)
    with counting("segmenting", "photos") as progress:
        result = evaluate_photos(
            photos,
            lambda photo: segment_photo(
                photo, model, scales=scales, flip=options["flip"], refiners=refiners, device=device
            ),
            progress,
        )
    if options["as_json"]:
        click.echo(json.dumps({"architecture": architecture, "split": split, **result.to_json()}))
    else:
        click.echo(result_text(result, architecture, split))


@voc.command("train")
@click.argument("config", type=_FILE)
@click.option("--root", type=_FILE, required=True, help="VOCdevkit/VOC2012, or a data set in its layout.")
@click.option("-o", "--output", type=_FILE, help="Folder of the weights (default: runs/voc-NAME of the file).")
@click.option("--weights", "initial", type=_FILE, help="Weights to start from: ours, or public ones of ImageNet.")
@click.option("--resume", is_flag=True, help="Continue a run that was stopped, from its last checkpoint.")
@click.option("--iterations", type=click.IntRange(min=1), help="Instead of the schedule's.")
@click.option("--split", help="Instead of the schedule's list.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def train(config: Path, root: Path, output: Path | None, quiet: bool, **options: Any) -> None:
    """Train a network by its paper's schedule (configs/voc).

    Prints the file of weights, which `medseg voc evaluate --weights` takes.
    """
    from medseg.config import load_config
    from medseg.devices import choose_device
    from medseg.voc.schedule import VocSchedule
    from medseg.voc.train import train_voc

    options["device"] = choose_device(options["device"])
    instead = {name: value for name in ("split", "iterations") if (value := options.pop(name)) is not None}
    schedule = load_config(config, VocSchedule).model_copy(update=instead)
    output = output or Path("runs") / f"voc-{config.stem}"
    weights, findings = train_voc(schedule, root, output, progress=not quiet, **options)
    if not quiet:
        for finding in findings:
            click.echo(f"note: {finding}", err=True)
        click.echo(weights)

"""The `plan` command."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from medseg.options import silence_libraries


@click.command()
@click.argument("scan")
@click.option("--model", metavar="NAME|FOLDER", help="Default: the shipped model that takes the scan.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--overlap", type=click.FloatRange(0, 1, max_open=True), help="Share of a window seen twice.")
@click.option("--disable-tta", is_flag=True, default=None, help="No mirrored passes (test-time augmentation).")
@click.option("--fast", is_flag=True, default=None, help="--disable-tta and --overlap 0.25.")
@click.option("--frame", type=click.IntRange(min=0), help="Which volume of a 4D file, from 0.")
@click.option("--max-memory", metavar="SIZE", help="How it fits, such as into 8GB; ends with 5 if it cannot.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
def plan(scan: str, frame: int | None, max_memory: str | None, as_json: bool, **options: Any) -> None:
    """Tell how much memory and time a scan will take, without segmenting it.

    Reads and prepares the scan and sends one window through the network. A dense
    CRF (--crf of predict) is not counted.

    \b
    medseg plan scan.nii.gz --model runs/mine/model
    medseg plan scan.nii.gz --max-memory 8GB && medseg predict scan.nii.gz
    """
    silence_libraries(verbose=False)
    from dataclasses import replace

    from medseg.choice import fitting, named
    from medseg.config import PredictConfig, validate
    from medseg.devices import choose_device
    from medseg.errors import ConfigError
    from medseg.inputs import find_inputs, read_input
    from medseg.model import load_model
    from medseg.planning import fit
    from medseg.planning import plan as make
    from medseg.resources import megabytes

    limit = megabytes(max_memory) if max_memory else None
    given = {key: value for key, value in options.items() if value is not None}
    settings = validate(given, PredictConfig, where="options")
    choice = named(settings)
    channels = choice.info.network.in_channels if choice else 1
    inputs = find_inputs([scan], channels=channels)
    if len(inputs) != 1:
        raise ConfigError(f"{scan}: holds {len(inputs)} scans; give one.")
    choice = choice or fitting(inputs[0], settings)
    model = replace(load_model(choice.folder), windows=choice.windows)
    started = time.perf_counter()
    volume = read_input(inputs[0], channels=choice.info.network.in_channels, frame=frame)
    read_s = time.perf_counter() - started
    made = make(volume, model, device=choose_device(settings.device), read_s=read_s)
    if as_json:
        click.echo(json.dumps({"model": choice.info.name, **made.to_json()}))
    else:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in made.seconds.items())
        click.echo(f"{choice.info.name}: {made.windows} windows; {stages}")
        click.echo(f"peak memory {made.peak_memory_mib:.0f} MiB, {made.ring_mib:.0f} MiB of it on the device")
    if limit is not None:
        found = fit(volume, model, limit, device=choose_device(settings.device))
        if not as_json:
            size = " × ".join(map(str, found.windows.size))
            how = f"windows of {size}, " + ("sums in a temporary file" if found.spill else "sums in memory")
            click.echo(f"fits into {limit:.0f} MiB: {how}, about {found.plan.peak_memory_mib:.0f} MiB")

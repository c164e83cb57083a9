"""Train every architecture on the same footing and write what came out as a table.

python tests/benchmarks/architectures.py configs/train/hippocampus.yaml --data FOLDER --readme README.md

The configuration gives the data, the split, the preparation and the schedule; each network is narrow (see `NARROW`).
Steps are rounded up to whole epochs. What is done stays in the output folder, so that the command goes on where it was
stopped; it can be run for some architectures at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from medseg.config import TrainConfig, load_config
from medseg.devices import choose_device
from medseg.networks import ARCHITECTURES

# The stem keeps its stride to itself: structures of a few voxels would be lost at the stride of photographs.
_RESNET = {"depth": 50, "width": 1 / 8, "norm": "instance", "strides": [1, 2, 2, 2, 2]}
_VGG = {"width": 1 / 8, "norm": "instance", "head_channels": 128}
_FCN = {**_VGG, "fc6_kernel": 3, "padding": "same", "upsampling": "per_class"}
NARROW: dict[str, dict[str, Any]] = {
    "unet": {"channels": [8, 16, 32, 64]},
    "fcn32s": _FCN,
    "fcn16s": _FCN,
    "fcn8s": _FCN,
    "segnet": {"width": 1 / 8, "norm": "instance"},
    "dilated_frontend": {**_VGG, "fc6_kernel": 3, "padding": "same"},
    "dilated": {**_VGG, "fc6_kernel": 3, "padding": "same"},
    "deeplabv1": {**_VGG, "fc6_dilation": 2},
    "deeplabv1_msc": {**_VGG, "fc6_dilation": 2},
    # Its kernels in voxels and in units of normalised intensities.
    "crfrnn": {**_FCN, "iterations": 3, "eval_iterations": 5, "bilateral_sd": 5.0, "bilateral_sd_value": 0.5},
    "patch_classifier": {"channels": [16, 16, 16], "kernels": [4, 5, 4], "head_channels": 64, "output_stride": 4},
    "random_forest": {"trees": 20},
    "deeplabv2": _RESNET | {"scales": [1, 0.75]},
    "refinenet": _RESNET | {"width": 1 / 12},
    "pspnet": _RESNET,
    "gcn": _RESNET | {"kernel": 7},
    "deeplabv3": _RESNET,
    "deeplabv3_cascade": _RESNET,
    "fcn_resnet": _RESNET,
}
MARKS = ("<!-- architectures -->", "<!-- /architectures -->")
# Scans that are timed, after a first one that warms up.
_TIMED = 5


def main() -> None:
    arguments = _arguments()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, device=arguments.device)))
        return
    for name in arguments.only or NARROW:
        folder = arguments.output / name
        if not (folder / "result.json").exists():
            result = run(name, folder, arguments)
            (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: done", file=sys.stderr, flush=True)
    text = table(arguments.output, load_config(arguments.config, TrainConfig))
    if arguments.readme is None:
        print(text)
    else:
        insert(text, arguments.readme)


def run(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one architecture, or go on with it, and measure what came out."""
    from medseg.training import train  # noqa: PLC0415  # the measuring process does without it
    from medseg.training.cases import find_cases, split  # noqa: PLC0415

    content = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    root = arguments.data or arguments.config.parent / content["data"]["root"]
    config = load_config(arguments.config, TrainConfig)
    train_cases, held_out = split(find_cases(root), config.data)
    batches = len(train_cases) * config.training.samples_per_case // config.training.batch_size
    content["network"] |= {"architecture": name, "settings": NARROW[name]}
    content["training"] |= {"epochs": -(-arguments.steps // batches), "validate_every": 10**6, "seed": 0}
    content["data"]["root"] = str(root.resolve())
    content["windows"] |= {"mirror_axes": []}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    resume = any((folder / "run" / "checkpoints").glob("*.ckpt"))
    model = train(folder / "train.yaml", output=folder / "run", resume=resume, device=arguments.device)
    scans = [str(case.channels[0].path) for case in held_out[: _TIMED + 1]]
    command = [sys.executable, __file__, "--measure", str(model), *scans, "--device", choose_device(arguments.device)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    log = (folder / "run" / "log.csv").read_text(encoding="utf-8").splitlines()
    steps = dict(zip(log[0].split(","), log[-1].split(","), strict=True))["steps"]
    return measured | {"steps": int(float(steps)), "cases": len(held_out)}


def measure(model_folder: str, *scans: str, device: str) -> dict[str, Any]:
    """Dice and IoU from the model's own record; seconds a scan and peak memory of this process."""
    import torch  # noqa: PLC0415

    from medseg.formats import read  # noqa: PLC0415
    from medseg.model import load_model  # noqa: PLC0415
    from medseg.pipeline import segment  # noqa: PLC0415
    from medseg.resources import peak_memory_mib  # noqa: PLC0415

    model = load_model(model_folder)
    seconds = []
    for scan in scans:
        volume = read(scan)
        began = time.monotonic()
        segment(volume, model, device=device)
        seconds.append(time.monotonic() - began)
    on_gpu = torch.cuda.is_available() and device.startswith("cuda")
    per_case = model.info.metrics["validation_dice_per_case"].values()
    dice = [value for case in per_case for value in case.values() if value is not None]
    return {
        "dice": statistics.fmean(dice),
        "miou": statistics.fmean(value / (2 - value) for value in dice),
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "seconds_a_scan": statistics.median(seconds[1:]),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib(),
        "training_seconds": model.info.metrics["training_seconds"],
        "hardware": model.info.metrics["hardware"],
    }


def table(output: Path, config: TrainConfig) -> str:
    """All results that there are, best Dice first, in Markdown."""
    titles = {architecture.name: architecture.title for architecture in ARCHITECTURES}
    found = {name: output / name / "result.json" for name in NARROW}
    results = {n: json.loads(path.read_text(encoding="utf-8")) for n, path in found.items() if path.exists()}
    rows = [
        f"| {titles[name]} | {r['dice']:.3f} | {r['miou']:.3f} | {r['parameters'] / 1e6:.2f} M | {r['steps']} | "
        f"{r['training_seconds'] / 60:.0f} | {r['seconds_a_scan']:.2f} | {r['peak_mib']:.0f} |"
        for name, r in sorted(results.items(), key=lambda item: -item[1]["dice"])
    ]
    cases = max((r["cases"] for r in results.values()), default=0)
    hardware = ", ".join(sorted({r["hardware"] for r in results.values()}))
    data = f"{config.card.title}, {config.network.spatial_dims}D"
    return "\n".join(
        [
            f"{data}; narrow networks on the same steps and split; {cases} held-out cases; {hardware}.",
            "",
            "| architecture | Dice | mIoU | parameters | steps | training, min | a scan, s | peak of process, MiB |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def insert(text: str, readme: Path) -> None:
    """Put the table between the two marks of a file."""
    content = readme.read_text(encoding="utf-8")
    first, last = MARKS
    if first not in content or last not in content:
        sys.exit(f"{readme}: has no lines {first} and {last}; add them where the table belongs.")
    before, rest = content.split(first, 1)
    after = rest.split(last, 1)[1]
    readme.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/train/hippocampus.yaml"))
    parser.add_argument("--data", type=Path, help="data set, instead of the configuration's")
    parser.add_argument("--steps", type=int, default=1000, help="of the optimiser, for each architecture")
    parser.add_argument("--only", nargs="+", choices=list(NARROW), help="these architectures")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--readme", type=Path, help="file with the marks; the table is printed otherwise")
    parser.add_argument("--device", help="cpu, gpu, gpu:0, mps; the best there is by default")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

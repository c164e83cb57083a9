"""Train every architecture on the same footing and write what came out as a table.

python tests/benchmarks/architectures.py configs/train/hippocampus.yaml --data FOLDER --readme README.md

The configuration gives the data, the split, the preparation and the schedule; each network is narrow (see `NARROW`),
and `SCHEDULE` is what suits a few hundred steps. Steps are rounded up to whole epochs. What is done stays in the output
folder, so that the command goes on where it was stopped and can be run for some architectures at a time; without a
`result.json` a trained model is measured again. The table has a part for each configuration that has results there.
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

# The first stride of each backbone is given up: at those of photographs, structures of a few voxels would be lost.
_STRIDES = {"strides": [1, 2, 2, 2, 2]}
_RESNET = {"depth": 50, "width": 1 / 8, "norm": "instance", **_STRIDES}
_VGG = {"width": 1 / 8, "norm": "instance", "head_channels": 128, **_STRIDES}
# FCN-32s has nothing finer than its last map: at half its stride it finds no structure of 15 voxels at all.
_FCN = {**_VGG, "strides": [1, 2, 2, 1, 2], "fc6_kernel": 3, "padding": "same", "upsampling": "per_class"}
_DILATED = {**_VGG, "strides": [1, 2, 2]}
NARROW: dict[str, dict[str, Any]] = {
    "unet": {"channels": [8, 16, 32, 64]},
    "fcn32s": _FCN,
    "fcn16s": _FCN,
    "fcn8s": _FCN,
    "segnet": {"width": 1 / 8, "norm": "instance", **_STRIDES},
    "dilated_frontend": {**_DILATED, "fc6_kernel": 3, "padding": "same"},
    "dilated": {**_DILATED, "fc6_kernel": 3, "padding": "same"},
    "deeplabv1": {**_DILATED, "fc6_dilation": 2},
    "deeplabv1_msc": {**_DILATED, "fc6_dilation": 2},
    # Its kernels in voxels and in units of normalised intensities.
    "crfrnn": {**_FCN, "iterations": 3, "eval_iterations": 5, "bilateral_sd": 5.0, "bilateral_sd_value": 0.5},
    "patch_classifier": {"channels": [8, 16, 16], "kernels": [4, 5, 4], "head_channels": 64, "output_stride": 4},
    "random_forest": {"trees": 20},
    "deeplabv2": _RESNET | {"scales": [1, 0.75]},
    "refinenet": _RESNET | {"width": 1 / 16},
    "pspnet": _RESNET,
    "gcn": _RESNET | {"kernel": 7},
    "deeplabv3": _RESNET,
    "deeplabv3_cascade": _RESNET,
    "fcn_resnet": _RESNET,
}
# Averaged weights would still hold much of the first ones; float32 is the same arithmetic on every machine.
SCHEDULE = {"warmup_steps": 20, "ema_decay": 0.0, "precision": "float32", "validate_every": 10**6, "seed": 0}
MARKS = ("<!-- architectures -->", "<!-- /architectures -->")
# Scans that are timed, after a first one that warms up.
_TIMED = 3


def main() -> None:
    arguments = _arguments()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, device=arguments.device)))
        return
    folder = arguments.output / load_config(arguments.config, TrainConfig).card.name
    for name in arguments.only or NARROW:
        if not (folder / name / "result.json").exists():
            result = run(name, folder / name, arguments)
            (folder / name / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: done", file=sys.stderr, flush=True)
    text = "\n\n".join(table(part) for part in sorted(arguments.output.iterdir()) if any(part.glob("*/result.json")))
    if arguments.readme is None:
        print(text)
    else:
        insert(text, arguments.readme)


def run(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one architecture, or go on with it, and measure what came out."""
    from medseg.training import train  # noqa: PLC0415  # the measuring process does without it
    from medseg.training.cases import find_cases, split  # noqa: PLC0415
    from medseg.training.progress import training_seconds  # noqa: PLC0415

    content = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    root = arguments.data or arguments.config.parent / content["data"]["root"]
    config = load_config(arguments.config, TrainConfig)
    train_cases, held_out = split(find_cases(root, config.data.columns), config.data)
    content["training"] |= SCHEDULE | ({"patch": arguments.patch} if arguments.patch else {})
    content["training"] |= {"batch_size": arguments.batch} if arguments.batch else {}
    batches = len(train_cases) * config.training.samples_per_case // content["training"]["batch_size"]
    epochs = -(-arguments.steps // batches)
    content["training"]["epochs"] = epochs
    content["network"] |= {"architecture": name, "settings": NARROW[name]}
    content["data"]["root"] = str(root.resolve())
    content["windows"] |= {"mirror_axes": []}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    model = folder / "run" / "model"
    if not model.exists():
        resume = any((folder / "run" / "checkpoints").glob("*.ckpt"))
        train(folder / "train.yaml", output=folder / "run", resume=resume, device=arguments.device)
    scans = [str(case.channels[0].path) for case in held_out[: _TIMED + 1]]
    device = choose_device(arguments.device)
    # On the CPU it is the process's own time that counts: others may share the machine.
    command = [sys.executable, __file__, "--measure", str(model), *scans, "--device", device]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    clock = "cpu_seconds" if device == "cpu" else "seconds"
    return {
        "data": f"{config.card.title}, {config.network.spatial_dims}D",
        "command": _command(arguments),
        "steps": epochs * batches,
        "cases": len(held_out),
        "training_seconds": training_seconds(folder / "run" / "log.csv", clock),
        **measured,
    }


def _command(arguments: argparse.Namespace) -> str:
    """What to type for the same rows, without the names of this machine's folders."""
    given = [f"--steps {arguments.steps}"]
    given += [f"--patch {' '.join(map(str, arguments.patch))}"] if arguments.patch else []
    given += [f"--batch {arguments.batch}"] if arguments.batch else []
    return f"python tests/benchmarks/architectures.py configs/train/{arguments.config.name} {' '.join(given)}"


def measure(model_folder: str, *scans: str, device: str) -> dict[str, Any]:
    """Dice and IoU from the model's own record; seconds a scan (of CPU time, there) and peak memory of this process."""
    import torch  # noqa: PLC0415

    from medseg.formats import read  # noqa: PLC0415
    from medseg.model import load_model  # noqa: PLC0415
    from medseg.pipeline import segment  # noqa: PLC0415
    from medseg.resources import peak_memory_mib  # noqa: PLC0415

    model = load_model(model_folder)
    clock, seconds = time.process_time if device == "cpu" else time.monotonic, []
    for scan in scans:
        volume = read(scan)
        began = clock()
        segment(volume, model, device=device)
        seconds.append(clock() - began)
    on_gpu = torch.cuda.is_available() and device.startswith("cuda")
    per_case = model.info.metrics["validation_dice_per_case"].values()
    dice = [value for case in per_case for value in case.values() if value is not None]
    return {
        "dice": statistics.fmean(dice),
        "miou": statistics.fmean(value / (2 - value) for value in dice),
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "seconds_a_scan": statistics.median(seconds[1:]),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib(),
        "hardware": model.info.metrics["hardware"],
    }


def table(folder: Path) -> str:
    """All results that there are for one configuration, best Dice first, in Markdown."""
    titles = {architecture.name: architecture.title for architecture in ARCHITECTURES}
    found = {name: folder / name / "result.json" for name in NARROW}
    results = {n: json.loads(path.read_text(encoding="utf-8")) for n, path in found.items() if path.exists()}
    first = next(iter(results.values()))
    hardware = ", ".join(sorted({r["hardware"] for r in results.values()}))
    rows = [
        f"| {titles[name]} | {r['dice']:.3f} | {r['miou']:.3f} | {r['parameters'] / 1e6:.2f} M | "
        f"{r['training_seconds'] / 60:.1f} min | {r['seconds_a_scan']:.2f} s | {r['peak_mib']:.0f} MiB |"
        for name, r in sorted(results.items(), key=lambda item: -item[1]["dice"])
    ]
    return "\n".join(
        [
            f"{first['data']}: {first['steps']} steps each, {first['cases']} held-out cases, {hardware}.",
            "",
            f"`{first['command']}`",
            "",
            "| architecture | Dice | mIoU | parameters | training | a scan | memory |",
            "|---|---|---|---|---|---|---|",
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
    parser.add_argument(
        "--patch", type=int, nargs=3, help="voxels of a training sample, instead of the configuration's"
    )
    parser.add_argument("--batch", type=int, help="samples a step, instead of the configuration's")
    parser.add_argument("--only", nargs="+", choices=list(NARROW), help="these architectures")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--readme", type=Path, help="file with the marks; the table is printed otherwise")
    parser.add_argument("--device", help="cpu, gpu, gpu:0, mps; the best there is by default")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

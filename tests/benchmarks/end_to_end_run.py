"""One system on one scan, file to file, in a process of its own; the last line is its figures as JSON.

python -m tests.benchmarks.end_to_end_run wall|cpu SYSTEM NETWORK CLASSES SCAN OUTPUT
"""

# ruff: noqa: PLC0415, PLR0917 - each system loads what it needs, and none what another does

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.end_to_end_cases import HIGH, LOW, OVERLAP, SPACING_MM, WINDOW, network_of

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


class Timed(nn.Module):
    """Counts the seconds that a network takes, its copies included."""

    taken: ClassVar[list[float]] = [0.0]

    def __init__(self, network: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.network, self.clock = network, clock

    def forward(self, x: Tensor) -> Tensor:
        started = self.clock()
        result: Tensor = self.network(x)
        self.taken[0] += self.clock() - started
        return result


class Laps:
    """Seconds of stages that follow one another."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self.since = clock()

    def lap(self, name: str) -> None:
        now = self.clock()
        self.seconds[name] = now - self.since
        self.since = now


def windows_of(network: str) -> tuple[int, int, int]:
    return (WINDOW, WINDOW, 1) if network == "slices" else (WINDOW, WINDOW, WINDOW)


def model_of(network: nn.Module, name: str, classes: int, **shortcuts: Any) -> Any:
    """A model of medseg around a network of the benchmark."""
    from medseg.bundle import ModelInfo
    from medseg.config import Accepts, ModelCard, NetworkSettings, Preparation, ScaleIntensityRange, Windows
    from medseg.labels import Label, LabelSet
    from medseg.model import Model

    card = dict.fromkeys(("title", "description", "intended_use", "limits", "data_source", "licence"), "-")
    info = ModelInfo(
        card=ModelCard(name="benchmark", **card),
        labels=LabelSet(labels=tuple(Label(index=n, name=f"label {n}") for n in range(1, classes))),
        accepts=Accepts(),
        preparation=Preparation(spacing_mm=(SPACING_MM,) * 3, intensity=ScaleIntensityRange(low=LOW, high=HIGH)),
        network=NetworkSettings(architecture="unet"),
        windows=Windows(size=windows_of(name), overlap=OVERLAP, **shortcuts),
        sha256="",
    )
    return Model(info, network, info.windows)


def by_medseg(
    network: nn.Module, name: str, classes: int, scan: Path, output: Path, laps: Laps, **shortcuts: Any
) -> None:
    from medseg.formats import read, write
    from medseg.pipeline import segment

    model = model_of(network, name, classes, **shortcuts)
    laps.lap("import")
    volume = read(scan)
    laps.lap("read")
    segmentation = segment(volume, model)
    laps.lap("segment")
    write(segmentation, output)
    laps.lap("write")


def bare(network: nn.Module, name: str, classes: int, scan: Path, output: Path, laps: Laps) -> None:
    """The floor: read, send the same windows through the network, write."""
    import nibabel

    from medseg.config import Windows
    from medseg.inference.windows import plan_sweep

    laps.lap("import")
    image = nibabel.load(scan)
    array = np.asarray(image.dataobj)
    laps.lap("read")
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    shape = tuple(round((n - 1) * s / SPACING_MM) + 1 for n, s in zip(array.shape, spacing, strict=True))
    sweep = plan_sweep(shape, Windows(size=windows_of(name), overlap=OVERLAP))
    window = torch.rand(1, 1, *sweep.size)
    with torch.inference_mode():
        for _ in range(len(sweep)):
            network(window.squeeze(-1) if name == "slices" else window)
    laps.lap("segment")
    nibabel.save(nibabel.Nifti1Image((array // 64 % classes).astype(np.uint8), image.affine), output)
    laps.lap("write")


def by_monai(
    network: nn.Module, name: str, classes: int, scan: Path, output: Path, laps: Laps, *, labels_first: bool = False
) -> None:
    from monai import transforms as t
    from monai.inferers import SliceInferer, sliding_window_inference

    laps.lap("import")
    before = t.Compose(
        [
            t.LoadImaged("image"),
            t.EnsureChannelFirstd("image"),
            t.Orientationd("image", axcodes="RAS", labels=None),
            t.Spacingd("image", pixdim=(SPACING_MM,) * 3, mode="bilinear", dtype=torch.float32),
            t.ScaleIntensityRanged("image", LOW, HIGH, 0.0, 1.0, clip=True),
        ]
    )
    invert = t.Invertd("pred", before, "image", nearest_interp=labels_first, to_tensor=True)
    save = t.SaveImaged("pred", output_dir=output.parent, output_postfix="", separate_folder=False, print_log=False)
    discrete = t.AsDiscreted("pred", argmax=True)
    after = t.Compose([discrete, invert, save] if labels_first else [invert, discrete, save])
    data: dict[str, Any] = before({"image": scan})
    laps.lap("read")
    image = data["image"][None]
    with torch.inference_mode():
        if name == "slices":
            slices = SliceInferer(spatial_dim=2, roi_size=(WINDOW, WINDOW), overlap=OVERLAP, mode="gaussian")
            scores = slices(image, network)
        else:
            scores = sliding_window_inference(image, (WINDOW,) * 3, 1, network, overlap=OVERLAP, mode="gaussian")
    laps.lap("segment")
    data["pred"] = scores[0]
    del scores
    after(data)
    laps.lap("write")


def by_nnunet(
    network: nn.Module, name: str, classes: int, scan: Path, output: Path, laps: Laps, *, torch_resampling: bool = False
) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from tests.benchmarks.end_to_end_nnunet import dataset, plans

    assert name != "slices", "nnU-Net's 2D plan sees other windows"
    laps.lap("import")
    manager = PlansManager(plans(torch_resampling=torch_resampling))
    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    configuration = manager.get_configuration("3d_fullres")
    content = dataset(classes)
    states = [network.state_dict()]
    predictor.manual_initialization(network, manager, configuration, states, content, "nnUNetTrainer", None)
    image, properties = SimpleITKIO().read_images([str(scan)])
    laps.lap("read")
    ending = ".nii.gz"
    predictor.predict_single_npy_array(image, properties, None, str(output).removesuffix(ending), False)
    laps.lap("segment")


SYSTEMS = {
    "floor": bare,
    "medseg": by_medseg,
    "medseg-bfloat16": lambda *given: by_medseg(*given, precision="bfloat16", body_only=True),
    "monai": by_monai,
    "monai-labels-first": lambda *given: by_monai(*given, labels_first=True),
    "nnunet": by_nnunet,
    "nnunet-torch": lambda *given: by_nnunet(*given, torch_resampling=True),
}


def main() -> None:
    warnings.simplefilter("ignore")
    clock, system, name, classes, scan, output = sys.argv[1:]
    network = Timed(network_of(name, int(classes)), CLOCKS[clock]).eval()
    laps = Laps(CLOCKS[clock])
    SYSTEMS[system](network, name, int(classes), Path(scan), Path(output), laps)
    importing = laps.seconds.pop("import")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    total = sum(laps.seconds.values())
    figures = {"import": importing, "total": total, "forward": network.taken[0], "peak": peak + children}
    figures["threads"] = torch.get_num_threads()
    print(json.dumps({**figures, "stages": laps.seconds}))


if __name__ == "__main__":
    main()

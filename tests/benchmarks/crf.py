"""The dense CRF beside pydensecrf: time in turns, memory, and the error of both against the exact mean field.

python tests/benchmarks/crf.py [CASE ...] [--repeats 3] [--threads 1] [--data ../shared/data]

Real images with noisy unaries. With one thread time is the CPU's, with several the clock's, and pydensecrf takes one;
memory and errors are reported with one. pydensecrf is imported if it is there (its sdist 1.0rc3 builds with `cython<3`
after a `touch` of its .pyx files). Errors are measured on a crop of about 12 000 voxels, because the exact mean field
compares every pair; kernels are those of the whole case, and so are the cells of the grid, which would be finer in an
image as small as the crop. Compilation is done before and not counted.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

import medseg
from medseg.refine import crf, dense_crf, grid
from medseg.refine.appearance import GridPlan, plan_appearance
from tests.refine.exact import disagreement, exact_dense_crf, mean_kl

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@dataclass(frozen=True)
class Case:
    """What is refined: an image, labels of the true segmentation, kernels, and the bars."""

    shape: tuple[int, ...]
    labels: int
    iterations: int
    sd: float
    sd_value: float
    bars: tuple[float, float]  # times faster than pydensecrf with one thread, and with two
    crop: tuple[int, ...]
    active: int = 0  # labels that occur; 0 for all


CASES = {
    "voc": Case((375, 500), 21, 10, 80, 13, (3, 4.5), (100, 120)),
    "voc-pruned": Case((375, 500), 21, 10, 80, 13, (8, 12), (100, 120), active=4),
    "medical-2d": Case((512, 512), 4, 10, 60, 13, (5.5, 8), (110, 110)),
    "3d-small": Case((128, 128, 64), 4, 5, 15, 13, (6, 9), (28, 28, 16)),
    "3d-sd5": Case((128, 128, 64), 4, 5, 5, 13, (4, 6), (28, 28, 16)),
    "3d-large": Case((256, 256, 100), 4, 5, 15, 13, (6, 9), (28, 28, 16)),
}


def load_image(name: str, shape: tuple[int, ...], data: Path) -> NDArray[np.float32]:
    """(C, *shape) of 0-255."""
    if name.startswith("voc"):
        photo = Image.open(data / "fixtures/voc_palette_sample/JPEGImages/2011_000003.jpg")
        pixels = np.asarray(photo.convert("RGB").resize(shape[::-1], Image.Resampling.BICUBIC))
        return np.moveaxis(pixels, -1, 0).astype(np.float32)
    examples = data / "fixtures/totalsegmentator_examples"
    if len(shape) == 2:
        scan = medseg.read(examples / "images_dicom/ct_20slices").array[0, :, :, 10]
    else:
        scan = np.asarray(nibabel.load(examples / "images/ct_small.nii.gz").dataobj)  # type: ignore[attr-defined]
    scan = zoom(scan.astype(np.float32), [n / m for n, m in zip(shape, scan.shape, strict=True)], order=1)
    return np.clip((scan[None] + 160) * (255 / 400), 0, 255).astype(np.float32)


def load_truth(name: str, image: NDArray[np.float32], labels: int, data: Path) -> NDArray[np.integer[Any]]:
    """The photo's annotation, or tissues by intensity."""
    if name.startswith("voc"):
        palette = Image.open(data / "fixtures/voc_palette_sample/SegmentationClass/2011_000003.png")
        annotated = np.asarray(palette.resize(image.shape[:0:-1], Image.Resampling.NEAREST))
        return np.where(annotated == 255, 0, np.unique(annotated, return_inverse=True)[1].reshape(annotated.shape))
    grey = gaussian_filter(image[0], 2)
    return np.digitize(grey, np.quantile(grey, np.linspace(0, 1, labels + 1)[1:-1]))


def noisy_unaries(name: str, case: Case, image: NDArray[np.float32], data: Path) -> torch.Tensor:
    """Probabilities (labels, *shape) of a classifier that errs in patches and in grains."""
    random = np.random.default_rng(0)
    labels, count = case.labels, case.active or case.labels
    truth = load_truth(name, image, labels, data)
    patches = np.stack([gaussian_filter(random.standard_normal(truth.shape), 3) for _ in range(count)])
    logits = np.full((labels, *truth.shape), -9.0, np.float32)
    logits[:count] = 3.0 * (np.arange(count).reshape(-1, *[1] * truth.ndim) == truth) + patches / patches.std()
    logits[:count] += 0.7 * random.standard_normal(patches.shape)
    return torch.from_numpy(logits).softmax(0)


def ours(case: Case, p: torch.Tensor, image: NDArray[np.float32], **more: Any) -> torch.Tensor:
    return dense_crf(
        p,
        torch.from_numpy(image),
        spacing_mm=[1.0] * (image.ndim - 1),
        smoothness_weight=3.0,
        smoothness_sd_mm=3.0,
        appearance_weight=10.0,
        appearance_sd_mm=case.sd,
        appearance_sd_value=case.sd_value,
        iterations=case.iterations,
        **more,
    )


def peer(case: Case, p: torch.Tensor, image: NDArray[np.float32]) -> torch.Tensor:
    import pydensecrf.densecrf as dcrf  # noqa: PLC0415
    from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian  # noqa: PLC0415

    shape = image.shape[1:]
    model = dcrf.DenseCRF(math.prod(shape), len(p))
    model.setUnaryEnergy(np.ascontiguousarray(-p.flatten(1).log().numpy()))
    model.addPairwiseEnergy(create_pairwise_gaussian((3.0,) * len(shape), shape), compat=3)
    sds = (case.sd,) * len(shape), (case.sd_value,) * len(image)
    features = create_pairwise_bilateral(*sds, np.moveaxis(image, 0, -1), chdim=len(shape))
    model.addPairwiseEnergy(features, compat=10)
    return torch.from_numpy(np.array(model.inference(case.iterations))).reshape(p.shape)


def in_turns(calls: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """The median time of each, measured one after the other so that all meet the same load."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            before = clock()
            call()
            times[name].append(clock() - before)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def with_torch_alone(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    compilable = crf._is_compilable
    crf._is_compilable = lambda *_: False
    try:
        return call()
    finally:
        crf._is_compilable = compilable


@contextmanager
def cells_of_the_whole(case: Case, image: NDArray[np.float32]) -> Iterator[None]:
    """Any image gets the cells of this one."""
    plan = plan_appearance(torch.from_numpy(image), [case.sd] * len(case.shape), case.sd_value, accurate=False)
    few = grid._FEW_CELLS
    if isinstance(plan, GridPlan) and plan.axes[-1].cell > grid._FINE_CELL * case.sd_value:
        grid._FEW_CELLS = 0
    yield
    grid._FEW_CELLS = few


def peak_mib(name: str, runner: str, data: Path) -> float:
    """Peak memory above the inputs of one run, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_peak, (name, runner, data))


def _measure_peak(name: str, runner: str, data: Path) -> float:
    torch.set_num_threads(1)
    case = CASES[name]
    image = load_image(name, case.shape, data)
    p = noisy_unaries(name, case, image, data)
    corner = tuple(slice(0, 24) for _ in case.shape)
    prune: dict[str, Any] = {"prune": 0.01} if case.active else {}
    run: Callable[..., torch.Tensor] = {"ours": partial(ours, **prune), "peer": peer}[runner]
    run(case, p[:, *corner].contiguous(), image[:, *corner].copy())  # imports and compiles
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak until now
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run(case, p, image)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / 2**20


def report_errors(case: Case, p: torch.Tensor, image: NDArray[np.float32], has_peer: bool) -> None:
    middle = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(case.shape, case.crop, strict=True))
    q, part = p[:, *middle].contiguous(), image[:, *middle].copy()
    exact = exact_dense_crf(
        q,
        torch.from_numpy(part),
        spacing_mm=[1.0] * len(case.crop),
        smoothness_weight=3.0,
        smoothness_sd_mm=3.0,
        appearance_weight=10.0,
        appearance_sd_mm=case.sd,
        appearance_sd_value=case.sd_value,
        iterations=case.iterations,
    )
    with cells_of_the_whole(case, image):
        runs = {"ours": ours(case, q, part)}
    if len(image) > 1:
        runs["ours, accurate"] = ours(case, q, part, accurate=True)
    if has_peer:
        runs["pydensecrf"] = peer(case, q, part)
    print(f"  the CRF changes {100 * disagreement(q, exact):.1f} % of the crop")
    for name, found in runs.items():
        print(f"  {name:16} KL {mean_kl(exact, found):.1e}   labels {100 * disagreement(exact, found):.3f} %")


def report(name: str, arguments: argparse.Namespace, has_peer: bool) -> None:
    case = CASES[name]
    image = load_image(name, case.shape, arguments.data)
    p = noisy_unaries(name, case, image, arguments.data)
    size = " × ".join(map(str, case.shape))
    print(f"{name}: {size}, {case.labels} labels, {case.iterations} iterations, spatial sd {case.sd:g}")
    prune = {"prune": 0.01} if case.active else {}
    calls: dict[str, Callable[[], object]] = {"ours": lambda: ours(case, p, image, **prune)}
    if has_peer:
        calls["pydensecrf"] = lambda: peer(case, p, image)
    if not case.active and name != "3d-large":
        calls["torch alone"] = lambda: with_torch_alone(lambda: ours(case, p, image))
    alone = arguments.threads == 1
    times = in_turns(calls, arguments.repeats, time.process_time if alone else time.perf_counter)
    for which, seconds in times.items():
        ratio = f"   {times['pydensecrf'] / seconds:.2f} × pydensecrf's speed" if has_peer else ""
        bar = f" (bar {case.bars[not alone]:g})" if which == "ours" and has_peer and arguments.threads <= 2 else ""
        print(f"  {which:16} {seconds:.3f} s{ratio}{bar}", flush=True)
    if case.active:
        apart = (ours(case, p, image, **prune) - ours(case, p, image)).abs().max()
        print(f"  pruned           L∞ {float(apart):.1e} from unpruned (bar 0.01)")
    elif alone:
        report_errors(case, p, image, has_peer)
    unit = math.prod(case.shape) * case.labels * 4 / 2**20
    for runner in ["ours", *(["peer"] if has_peer else [])] if alone else []:
        peak = peak_mib(name, runner, arguments.data)
        print(f"  memory, {runner:8} {peak:.0f} MiB above the inputs, {peak / unit:.1f} × voxels × labels × 4 bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=SHARED)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        import pydensecrf  # noqa: F401, PLC0415

        has_peer = True
    except ImportError:
        has_peer = False
        print("pydensecrf is not installed: no comparison.")
    for name in arguments.cases or CASES:
        report(name, arguments, has_peer)


if __name__ == "__main__":
    main()

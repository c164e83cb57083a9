"""The scans and the networks of the end-to-end benchmark; needs no more than torch, numpy, nibabel and medseg.networks.

A scan is a CT phantom: ellipsoids of as many grey values as there are labels, with a smooth border, in noise. The tiny
network sees one voxel at a time and finds the nearest grey value, so its labels are anatomy rather than noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from medseg.networks import build

WINDOW, OVERLAP, SPACING_MM = 96, 0.5, 1.5
LOW, HIGH = -1000.0, 1000.0  # HU that become 0 and 1
NETWORKS = {
    "tiny": {"channels": [16], "kernel_size": 1, "norm": "none"},
    "unet": {"channels": [8, 16, 32, 64]},
    "slices": {"channels": [16, 32], "norm": "batch"},
}


@dataclass(frozen=True)
class Scan:
    """A phantom: its voxels and their spacing in mm."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


SCANS = {
    "XS": Scan((64, 64, 32), (2.0, 2.0, 2.5)),
    "M": Scan((320, 320, 120), (1.25, 1.25, 2.5)),
    "L": Scan((512, 512, 200), (0.8, 0.8, 2.0)),
    "D": Scan((320, 320, 480), (1.25, 1.25, 2.5)),
    "XL": Scan((512, 512, 1000), (0.8, 0.8, 1.0)),
}


def grey_values(classes: int) -> NDArray[np.float32]:
    """The prepared intensity (0 to 1) of each class, background first."""
    return np.linspace(0.0, 1.0, classes, dtype=np.float32)


def phantom(shape: tuple[int, int, int], classes: int, seed: int = 0) -> NDArray[np.int16]:
    """Voxels (I, J, K): two ellipsoids of every class but the background, with borders of several voxels."""
    random = np.random.default_rng(seed)
    coarse = tuple(max(n // 2, 8) for n in shape)
    image = np.zeros(coarse, dtype=np.float32)
    radii = 0.45 * np.array(coarse) * min(1.0, 3.0 * classes ** (-1 / 3))
    for value in random.permutation(np.repeat(grey_values(classes)[1:], 2)):
        centre, radius = random.uniform(0.2, 0.8, 3) * coarse, radii * random.uniform(0.3, 0.6, 3)
        box = tuple(slice(max(int(c - r), 0), int(c + r) + 2) for c, r in zip(centre, radius, strict=True))
        i, j, k = np.ogrid[box]
        parts = [((x - c) / r) ** 2 for x, c, r in zip((i, j, k), centre, radius, strict=True)]
        image[box][sum(parts)[tuple(slice(0, n) for n in image[box].shape)] < 1] = value
    smooth = functional.avg_pool3d(torch.from_numpy(image)[None, None], 3, stride=1, padding=1)
    scan = functional.interpolate(smooth, size=shape, mode="trilinear")[0, 0].numpy()
    scan = scan * (HIGH - LOW) + LOW
    for k in range(shape[2]):
        scan[:, :, k] += random.normal(0, 1.5, shape[:2])
    return np.rint(scan).astype(np.int16)


def save_phantom(path: Path, scan: Scan, classes: int) -> None:
    image = nibabel.Nifti1Image(phantom(scan.shape, classes), np.diag([*scan.spacing_mm, 1.0]))
    part = path.with_name(f"part-{path.name}")  # a run that is stopped leaves no half of a scan
    nibabel.save(image, part)
    part.rename(path)


def network_of(name: str, classes: int) -> nn.Module:
    """A network of random weights; the tiny one knows the grey values."""
    torch.manual_seed(0)
    network = build(name if name not in NETWORKS else "unet", **arguments_of(name, classes)).eval()
    if name == "tiny":
        know_grey_values(network, classes)
    return network


def arguments_of(name: str, classes: int) -> dict[str, object]:
    dims = 2 if name == "slices" else 3
    return {"spatial_dims": dims, "in_channels": 1, "num_classes": classes, **NETWORKS[name]}


def know_grey_values(network: nn.Module, classes: int) -> None:
    """Nearest mean: logit c is 2·m·x - m², linear in the grey value x, which the first feature carries along."""
    convs = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    with torch.no_grad():
        for conv in convs[:-1]:
            conv.bias.zero_()
            conv.weight[0].zero_()
            conv.weight[0, 0] = 1
        head, means = convs[-1], torch.from_numpy(grey_values(classes))
        head.weight.mul_(1e-4)
        head.weight[:, 0] = (2 * means).reshape(-1, 1, 1, 1)
        head.bias.copy_(-(means**2))

"""CRF-RNN trained jointly with FCN-8s on real slices: does the loss fall, does the CRF learn, and what does it bring?

python -m tests.benchmarks.crfrnn_training [--steps 150] [--joint 50] [--data ../shared/data]

FCN-8s (an eighth of the paper's width) sees short-axis slices of Sunnybrook, the middle of each at half its resolution.
Then training goes on twice from the same weights for the same number of steps: of FCN-8s alone, and of FCN-8s with five
mean-field iterations above it. Dice is of the left ventricle on the slices of every fifth patient, none of whom was
trained on; there the mean field runs ten iterations.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseg.formats import read_segmentation
from medseg.networks.crfrnn import CRFRNN
from medseg.networks.fcn import FCN8s
from medseg.training.cases import Case, find_cases, read_image

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SIZE = 64  # of the slices that the networks see


def slices_of(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """Grey levels 0-255 and labels: (N, 1, SIZE, SIZE) and (N, SIZE, SIZE)."""
    images = torch.stack([middle(torch.from_numpy(read_image(case).array.astype(np.float32))) for case in cases])
    labels = torch.stack([middle(torch.from_numpy(read_segmentation(case.label).array[None] > 0)) for case in cases])
    return images, (labels[:, 0] > 0.5).long()


def middle(picture: Tensor) -> Tensor:
    """The middle of (1, I, J, 1), by means of two by two pixels: (1, SIZE, SIZE)."""
    first = [n // 2 - SIZE for n in picture.shape[1:3]]
    cut = picture[:, first[0] : first[0] + 2 * SIZE, first[1] : first[1] + 2 * SIZE, 0]
    return torch.nn.functional.avg_pool2d(cut.float(), 2)


def dice(predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Of the left ventricle, of all slices together."""
    with torch.no_grad():
        found = torch.cat([predict(batch).argmax(1) for batch in images.split(16)])
    inside = labels == 1
    return 2 * int((found[inside] == 1).sum()) / (int((found == 1).sum()) + int(inside.sum()))


def train(
    forward: Callable[[Tensor], Tensor], groups: list[dict[str, object]], data: tuple[Tensor, Tensor], steps: int
) -> list[float]:
    """The loss of every step."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (8,), generator=generator)
        loss = torch.nn.functional.cross_entropy(forward(data[0][chosen]), data[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def report(name: str, losses: list[float]) -> None:
    ends = [float(np.mean(part)) for part in (losses[:10], losses[-10:])]
    print(f"{name}: loss {ends[0]:.3f} in the first ten steps, {ends[1]:.3f} in the last ten", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--joint", type=int, default=50)
    parser.add_argument("--data", type=Path, default=SHARED)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    columns = {"image": "images/{slice}.png", "label": "labels/{slice}.png", "case": "{slice}", "group": "{patient}"}
    cases = find_cases(arguments.data / "sunnybrook/cases.csv", columns)
    patients = sorted({str(case.group) for case in cases})[::5]
    held_out = slices_of([case for case in cases if case.group in patients])
    seen = slices_of([case for case in cases if case.group not in patients])
    print(f"{len(seen[0])} slices to train on, {len(held_out[0])} of {len(patients)} patients held out")
    network = CRFRNN(
        2, 1, 2, width=0.125, fc6_kernel=3, head_channels=512, norm="batch", dropout=0.1, padding="same",
        zero_scores=False, bilateral_sd=8.0, bilateral_sd_value=20.0,
    )  # fmt: skip
    below = [p for name, p in network.named_parameters() if not name.startswith("mean_field")]

    def without(x: Tensor, of: CRFRNN = network) -> Tensor:
        logits: Tensor = FCN8s.forward(of, x)
        return logits

    report("FCN-8s", train(without, [{"params": below, "lr": 2e-3}], seen, arguments.steps))
    alone = copy.deepcopy(network)
    with torch.no_grad():
        network.mean_field.spatial_weights.mul_(0.1)  # the paper's weights are for photographs: here they flatten
        network.mean_field.bilateral_weights.mul_(0.1)
    before = {name: p.detach().clone() for name, p in network.mean_field.named_parameters()}
    more = [{"params": alone.parameters(), "lr": 5e-4}]
    report("FCN-8s, further", train(lambda x: without(x, alone), more, seen, arguments.joint))
    groups = [{"params": below, "lr": 5e-4}, {"params": network.mean_field.parameters(), "lr": 5e-3}]
    report("with five mean-field iterations", train(network, groups, seen, arguments.joint))
    for name, p in network.mean_field.named_parameters():
        print(f"  {name}: mean change {float((p.detach() - before[name]).abs().mean()):.3f}")
    network.eval()
    alone.eval()
    print(f"Dice of held-out slices: FCN-8s alone {dice(lambda x: without(x, alone), *held_out):.3f}, CRF-RNN with ten")
    print(f"iterations {dice(network, *held_out):.3f}, its FCN-8s without them {dice(without, *held_out):.3f}")


if __name__ == "__main__":
    main()

"""Forward and backward of CRF-RNN's mean field at VOC's size, beside crfasrnn_pytorch: CPU time in turns.

python -m tests.benchmarks.crfrnn_speed [--iterations 5] [--repeats 3] [--threads 1] [--data ../shared/data]

Both have the paper's kernels (5 / 160 / 3; 3 / 3), 21 classes and a photograph of 375 × 500. The peer is imported as
`crfasrnn` (github.com/sadeepj/crfasrnn_pytorch with its extension `permuto_cpp` built); it is not on PyPI.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from medseg.refine.crf import MeanField
from tests.benchmarks.crf import CASES, SHARED, in_turns, load_image, noisy_unaries


def forward_and_backward(layer: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    unary = logits.clone().requires_grad_()
    layer(unary).square().mean().backward()  # type: ignore[no-untyped-call]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=SHARED)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    case = CASES["voc"]
    picture = load_image("voc", case.shape, arguments.data)
    logits = noisy_unaries("voc", case, picture, arguments.data).log()[None]
    image = torch.from_numpy(picture)[None]
    ours = MeanField(case.labels, arguments.iterations)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: forward_and_backward(lambda unary: ours(unary, image), logits)
    }
    try:
        from crfasrnn.crfrnn import CrfRnn  # noqa: PLC0415

        peer = CrfRnn(case.labels, arguments.iterations)
        calls["crfasrnn_pytorch"] = lambda: forward_and_backward(lambda unary: peer(image, unary), logits)
    except ImportError:
        print("crfasrnn is not installed: no comparison.")
    times = in_turns(calls, arguments.repeats)
    for name, seconds in times.items():
        ratio = times.get("crfasrnn_pytorch", float("nan")) / seconds
        print(f"{name:17} {seconds:.3f} s of CPU   {ratio:.2f} × crfasrnn_pytorch's speed (bar for ours 2.5 ×)")


if __name__ == "__main__":
    main()

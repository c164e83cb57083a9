"""What --compile brings: milliseconds of the processor for a window, as it is and compiled, and seconds to compile.

python -m tests.benchmarks.compiling [NETWORK ...]   (of end_to_end_cases, 25 classes, one thread)
"""

from __future__ import annotations

import sys
import time

import torch

from medseg.inference import Compiler
from medseg.inference.convolutions import channels_last, laid_out
from medseg.inference.folding import folded
from medseg.inference.head import split_head
from tests.benchmarks.end_to_end_cases import NETWORKS, network_of
from tests.benchmarks.end_to_end_run import windows_of

CLASSES, REPEATS = 25, 5


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or NETWORKS:
        image = torch.rand(1, 1, *(n for n in windows_of(name) if n > 1))
        with torch.inference_mode():
            network = folded(network_of(name, CLASSES))
            _, split = split_head(network, image)
            body = split.body if split else network
            image = laid_out(image)
            network = channels_last(body, by_onednn=True)  # as medseg runs it
            compiler = Compiler()
            compiled = compiler.compiled(channels_last(body, by_onednn=False), name)
            started = time.perf_counter()
            apart = (compiled(image) - network(image)).abs().max()
            first_s = time.perf_counter() - started
            times: dict[str, list[float]] = {"plain": [], "compiled": []}
            for _ in range(REPEATS):
                for kind, run in (("plain", network), ("compiled", compiled)):
                    before = time.process_time()
                    run(image)
                    times[kind].append(time.process_time() - before)
        plain, fast = (1e3 * min(times[kind]) for kind in ("plain", "compiled"))
        print(
            f"{name:<7} plain {plain:7.1f} ms  compiled {fast:7.1f} ms  ratio {plain / fast:.2f}"
            f"  compiled after {first_s:.0f} s  apart {apart:.1e}"
        )
        for finding in compiler.findings:
            print(f"        {finding.message}")


if __name__ == "__main__":
    main()

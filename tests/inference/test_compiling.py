import subprocess
import sys

import pytest
import torch
from torch import nn

from medseg.config import Windows
from medseg.inference import Compiler, features
from medseg.networks import build
from tests.inference.test_sweep import noise, whole

SHAPE = (24, 20, 28)


class Counting:
    """In torch.compile's place: says what was compiled, and for which shapes it ran."""

    def __init__(self):
        self.compiled, self.shapes = [], []

    def __call__(self, network, *, dynamic):
        assert dynamic is False
        self.compiled.append(network)

        def fast(image):
            self.shapes.append(tuple(image.shape))
            return network(image)

        return fast


@pytest.fixture
def counting(monkeypatch):
    fake = Counting()
    monkeypatch.setattr(torch, "compile", fake)
    return fake


def unet(dims=3, **settings):
    torch.manual_seed(0)
    return build("unet", spatial_dims=dims, in_channels=1, num_classes=11, channels=(4, 8), **settings).eval()


def scores(network, windows, **how):
    slabs = list(features(noise(SHAPE), network, windows, **how))
    return whole((slab.finished for slab in slabs), SHAPE)


def has_compiler():
    from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: PLC0415 - slow to load

    try:
        return bool(get_cpp_compiler())
    except Exception:
        return False


# In a process of its own: what the tests check at run time, shapes and types, cannot be compiled.
REALLY = """
from medseg.config import Windows
from medseg.inference import Compiler
from tests.inference.test_compiling import scores, unet

for network, size in ((unet(norm="batch"), (16, 16, 16)), (unet(dims=2, norm="batch"), (16, 16, 1))):
    compiler, windows = Compiler(), Windows(size=size, mirror_axes=(0,))
    plain = scores(network, windows, batch_size=2)
    fast = scores(network, windows, batch_size=2, compiler=compiler)
    assert [finding.code for finding in compiler.findings] == ["compiled"], compiler.problem
    assert (fast - plain).abs().max() <= 1e-5 * plain.abs().max()
"""


@pytest.mark.skipif(not has_compiler(), reason="this machine has no C++ compiler")
def test_networks_that_are_really_compiled_give_the_same_to_rounding():
    subprocess.run([sys.executable, "-c", REALLY], check=True)


@pytest.mark.parametrize(("dims", "size"), [(3, (8, 8, 8)), (2, (8, 8, 1))])
def test_what_is_compiled_has_folded_norms_and_no_head_and_one_shape(counting, dims, size):
    network = unet(dims, norm="batch")
    scores(network, Windows(size=size), batch_size=3, compiler=Compiler())
    (compiled,) = counting.compiled
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in compiled.modules())
    with torch.no_grad():
        assert compiled(torch.zeros(1, 1, *size[:dims])).shape[1] == 4  # features, not 11 logits
    assert {shape[0] for shape in counting.shapes} == {3}  # the smaller last batches went through it uncompiled


def test_a_network_is_compiled_once_for_several_scans(counting):
    compiler, network = Compiler(), unet()
    for _ in range(3):
        scores(network, Windows(size=(16, 16, 16)), compiler=compiler)
    assert len(counting.compiled) == 1
    scores(unet(), Windows(size=(16, 16, 16)), compiler=compiler)
    assert len(counting.compiled) == 2


def test_the_field_of_view_is_measured_without_the_compiler(counting):
    scores(unet(norm="batch"), Windows(size=(16, 16, 16), tiling="halo"), compiler=Compiler())
    assert len(set(counting.shapes)) == 1


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_a_line_says_so(monkeypatch):
    def refuse(network, *, dynamic):
        def fast(image):
            raise RuntimeError("\n  No working C++ compiler found\nand much more")

        return fast

    monkeypatch.setattr(torch, "compile", refuse)
    compiler = Compiler()
    windows = Windows(size=(16, 16, 16))
    torch.testing.assert_close(scores(unet(), windows, compiler=compiler), scores(unet(), windows))
    (finding,) = compiler.findings
    assert finding.code == "not-compiled"
    assert finding.message.endswith("ran as it is (RuntimeError: No working C++ compiler found).")


def test_want_of_memory_is_not_taken_for_a_fault_of_the_compiler(monkeypatch):
    def fast(image):
        raise MemoryError

    monkeypatch.setattr(torch, "compile", lambda network, *, dynamic: fast)
    with pytest.raises(MemoryError):
        scores(unet(), Windows(size=(16, 16, 16)), compiler=Compiler())

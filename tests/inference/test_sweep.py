import numpy as np
import pytest
import torch
from monai.inferers import SliceInferer, sliding_window_inference
from torch import nn

from medseg.config import Windows
from medseg.errors import ModelError
from medseg.geometry import Geometry
from medseg.inference import features, predict
from medseg.networks import build
from medseg.volume import Volume


def noise(shape, channels=1, seed=0):
    array = np.random.default_rng(seed).standard_normal((channels, *shape)).astype(np.float32)
    return Volume(array, Geometry(shape, np.eye(4)))


def small_unet(spatial_dims=3, in_channels=1):
    torch.manual_seed(0)
    return build("unet", spatial_dims=spatial_dims, in_channels=in_channels, num_classes=3, channels=(4, 8, 16)).eval()


def whole(slabs, shape):
    """Put slabs together; every plane must come exactly once."""
    scores = None
    for slab in slabs:
        if scores is None:
            scores = torch.full((slab.scores.shape[0], *shape), torch.nan)
        planes = scores.narrow(1 + slab.axis, slab.start, slab.stop - slab.start)
        assert planes.isnan().all()
        planes.copy_(slab.scores)
    assert not scores.isnan().any()
    return scores


@pytest.mark.parametrize(
    ("shape", "size", "overlap", "weights"),
    [
        ((40, 33, 61), (16, 24, 16), 0.5, "gaussian"),
        ((61, 20, 33), (16, 24, 16), 0.25, "gaussian"),  # smaller than the window along one axis
        ((9, 10, 11), (16, 16, 16), 0.5, "gaussian"),  # and along all
        ((20, 50, 18), (16, 16, 16), 0.8, "constant"),
    ],
)
def test_logits_equal_monai_s_sliding_window_inference(shape, size, overlap, weights):
    volume, network = noise(shape), small_unet()
    windows = Windows(size=size, overlap=overlap, weights=weights)
    ours = whole(predict(volume, network, windows, batch_size=3), shape)
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(volume.array)[None], size, 2, network, overlap=overlap, mode=weights
        )[0]
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert (ours.argmax(0) == theirs.argmax(0)).float().mean() > 0.9999


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_slices_equal_monai_s_slice_inferer_along_every_axis(thin):
    shape, plane = (21, 26, 18), (16, 12)
    size = list(plane)
    size.insert(thin, 1)
    volume, network = noise(shape), small_unet(spatial_dims=2)
    ours = whole(predict(volume, network, Windows(size=tuple(size)), batch_size=4), shape)
    inferer = SliceInferer(roi_size=plane, spatial_dim=thin, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        theirs = inferer(torch.from_numpy(volume.array)[None], network)[0]
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_neighbour_slices_reach_a_network_in_two_and_a_half_dimensions():
    class Middle(nn.Module):
        def forward(self, x):
            return x[:, 1:3]

    volume = noise((4, 4, 6))
    windows = Windows(size=(4, 4, 1), context=1, overlap=0)
    scores = whole(predict(volume, Middle(), windows), (4, 4, 6))
    np.testing.assert_allclose(scores[0].numpy(), volume.array[0], rtol=1e-6)
    np.testing.assert_allclose(scores[1, ..., :-1].numpy(), volume.array[0, ..., 1:], rtol=1e-6)


def test_mirrored_passes_are_averaged_in_the_original_orientation():
    volume, network = noise((16, 16, 16)), small_unet()
    windows = Windows(size=(16, 16, 16), mirror_axes=(0, 2))
    ours = whole(predict(volume, network, windows), (16, 16, 16))
    x = torch.from_numpy(volume.array)[None]
    with torch.no_grad():
        passes = [network(x.flip(axes)).flip(axes) for axes in ([], [2], [4], [2, 4])]
    torch.testing.assert_close(ours, torch.stack(passes).mean(0)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_left_and_right_change_places_in_passes_that_change_the_sides_and_in_no_other(average):
    volume, network = noise((16, 16, 16)), small_unet()
    windows = Windows(size=(16, 16, 16), mirror_axes=(0, 2), mirror_swaps=((1, 2),), average=average)
    ours = whole(predict(volume, network, windows), (16, 16, 16))
    x = torch.from_numpy(volume.array)[None]
    with torch.no_grad():
        passes = [network(x.flip(axes)).flip(axes) for axes in ([], [2], [4], [2, 4])]
    passes = [scores[:, [0, 2, 1]] if n % 2 else scores for n, scores in enumerate(passes)]
    if average == "probabilities":
        passes = [scores.softmax(1) for scores in passes]
    torch.testing.assert_close(ours, torch.stack(passes).mean(0)[0], rtol=1e-4, atol=1e-5)


def test_probabilities_can_be_averaged_instead_of_logits():
    volume, network = noise((24, 16, 16)), small_unet()
    slabs = list(predict(volume, network, Windows(size=(16, 16, 16), average="probabilities")))
    assert all(slab.are_probabilities for slab in slabs)
    scores = whole(slabs, (24, 16, 16))
    torch.testing.assert_close(scores.sum(0), torch.ones(24, 16, 16), rtol=1e-5, atol=1e-5)


def test_batches_do_not_change_the_scores():
    volume, network = noise((30, 30, 30)), small_unet()
    windows = Windows(size=(16, 16, 16))
    one = whole(predict(volume, network, windows, batch_size=1), (30, 30, 30))
    many = whole(predict(volume, network, windows, batch_size=7), (30, 30, 30))
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)


def test_sums_that_wait_in_a_file_are_the_same():
    volume, network = noise((40, 30, 30)), small_unet()
    windows = Windows(size=(16, 16, 16))
    kept = list(features(volume, network, windows))
    spilt = list(features(volume, network, windows, spill=True))
    assert len(kept) == len(spilt)
    for one, other in zip(kept, spilt, strict=True):
        assert torch.equal(one.scores, other.scores)


def test_planes_leave_before_later_windows_are_visited():
    calls = []

    class Recorder(nn.Module):
        def forward(self, x):
            calls.append(1)
            return torch.cat([x, -x], dim=1)

    slabs = predict(noise((8, 8, 160)), Recorder(), Windows(size=(8, 8, 8), overlap=0.5))
    first = next(slabs)
    assert (first.axis, first.start, first.stop) == (2, 0, 4)
    assert len(calls) == 1


def test_memory_does_not_grow_with_depth():
    class Wide(nn.Module):
        def forward(self, x):
            return x.expand(-1, 50, -1, -1, -1)

    def largest(depth):
        rings = []
        for slab in predict(noise((16, 16, depth)), Wide(), Windows(size=(16, 16, 16))):
            storage = slab.scores.untyped_storage()
            rings.append(storage.nbytes())
        return max(rings)

    assert largest(200) == largest(40)


def test_progress_counts_every_window():
    seen = []
    list(
        predict(
            noise((16, 16, 40)),
            small_unet(),
            Windows(size=(16, 16, 16)),
            progress=lambda done, total: seen.append((done, total)),
        )
    )
    assert seen == [(n, 4) for n in range(1, 5)]


def test_network_that_changes_the_size_is_refused():
    with pytest.raises(ModelError, match=r"gave \(8, 8, 8\) for a window of \(16, 16, 16\)"):
        list(predict(noise((16, 16, 16)), nn.AvgPool3d(2), Windows(size=(16, 16, 16))))

import numpy as np
import pytest
import torch
from torch import nn

from medseg.bundle import ModelInfo
from medseg.config import NetworkSettings, Preparation, ScaleIntensityRange, Windows
from medseg.errors import ModelError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.model import Model
from medseg.pipeline import label, segment
from medseg.study import Finding
from medseg.volume import Segmentation, Slab, Volume
from tests.phantoms import affine_of, axis_arrangements, ball, rearranged, rearranged_labels, rotation, world
from tests.test_model import tiny_config

LABELS = LabelSet.from_names({2: "ball", 5: "core"})


class Threshold(nn.Module):
    """A network whose answer is known: above 0.3 lies the ball, above 0.7 (20(x - 0.5) > 10(x - 0.3)) its core."""

    def forward(self, x):
        return torch.cat([0 * x, 10 * (x - 0.3), 20 * (x - 0.5)], dim=1)


def threshold_model(**windows):
    config = tiny_config()
    info = ModelInfo(
        card=config.card,
        labels=LABELS,
        accepts=config.accepts,
        preparation=Preparation(spacing_mm=(1.0, 1.0, 1.0), intensity=ScaleIntensityRange(low=0, high=1000)),
        network=NetworkSettings(architecture="unet"),
        windows=Windows(size=(16, 16, 16), **windows),
        sha256="",
    )
    return Model(info, Threshold(), info.windows)


def phantom(geometry):
    """Intensity falls linearly with the distance from a point, so that level sets are balls."""
    distance = np.linalg.norm(world(geometry) - (5.0, -8.0, 12.0), axis=-1)
    return Volume(np.clip(1000 - 50 * distance, 0, 1000)[None].astype(np.int16), geometry)


def grid(spacing, shape, turn=None):
    affine = affine_of(spacing, turn=turn)
    affine[:3, 3] = np.array((5.0, -8.0, 12.0)) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


PLAIN = grid((1.0, 1.0, 1.0), (40, 42, 44))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    "geometry",
    [
        PLAIN,
        grid((0.7, 0.7, 0.7), (56, 58, 60)),
        grid((0.9, 0.8, 3.0), (44, 50, 14)),
        grid((1.1, 1.0, 1.2), (40, 40, 40), turn=rotation(33, (1, 2, 0.5))),
        grid((-1.0, 1.0, 1.3), (40, 40, 33)),
    ],
    ids=["plain", "fine", "thick slices", "oblique", "left-handed"],
)
def test_labels_lie_where_the_structure_is(geometry):
    result = segment(phantom(geometry), threshold_model())
    assert result.geometry is geometry
    assert result.array.dtype == np.uint8
    outer, core = ball(geometry, (5.0, -8.0, 12.0), 14.0), ball(geometry, (5.0, -8.0, 12.0), 6.0)
    assert dice(result.array > 0, outer) > 0.97
    assert dice(result.array == 5, core) > 0.93
    assert set(np.unique(result.array)) == {0, 2, 5}


def test_all_48_axis_arrangements_give_the_same_labels():
    scan = phantom(grid((1.2, 0.9, 1.5), (30, 34, 28)))
    expected = segment(scan, threshold_model())
    for order, signs in axis_arrangements():
        result = segment(rearranged(scan, order, signs), threshold_model())
        np.testing.assert_array_equal(result.array, rearranged_labels(expected, order, signs).array)


def test_sheared_scan_is_segmented_on_its_own_sheared_grid():
    affine = PLAIN.affine.copy()
    affine[1, 2] = 0.3
    affine[1, 3] -= 0.3 * 21.5
    geometry = Geometry(PLAIN.shape, affine)
    result = segment(phantom(geometry), threshold_model())
    assert dice(result.array > 0, ball(geometry, (5.0, -8.0, 12.0), 14.0)) > 0.96


def test_streamed_labels_equal_those_of_the_whole_volume():
    geometry = grid((0.8, 0.9, 1.7), (50, 44, 26))
    scan, model = phantom(geometry), threshold_model()
    streamed = segment(scan, model)
    # One window over the whole prepared volume: no streaming, no overlap.
    whole = segment(scan, Model(model.info, model.network, Windows(size=(48, 48, 48))))
    assert (streamed.array != whole.array).mean() < 1e-4


def test_refiners_see_slabs_on_the_scan_s_own_grid():
    seen = []

    def erase(slabs, volume):
        for slab in slabs:
            seen.append((slab.axis, slab.start, tuple(slab.scores.shape[1:])))
            scores = torch.zeros_like(slab.scores)
            scores[0] = 1
            yield Slab(scores, slab.axis, slab.start)

    scan = phantom(grid((0.8, 1.0, 1.3), (50, 42, 33)))
    result = segment(scan, threshold_model(), refiners=[erase])
    assert not result.array.any()
    axis = seen[0][0]
    assert sorted(start for _, start, _ in seen) == list(range(scan.geometry.shape[axis]))


def test_planes_that_no_slab_brings_are_background():
    slab = Slab(torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 4, 1, 4), axis=1, start=2)
    result = label([slab], LABELS, Geometry((4, 5, 4), np.eye(4)))
    assert isinstance(result, Segmentation)
    assert (result.array[:, 2] == 2).all()
    assert result.array.sum() == 2 * 16


def test_findings_of_the_scan_stay_with_the_segmentation():
    scan = phantom(PLAIN)
    finding = Finding("qform-sform-differ", "They differ.")
    marked = Volume(scan.array, scan.geometry, findings=(finding,))
    assert finding in segment(marked, threshold_model()).findings


def test_scan_with_other_channels_than_the_model_s_is_refused():
    scan = phantom(PLAIN)
    two = Volume(np.concatenate([scan.array] * 2), scan.geometry)
    with pytest.raises(ModelError, match="Scan has 2 channels, tiny takes 1"):
        segment(two, threshold_model())

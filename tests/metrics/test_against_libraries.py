"""The same numbers as the libraries that define them, on shared cases."""

import warnings

import numpy as np
import pytest
import SimpleITK
import torch
from monai.losses.cldice import soft_skel
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
    get_confusion_matrix,
)
from scipy.ndimage import gaussian_filter

from medseg.metrics import METRICS, Comparison, average_distance, hausdorff, measure, skeleton
from medseg.metrics import surface_dice as surface_dice_of

SPACING_MM = (0.8, 1.5, 3.0)


def blobs(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two label arrays of irregular, similar shapes, some of which reach the image's edge."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(4, *shape)), (0, *(2.5,) * len(shape)))
    noisy = field + gaussian_filter(rng.normal(size=(4, *shape)), (0, *(1.5,) * len(shape))) * 0.2
    return field.argmax(0).astype(np.uint8), noisy.argmax(0).astype(np.uint8)


CASES = {"3D": blobs(0, (24, 20, 14)), "3D again": blobs(5, (15, 22, 18)), "2D": blobs(1, (40, 32))}


@pytest.fixture(params=CASES)
def case(request) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    reference, prediction = CASES[request.param]
    return reference, prediction, SPACING_MM[: reference.ndim]


def ours(case, *names: str, **options) -> list[np.ndarray]:
    reference, prediction, spacing_mm = case
    comparison = Comparison(reference, prediction, spacing_mm, regions=[(1,), (2,), (3,)], **options)
    values = measure(comparison, [metric for metric in METRICS if metric.name in names])
    return [values[name] for name in names]


def one_hot(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([labels == index for index in range(4)])[None])


def test_hausdorff_and_average_distance_are_monais(case):
    reference, prediction, spacing_mm = case
    found = ours(case, "hausdorff_mm", "hausdorff95_mm", "assd_mm")
    y_pred, y = one_hot(prediction), one_hot(reference)
    expected = [
        compute_hausdorff_distance(y_pred, y, spacing=spacing_mm),
        compute_hausdorff_distance(y_pred, y, spacing=spacing_mm, percentile=95),
        compute_average_surface_distance(y_pred, y, spacing=spacing_mm, symmetric=True),
    ]
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted[0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("tolerance_mm", [0.5, 1.6, 3.1])
def test_surface_dice_is_monais_with_subvoxels_and_without(case, tolerance_mm):
    reference, prediction, spacing_mm = case
    y_pred, y = one_hot(prediction), one_hot(reference)
    options = {"class_thresholds": [tolerance_mm] * 3, "spacing": spacing_mm}
    (found,) = ours(case, "surface_dice", tolerance_mm=tolerance_mm)
    by_elements = compute_surface_dice(y_pred, y, use_subvoxels=True, **options)
    np.testing.assert_allclose(found, by_elements[0].numpy(), rtol=1e-5)
    by_voxels = compute_surface_dice(y_pred, y, use_subvoxels=False, **options)
    comparison = Comparison(reference, prediction, spacing_mm, regions=[(1,), (2,), (3,)])
    border = [surface_dice_of(comparison.surfaces(n, "voxels"), tolerance_mm) for n in range(3)]
    np.testing.assert_allclose(border, by_voxels[0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("label", [1, 2, 3])
def test_surface_elements_are_those_of_surface_distance(case, label):
    library = pytest.importorskip("surface_distance", reason="needs the package surface-distance")
    reference, prediction, spacing_mm = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old names in SciPy
        theirs = library.compute_surface_distances(reference == label, prediction == label, spacing_mm)
    distances = Comparison(reference, prediction, spacing_mm, regions=[(label,)]).surfaces(0, "elements")
    np.testing.assert_allclose(np.sort(distances.from_reference), theirs["distances_gt_to_pred"])
    np.testing.assert_allclose(np.sort(distances.from_prediction), theirs["distances_pred_to_gt"])
    assert distances.reference_areas.sum() == pytest.approx(theirs["surfel_areas_gt"].sum())
    for tolerance_mm in (0.5, 1.6, 3.1):
        wanted = library.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
        assert surface_dice_of(distances, tolerance_mm) == pytest.approx(wanted)
    assert hausdorff(distances) == pytest.approx(library.compute_robust_hausdorff(theirs, 100))
    forth, back = library.compute_average_surface_distance(theirs)
    weights = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    assert average_distance(distances) == pytest.approx(np.average([forth, back], weights=weights))


def test_overlap_is_that_of_simpleitk(case):
    reference, prediction, _ = case
    names = ["dice", "iou", "sensitivity", "precision"]
    dice, iou, sensitivity, precision = ours(case, *names)
    measured = SimpleITK.LabelOverlapMeasuresImageFilter()
    # The filter's source is the prediction: its errors are relative to the target.
    measured.Execute(SimpleITK.GetImageFromArray(prediction), SimpleITK.GetImageFromArray(reference))
    for n, label in enumerate((1, 2, 3)):
        assert dice[n] == pytest.approx(measured.GetDiceCoefficient(label))
        assert iou[n] == pytest.approx(measured.GetJaccardCoefficient(label))
        assert sensitivity[n] == pytest.approx(1 - measured.GetFalseNegativeError(label))
        assert precision[n] == pytest.approx(1 - measured.GetFalseDiscoveryRate(label))
        volumes = measured.GetVolumeSimilarity(label)
        reference_voxels, prediction_voxels = np.sum(reference == label), np.sum(prediction == label)
        assert 2 * (prediction_voxels - reference_voxels) / (prediction_voxels + reference_voxels) == pytest.approx(
            volumes
        )


def test_overlap_is_that_of_monai(case):
    reference, prediction, _ = case
    y_pred, y = one_hot(prediction), one_hot(reference)
    dice, iou, sensitivity, specificity, precision = ours(
        case, "dice", "iou", "sensitivity", "specificity", "precision"
    )
    np.testing.assert_allclose(dice, compute_dice(y_pred, y, include_background=False)[0], rtol=1e-6)
    np.testing.assert_allclose(iou, compute_iou(y_pred, y, include_background=False)[0], rtol=1e-6)
    counts = get_confusion_matrix(y_pred.float(), y.float(), include_background=False)  # MONAI adds the masks
    for name, found in (("sensitivity", sensitivity), ("specificity", specificity), ("precision", precision)):
        np.testing.assert_allclose(found, compute_confusion_matrix_metric(name, counts)[0], rtol=1e-6)


def test_skeleton_is_monais_soft_skeleton_of_a_binary_mask(case):
    mask = case[0] == 2
    tensor = torch.from_numpy(mask[None, None].astype(np.float32))
    np.testing.assert_array_equal(skeleton(mask), soft_skel(tensor, 40)[0, 0].numpy() > 0.5)

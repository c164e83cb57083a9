import pytest
import torch
from torch.nn import functional

from medseg.networks import build

SMALL = {"channels": (4, 6), "kernels": (4, 3), "head_channels": 5}


def network(spatial_dims=2, **settings):
    torch.manual_seed(0)
    return build(
        "patch_classifier", spatial_dims=spatial_dims, in_channels=1, num_classes=3, **{**SMALL, **settings}
    ).eval()


def classified(p, patch):
    """What a classifier of patches does, its fully connected layers being matrices."""
    for _ in range(2):
        patch = functional.max_pool2d(functional.conv2d(patch, next(p), next(p)).relu(), 2)
    hidden = functional.linear(patch.flatten(1), next(p).flatten(1), next(p)).relu()
    return functional.linear(hidden, next(p).flatten(1), next(p))


def test_every_voxel_gets_the_logits_of_the_patch_around_it():
    classifier, x = network(), torch.randn(1, 1, 30, 33)
    logits = classifier(x)
    n = classifier.patch[0]
    assert classifier.patch == (19, 19)
    for i, j in [(9, 9), (10, 9), (13, 22), (20, 23)]:
        patch = x[:, :, i - n // 2 : i - n // 2 + n, j - n // 2 : j - n // 2 + n]
        torch.testing.assert_close(logits[:, :, i, j], classified(iter(classifier.parameters()), patch))


def test_a_patch_has_one_logit_a_class():
    classifier = network()
    patch = torch.randn(2, 1, *classifier.patch)
    expected = classified(iter(classifier.parameters()), patch)
    torch.testing.assert_close(classifier.forward_features(patch)[:, :, 0, 0], expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_output_stride_changes_nothing_at_the_voxels_that_are_classified(spatial_dims):
    dense, strided = network(spatial_dims, output_stride=1), network(spatial_dims, output_stride=4)
    x = torch.randn(1, 1, *(14, 9, 6)[:spatial_dims])
    every = (slice(None), slice(None), *[slice(None, None, 4)] * spatial_dims)
    torch.testing.assert_close(strided(x)[every], dense(x)[every])


def test_default_is_network_n4_of_the_paper():
    assert network(channels=None, kernels=None).patch == (95, 95)

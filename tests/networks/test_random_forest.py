import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from medseg.networks import build

SMALL = {"trees": 5, "max_depth": 6, "max_leaves": 32, "scales": (1.0, 2.0), "samples_per_image": 500}


def forest(spatial_dims=2, num_classes=3, in_channels=1):
    torch.manual_seed(0)
    return build(
        "random_forest", spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes, **SMALL
    ).eval()


def textures(spatial_dims):
    """Two textures of equal mean: smooth on one side, rough on the other; a bright class between them."""
    torch.manual_seed(1)
    size = (32, 48, 12)[:spatial_dims]
    column = torch.arange(48).reshape(-1, *[1] * (spatial_dims - 2)).expand(size)
    classes = (column >= 20).long() + (column >= 28).long()
    image = torch.randn(size) * torch.tensor([0.1, 0.1, 1.0])[classes] + (classes == 1) * 3.0
    return image[None, None], classes[None, None]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_grown_forest_tells_textures_apart(spatial_dims):
    image, classes = textures(spatial_dims)
    network = forest(spatial_dims)
    network.fit([(image, classes)], seed=0)
    assert (network(image).argmax(1) == classes[:, 0]).float().mean() > 0.95


def test_logits_are_the_logarithm_of_scikit_learn_s_probabilities(monkeypatch):
    grown = []
    original = RandomForestClassifier.fit
    monkeypatch.setattr(
        RandomForestClassifier, "fit", lambda self, *args: grown.append(original(self, *args)) or grown[-1]
    )
    image, classes = textures(2)
    network = forest()
    network.fit([(image, classes)], seed=0)
    features = network.forward_features(image)[0].flatten(1).T.numpy()
    expected = grown[0].predict_proba(features).T.reshape(3, 32, 48)
    np.testing.assert_allclose(network(image)[0].exp().detach().numpy(), expected, atol=1e-5)


def test_a_grown_forest_is_saved_as_plain_tensors():
    image, classes = textures(2)
    network, other = forest(), forest()
    network.fit([(image, classes)], seed=0)
    assert not torch.equal(network(image), other(image))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(image), other(image))


def test_the_same_seed_grows_the_same_trees():
    image, classes = textures(2)
    first, second, other = forest(), forest(), forest()
    for network, seed in ((first, 1), (second, 1), (other, 2)):
        network.fit([(image, classes)], seed=seed)
    assert torch.equal(first(image), second(image))
    assert not torch.equal(first(image), other(image))


def test_a_class_that_never_occurs_has_almost_no_probability():
    image, classes = textures(2)
    network = forest(num_classes=5)
    network.fit([(image, classes)], seed=0)
    assert network(image)[:, 3:].exp().max() < 1e-4


def test_votes_keep_the_share_of_a_class_that_features_do_not_show():
    torch.manual_seed(2)
    image, classes = torch.randn(1, 1, 64, 64), (torch.rand(1, 1, 64, 64) < 0.1).long()
    network = forest(num_classes=2)
    network.fit([(image, classes)], seed=0)
    assert 0.05 < network(image)[:, 1].exp().mean() < 0.2  # although half of the voxels drawn were of it


def test_growing_without_samples_is_refused():
    with pytest.raises(ValueError, match="cannot grow without samples"):
        forest().fit([], seed=0)


def test_coherence_tells_a_ramp_from_noise():
    torch.manual_seed(0)
    ramp = torch.arange(40.0).expand(1, 1, 40, 40)
    coherence = 5  # raw, then of the first scale: smooth, gradient, Laplacian, deviation, coherence
    features = forest().forward_features(torch.cat([ramp, torch.randn(1, 1, 40, 40)]))[:, coherence]
    assert features[0, 15:25, 15:25].min() > 0.99
    assert features[1].mean() < 0.9


def test_features_of_a_ramp_are_its_slope_without_bend():
    ramp = 2 * torch.arange(40.0).expand(1, 1, 40, 40)
    _, smooth, gradient, laplacian = forest().forward_features(ramp)[0, :4, 15:25, 15:25]
    torch.testing.assert_close(smooth, ramp[0, 0, 15:25, 15:25])
    torch.testing.assert_close(gradient, torch.full((10, 10), 2.0))
    torch.testing.assert_close(laplacian, torch.zeros(10, 10), atol=1e-4, rtol=0)

import torch

from medseg.networks import build
from medseg.refine.crf import MeanField

SMALL = {"width": 1 / 16, "head_channels": 8, "zero_scores": False}


def networks(**settings):
    """CRF-RNN and an FCN-8s with the same weights."""
    torch.manual_seed(0)
    crfrnn = build("crfrnn", spatial_dims=2, in_channels=3, num_classes=3, **SMALL, **settings).eval()
    fcn8s = build("fcn8s", spatial_dims=2, in_channels=3, num_classes=3, **SMALL).eval()
    surplus = set(fcn8s.load_state_dict(crfrnn.state_dict(), strict=False).unexpected_keys)
    assert surplus == {
        "fusions.0.up.bias",
        "mean_field.spatial_weights",
        "mean_field.bilateral_weights",
        "mean_field.compatibility",
    }
    return crfrnn, fcn8s


def test_crfrnn_is_fcn8s_and_then_the_mean_field():
    crfrnn, fcn8s = networks(image_scale=2.0)
    x = torch.randn(1, 3, 20, 24)
    expected = MeanField(3, eval_iterations=10).eval()(fcn8s(x), 2 * x)
    torch.testing.assert_close(crfrnn(x), expected)


def test_the_bias_of_the_first_deconvolution_reaches_the_scores():
    crfrnn, fcn8s = networks()
    x = torch.randn(1, 3, 20, 24)
    with torch.no_grad():
        crfrnn.fusions[0].up.bias.fill_(1.0)
    assert (crfrnn.forward_features(x) > fcn8s.forward_features(x)).all()

import pytest
import torch
from torch.nn import functional

from medseg.networks import build
from medseg.networks.dilation import ContextModule

SMALL = {"width": 1 / 16, "head_channels": 8}


def network(name, **settings):
    torch.manual_seed(0)
    built = build(name, spatial_dims=2, in_channels=3, num_classes=4, **SMALL, **settings)
    with torch.no_grad():
        for key, p in built.named_parameters():
            if key.endswith("bias") or "context" in key:
                p.normal_(std=0.1)
    return built.eval()


def frontend_scores(p, x):
    """The release: no convolution pads, the image is mirrored by 186 (and up to a multiple of 8)."""
    rest = [-n % 8 for n in x.shape[2:]]
    x = functional.pad(x, (186, 186 + rest[1], 186, 186 + rest[0]), mode="reflect")
    for block, count in enumerate((2, 2, 3, 3, 3)):
        for _ in range(count):
            x = functional.conv2d(x, next(p), next(p), dilation=2 if block == 4 else 1).relu()
        if block < 3:
            x = functional.max_pool2d(x, 2, 2)
    x = functional.conv2d(x, next(p), next(p), dilation=4).relu()
    x = functional.conv2d(x, next(p), next(p)).relu()
    return functional.conv2d(x, next(p), next(p))


def upsampled(scores, size):
    """The release's fixed deconvolution: kernel 16, stride 8, padding 4, one bilinear kernel a class."""
    line = 1 - (torch.arange(16) - 7.5).abs() / 8
    kernel = (line[:, None] * line).expand(scores.shape[1], 1, 16, 16)
    large = functional.conv_transpose2d(scores, kernel, stride=8, padding=4, groups=scores.shape[1])
    return large[:, :, : size[0], : size[1]]


@pytest.mark.parametrize("size", [(192, 200), (190, 203)])
def test_front_end_is_the_release_layer_by_layer(size):
    frontend, x = network("dilated_frontend"), torch.randn(1, 3, *size)
    scores = frontend_scores(iter(frontend.parameters()), x)
    assert scores.shape[2:] == tuple(-(-n // 8) for n in size)
    torch.testing.assert_close(frontend.forward_features(x), scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frontend(x), upsampled(scores, size), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", ["large", "basic"])
def test_dilated_is_the_release_layer_by_layer(context):
    dilated, x = network("dilated", context=context), torch.randn(1, 3, 192, 200)
    p = iter(dilated.parameters())
    scores = functional.pad(frontend_scores(p, x), (33, 33, 33, 33))
    for dilation in (1, 1, 2, 4, 8, 16, 1):
        scores = functional.conv2d(scores, next(p), next(p), dilation=dilation).relu()
    scores = functional.conv2d(scores, next(p), next(p))
    assert next(p, None) is None
    torch.testing.assert_close(dilated(x), upsampled(scores, x.shape[2:]), rtol=1e-4, atol=1e-5)


def test_basic_context_has_as_many_parameters_as_in_the_paper():
    assert sum(p.numel() for p in ContextModule(2, 21, "basic").parameters()) == 28_392


def test_large_context_has_the_widths_of_the_release():
    with torch.device("meta"):
        convolutions = [m for m in ContextModule(2, 21, "large") if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels // 21 for m in convolutions] == [2, 2, 4, 8, 16, 32, 32, 1]


@pytest.mark.parametrize(("kind", "tolerance"), [("basic", 1e-6), ("large", 0.3)])
@pytest.mark.parametrize("padding", ["paper", "same"])
def test_context_starts_as_the_identity_on_positive_scores(kind, tolerance, padding):
    torch.manual_seed(0)
    context = ContextModule(2, 3, kind, padding=padding)
    context.start_as_identity()
    scores = torch.rand(1, 3, 9, 11)
    assert (context(scores) - scores).abs().max() < tolerance


def test_same_padding_gives_scores_in_register_with_the_image():
    frontend = build("dilated_frontend", spatial_dims=3, in_channels=1, num_classes=2, **SMALL)
    assert frontend.forward_features(torch.randn(1, 1, 17, 8, 9)).shape == (1, 2, 3, 1, 2)

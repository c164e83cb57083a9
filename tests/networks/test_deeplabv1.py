import pytest
import torch
from torch.nn import functional

from medseg.networks import build


def network(name):
    torch.manual_seed(0)
    built = build(name, spatial_dims=2, in_channels=3, num_classes=4, width=1 / 16, head_channels=8)
    with torch.no_grad():
        for key, p in built.named_parameters():
            if key.endswith("bias"):
                p.normal_(std=0.1)
    return built.eval()


def maps_and_scores(p, x):
    """The Caffe network: pools 3×3, strides 2 2 2 1 1, average pool5a, fc6 dilated by 12."""
    maps = []
    for count, stride, dilation in zip((2, 2, 3, 3, 3), (2, 2, 2, 1, 1), (1, 1, 1, 1, 2), strict=True):
        for _ in range(count):
            x = functional.conv2d(x, next(p), next(p), padding=dilation, dilation=dilation).relu()
        x = functional.max_pool2d(x, 3, stride, 1, ceil_mode=True)
        maps.append(x)
    x = functional.avg_pool2d(x, 3, 1, 1)
    x = functional.conv2d(x, next(p), next(p), padding=12, dilation=12).relu()
    x = functional.conv2d(x, next(p), next(p)).relu()
    return maps, functional.conv2d(x, next(p), next(p))


def test_largefov_is_the_release_layer_by_layer():
    deeplab, x = network("deeplabv1"), torch.randn(2, 3, 81, 65)  # the authors' sizes are 8 · n + 1
    _, scores = maps_and_scores(iter(deeplab.parameters()), x)
    assert scores.shape[2:] == (11, 9)
    torch.testing.assert_close(deeplab.forward_features(x), scores)
    expected = functional.interpolate(scores, (81, 65), mode="bilinear", align_corners=True)
    torch.testing.assert_close(deeplab(x), expected)


def test_msc_is_the_release_layer_by_layer():
    deeplab, x = network("deeplabv1_msc"), torch.randn(2, 3, 81, 65)
    p = iter(deeplab.parameters())
    maps, scores = maps_and_scores(p, x)
    for source, stride in zip((x, *maps[:4]), (8, 4, 2, 1, 1), strict=True):
        branch = functional.conv2d(source, next(p), next(p), stride=stride, padding=1).relu()
        branch = functional.conv2d(branch, next(p), next(p)).relu()
        scores = scores + functional.conv2d(branch, next(p), next(p))
    assert next(p, None) is None
    expected = functional.interpolate(scores, (81, 65), mode="bilinear", align_corners=True)
    torch.testing.assert_close(deeplab(x), expected)


@pytest.mark.parametrize("name", ["deeplabv1", "deeplabv1_msc"])
def test_scores_are_of_every_eighth_voxel_whatever_the_size(name):
    deeplab = network(name)
    for size in [(82, 73), (88, 80), (3, 1)]:
        x = torch.randn(1, 3, *size)
        scores, logits = deeplab.forward_features(x), deeplab(x)
        assert scores.shape[2:] == tuple(-(-(n - 1) // 8) + 1 for n in size)
        kept = logits[:, :, ::8, ::8]
        torch.testing.assert_close(kept, scores[:, :, : kept.shape[2], : kept.shape[3]], rtol=1e-4, atol=1e-5)

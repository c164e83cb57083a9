import ast
import re

import pytest
import torch
from torch.nn import functional

from medseg.errors import ModelError
from medseg.networks import adapters_vgg, build


def listed(shared_data, file):
    """The keys and shapes of a public file, without its values."""
    lines = (shared_data.parent / "architectures" / "checkpoint_keys" / file).read_text().splitlines()
    pairs = (re.match(r"(\S+) (\(.*\))$", line).groups() for line in lines)
    return {key: torch.empty(ast.literal_eval(shape), device="meta") for key, shape in pairs}


def fcn8s(norm="none", **settings):
    with torch.device("meta"):
        return build("fcn8s", spatial_dims=2, in_channels=3, num_classes=21, norm=norm, **settings)


@pytest.mark.parametrize(("layout", "norm"), [("torchvision_vgg16", "none"), ("torchvision_vgg16_bn", "batch")])
def test_imagenet_weights_fill_all_but_the_score_layers(shared_data, layout, norm):
    state = getattr(adapters_vgg, layout)(listed(shared_data, f"{layout}.txt"))
    missing, surplus = fcn8s(norm).load_state_dict(state, strict=False, assign=True)
    assert surplus == []
    assert all(key.startswith(("score", "fusions", "upscore")) for key in missing)


@pytest.mark.parametrize("name", ["segnet", "dilated_frontend", "dilated", "deeplabv1", "deeplabv1_msc", "fcn32s"])
def test_imagenet_blocks_fit_every_network_on_vgg(shared_data, name):
    state = adapters_vgg.torchvision_vgg16(listed(shared_data, "torchvision_vgg16.txt"))
    with torch.device("meta"):
        network = build(name, spatial_dims=2, in_channels=3, num_classes=21, norm="none")
    blocks = {key: value for key, value in state.items() if key.startswith("backbone.")}
    missing, surplus = network.load_state_dict(blocks, strict=False, assign=True)
    assert surplus == []
    assert not any(key.startswith("backbone.") for key in missing)


def test_fcn8s_of_pytorch_fcn_loads_completely(shared_data):
    state = adapters_vgg.wkentaro_fcn8s(listed(shared_data, "fcn_wkentaro-FCN8s.txt"))
    fcn8s().load_state_dict(state, assign=True)


def test_every_layout_has_a_convention():
    assert all(callable(getattr(adapters_vgg, name)) for name in adapters_vgg.CONVENTIONS)
    assert adapters_vgg.CONVENTIONS["wkentaro_fcn8s"].channels == "BGR"


def small(shared_data, file):
    """Random values under a file's keys, at a 32nd of the widths."""
    torch.manual_seed(0)

    def narrow(key, n, axis):
        if (axis == 1 and n == 3) or n in (7, 16, 4, 2, 1) or (axis > 1 and n == 3):
            return n
        return n if n in (21, 1000) else 2 * 49 if n == 25088 else max(1, n // 256 if n >= 256 else n // 32)

    shapes = {k: [narrow(k, n, a) for a, n in enumerate(v.shape)] for k, v in listed(shared_data, file).items()}
    return {key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}


def test_convolution_of_classifier_0_gives_what_the_matrix_gives(shared_data):
    listing = small(shared_data, "torchvision_vgg16.txt")
    adapted = adapters_vgg.torchvision_vgg16(listing)
    pooled = torch.randn(2, adapted["head.fc6.weight"].shape[1], 7, 7)
    ours = functional.conv2d(pooled, adapted["head.fc6.weight"], adapted["head.fc6.bias"])
    theirs = functional.linear(pooled.flatten(1), listing["classifier.0.weight"], listing["classifier.0.bias"])
    torch.testing.assert_close(ours[:, :, 0, 0], theirs)


def test_missing_and_surplus_keys_are_named(shared_data):
    state = listed(shared_data, "fcn_wkentaro-FCN8s.txt")
    with pytest.raises(ModelError, match=r"besides the layout's own, optimizer\.step;"):
        adapters_vgg.wkentaro_fcn8s(state | {"optimizer.step": torch.zeros(1)})
    del state["conv3_2.bias"]
    with pytest.raises(ModelError, match=r"lacks conv3_2\.bias;"):
        adapters_vgg.wkentaro_fcn8s(state)

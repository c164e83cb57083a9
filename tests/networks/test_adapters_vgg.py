"""Public files of the VGG family; what holds for every layout is in test_checkpoints.py."""

import pytest
import torch
from torch.nn import functional

from medseg.errors import ModelError
from medseg.networks import build
from medseg.networks.adapters_vgg import torchvision_vgg16, torchvision_vgg16_bn
from medseg.networks.checkpoints import load_checkpoint
from tests.networks import restatement
from tests.networks.test_checkpoints import FOLDER, codes, listing, network, random_state

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/architectures, which is not beside this")

WIDTH = 1 / 32
# Network, its normalisation, whether it has the file's fc6 and fc7.
TARGETS = [
    ("fcn32s", "none", True),
    ("fcn8s", "batch", True),
    ("segnet", "batch", False),
    ("dilated_frontend", "none", True),
    ("dilated", "none", True),
    ("deeplabv1", "none", False),
    ("deeplabv1_msc", "batch", False),
    ("crfrnn", "none", True),
]


def imagenet(norm):
    """Keys of torchvision's file at a 32nd of the width, and random values."""

    def narrow(shape):
        if shape == (4096, 25088):
            return (4096 // 32, 25088 // 32)
        return tuple(n if n in (3, 1000) else n // 32 for n in shape[:2]) + shape[2:]

    return random_state("torchvision_vgg16_bn" if norm == "batch" else "torchvision_vgg16", narrow)


def target(name, norm, spatial_dims=2, **settings):
    head = {} if name == "segnet" else {"head_channels": 4096 // 32}
    given = {"width": WIDTH, "norm": norm} | head | settings
    return build(name, spatial_dims=spatial_dims, in_channels=3, num_classes=2, **given).eval()


@pytest.mark.parametrize(("name", "norm", "has_head"), TARGETS)
def test_imagenet_weights_go_into_every_network_on_vgg(name, norm, has_head, tmp_path):
    state = imagenet(norm)
    torch.save(state, tmp_path / "vgg16.pth")
    ours = target(name, norm)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}

    report = load_checkpoint(ours, tmp_path / "vgg16.pth")

    assert report.layout.startswith("torchvision VGG-16")
    assert report.convention.order == "RGB"
    # DeepLab's fc6 is 3×3; its fc7 is as wide as here by chance of the reduced width.
    left_out = {"segnet": 2, "deeplabv1": 1, "deeplabv1_msc": 1}.get(name, 0)
    assert codes(report) == ["head-left-out"] * left_out
    after = ours.state_dict()
    taken = {key for key in after if key.startswith("backbone.") or (has_head and key.startswith("head."))}
    taken |= {"head.fc7.weight", "head.fc7.bias"} & after.keys()
    differing = {key for key in after if not torch.equal(after[key], before[key])}
    assert differing == taken


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_imagenet_blocks_compute_what_torchvision_s_do(norm, tmp_path):
    state = imagenet(norm)
    torch.save(state, tmp_path / "vgg16.pth")
    ours = target("fcn32s", norm, padding="same")
    load_checkpoint(ours, tmp_path / "vgg16.pth")
    convolutions = [key.removesuffix(".weight") for key, tensor in state.items() if tensor.ndim == 4]
    norms = [key.removesuffix(".running_mean") for key in state if key.endswith("running_mean")]
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = ours.backbone(image)
    expected = restatement.vgg16(state, image, convolutions, norms)
    for map_, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(map_, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_convolution_of_classifier_0_gives_what_the_matrix_gives():
    state = {key: tensor.double() for key, tensor in imagenet("none").items()}
    adapted = torchvision_vgg16(state)
    pooled = torch.randn(2, 512 // 32, 7, 7, dtype=torch.float64)
    ours = functional.conv2d(pooled, adapted["head.fc6.weight"], adapted["head.fc6.bias"])
    theirs = functional.linear(pooled.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"])
    torch.testing.assert_close(ours[:, :, 0, 0], theirs)


@pytest.mark.parametrize(
    ("translate", "name", "norm"),
    [(torchvision_vgg16, "torchvision_vgg16", "none"), (torchvision_vgg16_bn, "torchvision_vgg16_bn", "batch")],
)
def test_public_file_at_full_width_fits_all_but_the_score_layers_of_fcn(translate, name, norm):
    with torch.device("meta"):
        state = translate({key: torch.empty(shape) for key, shape in listing(name)})
        ours = build("fcn8s", spatial_dims=2, in_channels=3, num_classes=21, norm=norm).state_dict()
    shapes = {key: tensor.shape for key, tensor in ours.items() if not key.startswith(("score", "fusions", "upscore"))}
    assert {key: tensor.shape for key, tensor in state.items()} == shapes


@pytest.mark.parametrize(("file", "norm", "other"), [("none", "batch", "none"), ("batch", "none", "batch")])
def test_file_of_the_other_normalisation_says_which_one_to_choose(file, norm, other, tmp_path):
    torch.save(imagenet(file), tmp_path / "vgg16.pth")
    with pytest.raises(ModelError, match=rf"backbone\.blocks.* norm='{other}'"):
        load_checkpoint(target("fcn8s", norm), tmp_path / "vgg16.pth")


def test_imagenet_file_in_2d_starts_a_3d_network_with_the_same_maps_on_every_slice(tmp_path):
    torch.save(imagenet("none"), tmp_path / "vgg16.pth")
    flat, deep = (target("fcn32s", "none", dims, padding="same") for dims in (2, 3))
    load_checkpoint(flat, tmp_path / "vgg16.pth")
    report = load_checkpoint(deep, tmp_path / "vgg16.pth")
    assert codes(report) == ["inflated", "head-left-out"]  # fc6 is 3×3×3 there
    image = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        planes, volume = flat.backbone(image)[-1], deep.backbone(image[..., None].expand(-1, -1, -1, -1, 40))[-1]
    torch.testing.assert_close(volume, planes[..., None].expand_as(volume), rtol=1e-4, atol=1e-4)


def test_fcn8s_in_3d_keeps_its_own_deconvolutions_and_says_where_it_differs(tmp_path):
    layout = "pytorch-fcn FCN-8s"
    torch.save(random_state("fcn_wkentaro-FCN8s"), tmp_path / "fcn8s.pth")
    deep = network(layout, spatial_dims=3, norm="none", fc6_kernel=(7, 7, 1))
    before = deep.upscore.weight.clone()
    report = load_checkpoint(deep, tmp_path / "fcn8s.pth")
    assert codes(report) == ["inflated", *["head-left-out"] * 3, "structure-differs"]
    assert torch.equal(deep.upscore.weight, before)

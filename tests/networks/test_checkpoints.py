import ast
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medseg.errors import InputError, ModelError
from medseg.networks import build
from medseg.networks.checkpoint_layouts import ADAPTERS
from medseg.networks.checkpoints import load_checkpoint
from medseg.networks.resnet import ResNet
from tests.networks import restatement

FOLDER = Path(__file__).parents[3] / "shared" / "architectures" / "checkpoint_keys"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/architectures, which is not beside this")

# Listing, architecture and settings of the network, plain arithmetic, whether the image comes as BGR.
FILES = {
    "torchvision FCN": ("fcn_torchvision-fcn_resnet101", "fcn_resnet", {}, restatement.torchvision_fcn, False),
    "torchvision DeepLab v3": (
        "deeplabv3_torchvision-resnet101",
        "deeplabv3",
        {"variant": "torchvision"},
        restatement.torchvision_deeplabv3,
        False,
    ),
    "mmsegmentation PSPNet": (
        "pspnet_mmseg-r101-d8",
        "pspnet",
        {"variant": "mmsegmentation"},
        restatement.mmsegmentation_pspnet,
        False,
    ),
    "mmsegmentation DeepLab v3": (
        "deeplabv3_mmseg-r101-d8",
        "deeplabv3",
        {"variant": "mmsegmentation"},
        restatement.mmsegmentation_deeplabv3,
        False,
    ),
    "semseg PSPNet": ("pspnet_hszhao-101", "pspnet", {}, restatement.semseg_pspnet, False),
    "deeplab-pytorch DeepLab v2": (
        "deeplabv2_kazuto1011-MSC",
        "deeplabv2",
        {"align_corners": False},
        restatement.deeplab_pytorch,
        True,
    ),
    "refinenet-pytorch": ("refinenet_DrSleep-rf101", "refinenet", {}, restatement.refinenet_pytorch, True),
    "pytorch-fcn FCN-8s": ("fcn_wkentaro-FCN8s", "fcn8s", {}, restatement.pytorch_fcn8s, True),
}
WIDTH = 1 / 16
NARROW_HEAD = {"pytorch-fcn FCN-8s": {"head_channels": 4096 // 16}}


def listing(name):
    """Names and shapes of the tensors of a public file."""
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        key, shape = line.split(" ", 1)
        yield key, ast.literal_eval(shape)


def narrow(shape):
    """A shape at 1/16 of the width; three colours and 21 or 1000 classes stay."""
    return tuple(n if n in (3, 21, 1000) else int(n * WIDTH) for n in shape[:2]) + shape[2:]


def random_state(name, shape_of=narrow):
    torch.manual_seed(0)
    state = {}
    for key, full in listing(name):
        shape = shape_of(full)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif len(shape) == 4:
            # The refinement sums 36 residuals without normalisation; so small, their sum stays a fair comparison.
            state[key] = torch.randn(shape) * (0.5 / shape[1] / shape[2] / shape[3]) ** 0.5
        else:
            state[key] = torch.rand(shape) * 0.5 + 0.5
    return state


def network(layout, num_classes=21, **settings):
    _, name, own, _, _ = FILES[layout]
    torch.manual_seed(1)
    given = {"spatial_dims": 2, "in_channels": 3, "width": WIDTH} | own | NARROW_HEAD.get(layout, {}) | settings
    return build(name, num_classes=num_classes, **given).eval()


def codes(report):
    return [finding.code for finding in report.findings]


@pytest.mark.parametrize("layout", FILES)
def test_logits_of_a_public_file_agree_with_its_plain_arithmetic(layout, tmp_path):
    name, _, _, arithmetic, bgr = FILES[layout]
    state = random_state(name)
    # Files as their authors save them: wrapped by the training code, or by data parallelism.
    content = {"state_dict": state, "meta": {"epoch": 3}} if "mmseg" in name else state
    content = {f"module.{key}": tensor for key, tensor in state.items()} if "hszhao" in name else content
    torch.save(content, tmp_path / "public.pth")
    ours = network(layout)

    report = load_checkpoint(ours, tmp_path / "public.pth")

    assert report.layout == layout
    assert set(codes(report)) <= {"convention-uncertain"}
    assert report.convention.order == ("BGR" if bgr else "RGB")
    image = torch.randn(1, 3, 72, 56, dtype=torch.float64)
    with torch.no_grad():
        logits = ours.double()(image)
    expected = arithmetic({key: tensor.double() for key, tensor in state.items()}, image)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("layout", FILES)
def test_public_file_at_full_width_fits_the_paper_s_network(layout):
    name, architecture, settings, _, _ = FILES[layout]
    adapter = next(a for a in ADAPTERS if a.name == layout)
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in listing(name)}
        ours = build(architecture, spatial_dims=2, in_channels=3, num_classes=21, **settings)
    translated = {key: tensor.shape for key, tensor in adapter.translate(state).items()}
    assert translated == {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert adapter.build == (architecture, settings)


BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def imagenet_state(depth):
    """The file of ResNet-50, 101 or 152: 101's listing with fewer or more copies of a stage's second block."""
    state = random_state("torchvision_resnet101")
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for key in [k for k in state if re.match(rf"layer{stage}\.([2-9]|\d\d)\.", k)]:
            del state[key]
        for key in [k for k in state if k.startswith(f"layer{stage}.1.")]:
            for number in range(2, blocks):
                state[key.replace(".1.", f".{number}.", 1)] = state[key] * 0.9
    return state


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_imagenet_resnet_goes_into_a_backbone_and_leaves_the_head(depth, tmp_path):
    state = imagenet_state(depth)
    save_file(state, tmp_path / "resnet.safetensors")
    ours = build("gcn", spatial_dims=2, in_channels=3, num_classes=2, depth=depth, width=WIDTH).eval()
    head = {key: tensor.clone() for key, tensor in ours.head.state_dict().items()}

    report = load_checkpoint(ours, tmp_path / "resnet.safetensors")

    assert (report.layout, codes(report)) == ("torchvision ResNet", [])
    assert report.convention.mean == (0.485, 0.456, 0.406)
    assert all(torch.equal(tensor, head[key]) for key, tensor in ours.head.state_dict().items())
    image = torch.randn(1, 3, 65, 40)
    with torch.no_grad():
        maps = ours.backbone(image)
    expected = restatement.resnet(state, image, restatement.PLAIN, restatement.STRIDE_32)
    for map_, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(map_, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_imagenet_listing_is_resnet_101_at_full_width():
    with torch.device("meta"):
        ours = ResNet(2, 3, depth=101).state_dict()
    shapes = {key: shape for key, shape in listing("torchvision_resnet101") if not key.startswith("fc.")}
    assert len(shapes) == len(ours)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == sum(t.numel() for t in ours.values())


def saved(tmp_path, layout, change=lambda state: None):
    state = random_state(FILES[layout][0])
    change(state)
    torch.save(state, tmp_path / "public.pth")
    return tmp_path / "public.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("classifier.0.weight"), "layout that is unknown"),
        (lambda s: s.pop("backbone.layer3.7.conv2.weight"), r"lacks 1: backbone\.layers\.2\.7\.middle\.0\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"has surplus 1: extra"),
        (
            lambda s: s.update({"classifier.0.weight": torch.zeros(32, 128, 1, 1)}),
            r"another shape 1: head\.fuse\.0\.weight \(32, 128, 1, 1\) for \(32, 128, 3, 3\)",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(ModelError, match=message) as error:
        load_checkpoint(network("torchvision FCN"), saved(tmp_path, "torchvision FCN", change))
    assert "\n" not in str(error.value)


def test_wrong_network_is_told_which_one_to_build(tmp_path):
    path = saved(tmp_path, "torchvision DeepLab v3")
    with pytest.raises(ModelError, match=r"build\('deeplabv3', variant='torchvision', width=1, \.\.\.\)"):
        load_checkpoint(network("torchvision DeepLab v3", variant="paper"), path)


def test_one_channel_gets_the_mean_over_the_colours_and_a_finding(tmp_path):
    path = saved(tmp_path, "semseg PSPNet")
    ours = network("semseg PSPNet", in_channels=1)
    report = load_checkpoint(ours, path)
    assert codes(report) == ["channels-adapted"]
    theirs = torch.load(path)["layer0.0.weight"]
    torch.testing.assert_close(ours.backbone.stem[0].weight, theirs.mean(1, keepdim=True))


def test_other_classes_keep_a_fresh_head_and_say_so(tmp_path):
    path = saved(tmp_path, "semseg PSPNet")
    ours = network("semseg PSPNet", num_classes=2)
    fresh = ours.head.classifier.weight.clone()
    report = load_checkpoint(ours, path)
    assert codes(report) == ["classes-differ"]
    assert "21 classes, the network 2" in str(report.findings[0])
    assert "head.classifier.weight" in str(report.findings[0])
    assert "auxiliary.classifier.weight" in str(report.findings[0])
    assert torch.equal(ours.head.classifier.weight, fresh)
    assert torch.equal(ours.head.fuse[0].weight, torch.load(path)["cls.0.weight"])


def test_network_without_auxiliary_head_leaves_it_out_and_says_so(tmp_path):
    report = load_checkpoint(network("semseg PSPNet", auxiliary=False), saved(tmp_path, "semseg PSPNet"))
    assert codes(report) == ["auxiliary-left-out"]


def test_structure_that_no_shape_tells_is_a_finding(tmp_path):
    ours = network("semseg PSPNet", align_corners=False, stride_on="1x1")
    report = load_checkpoint(ours, saved(tmp_path, "semseg PSPNet"))
    assert codes(report) == ["structure-differs", "structure-differs"]
    assert "stride_on='3x3', the network has '1x1'" in str(report.findings[0])


def test_file_in_2d_starts_a_3d_network_with_the_same_logits_on_every_slice(tmp_path):
    path = saved(tmp_path, "torchvision FCN")
    flat, deep = network("torchvision FCN"), network("torchvision FCN", spatial_dims=3)
    load_checkpoint(flat, path)
    assert "inflated" in codes(load_checkpoint(deep, path))
    image = torch.randn(1, 3, 24, 32)
    with torch.no_grad():
        planes, volume = flat(image), deep(image[..., None].expand(-1, -1, -1, -1, 9))
    torch.testing.assert_close(volume, planes[..., None].expand_as(volume), rtol=1e-4, atol=1e-4)


class Surprise:
    """Something that unpickling would have to run code for."""


def test_more_than_weights_is_not_unpickled(tmp_path):
    torch.save({"state_dict": {}, "meta": Surprise()}, tmp_path / "public.pth")
    with pytest.raises(InputError, match="holds more than weights"):
        load_checkpoint(network("semseg PSPNet"), tmp_path / "public.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_and_damaged_files_are_one_line_errors(tmp_path, suffix):
    path = tmp_path / f"public{suffix}"
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(network("semseg PSPNet"), path)
    path.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InputError, match=r"damaged|more than weights"):
        load_checkpoint(network("semseg PSPNet"), path)


def test_doubtful_convention_is_a_finding_that_says_how_to_choose_the_other(tmp_path):
    report = load_checkpoint(network("refinenet-pytorch"), saved(tmp_path, "refinenet-pytorch"))
    (finding,) = report.findings
    assert (finding.code, report.convention.order, report.convention.scale) == ("convention-uncertain", "BGR", 1)
    assert "notebook gives it RGB" in finding.message
    assert "preparation.convention" in finding.message

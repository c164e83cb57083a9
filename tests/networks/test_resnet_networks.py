"""Faithfulness of the networks on ResNet: sizes of the papers, and the places where copies go wrong."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build
from medseg.networks.resnet import ResNet

NARROW = {"depth": (1, 1, 1, 1), "width": 1 / 16}


def parameters(name, num_classes, spatial_dims=2, **settings):
    with torch.device("meta"):
        network = build(name, spatial_dims=spatial_dims, in_channels=3, num_classes=num_classes, **settings)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "at_21", "at_2"),
    [
        ("deeplabv2", {}, 44_048_532, 42_647_624),
        ("refinenet", {}, 118_052_437, 118_008_642),
        ("pspnet", {}, 68_073_706, 68_059_076),
        ("pspnet", {"auxiliary": False}, 65_708_501, 65_698_754),
        ("gcn", {}, 60_688_084, 58_375_404),
        ("deeplabv3", {}, 58_040_661, 58_035_778),
        ("deeplabv3", {"output_stride": 8}, 58_040_661, 58_035_778),
        ("deeplabv3", {"variant": "torchvision"}, 60_996_202, 60_986_436),
        ("deeplabv3_cascade", {}, 82_706_517, 82_667_586),
        ("fcn_resnet", {}, 54_314_346, 54_299_716),
    ],
)
def test_parameters_are_the_paper_s(name, settings, at_21, at_2):
    assert parameters(name, 21, **settings) == at_21
    assert parameters(name, 2, **settings) == at_2


def test_gcn_on_resnet_101_has_the_specified_parameters():
    assert parameters("gcn", 21, depth=101) == 45_044_436


@pytest.mark.parametrize(("k", "thousands"), [(3, 260), (5, 434), (7, 608), (9, 782)])
def test_global_convolution_on_2048_channels_has_the_weights_that_the_paper_counts(k, thousands):
    with torch.device("meta"):
        module = build("gcn", spatial_dims=2, in_channels=3, num_classes=21, kernel=k).head.scores[3]
    weights = sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight"))
    assert weights == 2 * k * 21 * (2048 + 21)
    assert weights // 1000 == thousands


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("deeplabv2", 5_470_520),
        ("refinenet", 19_520_754),
        ("pspnet", 9_612_116),
        ("gcn", 7_468_372),
        ("deeplabv3", 8_101_042),
        ("deeplabv3_cascade", 10_535_730),
        ("fcn_resnet", 7_572_532),
    ],
)
def test_3d_defaults_have_the_parameters_that_the_docstring_states(name, count):
    assert parameters(name, 2, spatial_dims=3) == count


def convolutions(module, size):
    return [m for m in module.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == size]


def dilations(network, stage):
    return [m.dilation[0] for m in convolutions(network.backbone.layers[stage], (3, 3))]


def full(name, **settings):
    with torch.device("meta"):
        return build(name, spatial_dims=2, in_channels=3, num_classes=21, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "res4", "res5"),
    [
        ("deeplabv2", {}, [2] * 23, [4, 4, 4]),
        ("pspnet", {}, [2] * 23, [4, 4, 4]),
        ("refinenet", {}, [1] * 23, [1, 1, 1]),
        ("deeplabv3", {}, [1] * 23, [2, 4, 8]),
        ("deeplabv3", {"output_stride": 8}, [2] * 23, [4, 8, 16]),
        ("deeplabv3_cascade", {}, [1] * 23, [2, 4, 2]),
        ("deeplabv3", {"variant": "torchvision"}, [1] + [2] * 22, [2, 4, 4]),
        ("pspnet", {"variant": "mmsegmentation"}, [1] + [2] * 22, [2, 4, 4]),
    ],
)
def test_blocks_are_dilated_as_the_authors_do(name, settings, res4, res5):
    network = full(name, **settings)
    assert dilations(network, 2) == res4
    assert dilations(network, 3) == res5


def test_cascade_doubles_the_rate_with_every_replica():
    assert [m.dilation[0] for m in convolutions(full("deeplabv3_cascade").head, (3, 3))] == [
        4,
        8,
        4,
        8,
        16,
        8,
        16,
        32,
        16,
    ]


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_pyramid_s_rates_double_at_half_the_stride(output_stride, rates):
    head = full("deeplabv3", output_stride=output_stride).head
    assert [m.dilation[0] for m in convolutions(head, (3, 3))] == rates


def test_caffe_strides_on_the_first_1x1_and_pools_sizes_up():
    network = full("deeplabv2")
    first = network.backbone.layers[1][0]
    assert (first.reduce[0].stride, first.middle[0].stride) == ((2, 2), (1, 1))
    assert network.backbone.pool.ceil_mode
    first = full("pspnet").backbone.layers[1][0]
    assert (first.reduce[0].stride, first.middle[0].stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("name", "stride"),
    [("deeplabv2", 8), ("refinenet", 4), ("pspnet", 8), ("gcn", 4), ("deeplabv3", 16), ("deeplabv3_cascade", 16)],
)
def test_features_have_the_paper_s_stride(name, stride):
    network = build(name, spatial_dims=2, in_channels=1, num_classes=3, **NARROW).eval()
    with torch.no_grad():
        logits = network.forward_features(torch.zeros(1, 1, 97, 65))
    assert logits.shape == (1, 3, 96 // stride + 1, 64 // stride + 1)


@pytest.mark.parametrize(
    ("settings", "strides"),
    [
        ({}, [(4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32)]),
        ({"output_stride": 8}, [(4, 4, 4), (8, 8, 8), (8, 8, 8), (8, 8, 8)]),
        ({"strides": [(2, 2, 1), (2, 2, 1), 2, 2, 2]}, [(4, 4, 1), (8, 8, 2), (16, 16, 4), (32, 32, 8)]),
    ],
)
def test_backbone_declares_its_maps(settings, strides):
    backbone = ResNet(3, 1, **NARROW | settings).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 1, 64, 64, 32))
    assert [stage.stride for stage in backbone.stages] == strides
    for stage, map_ in zip(backbone.stages, maps, strict=True):
        assert map_.shape[1:] == (stage.channels, *[n // s for n, s in zip((64, 64, 32), stage.stride, strict=True)])


def test_kernels_of_one_voxel_along_an_axis_keep_its_slices_apart():
    network = build(
        "deeplabv3",
        spatial_dims=3,
        in_channels=1,
        num_classes=2,
        kernel_size=(3, 3, 1),
        **NARROW,
        strides=[(2, 2, 1)] * 5,
    )
    assert {m.kernel_size[2] for m in network.modules() if isinstance(m, torch.nn.Conv3d)} == {1}
    assert network.backbone.pool.kernel_size == (3, 3, 1)
    assert network.eval()(torch.zeros(1, 1, 20, 20, 5)).shape == (1, 2, 20, 20, 5)


def test_training_outputs_carry_the_papers_losses():
    x = torch.randn(1, 1, 33, 24)
    network = build("pspnet", spatial_dims=2, in_channels=1, num_classes=3, **NARROW).train()
    assert [(tuple(logits.shape), weight) for logits, weight in network.training_outputs(x)] == [
        ((1, 3, 33, 24), 1.0),
        ((1, 3, 33, 24), 0.4),
    ]
    network = build("deeplabv2", spatial_dims=2, in_channels=1, num_classes=3, **NARROW).eval()
    assert [weight for _, weight in network.training_outputs(x)] == [1.0] * 4
    network = build("deeplabv2", spatial_dims=2, in_channels=1, num_classes=3, scales=(1,), **NARROW)
    assert len(network.training_outputs(x)) == 1


@pytest.mark.parametrize("fusion", ["max", "mean"])
def test_several_scales_are_fused_element_by_element(fusion):
    torch.manual_seed(0)
    settings = {"spatial_dims": 2, "in_channels": 1, "num_classes": 3} | NARROW
    network = build("deeplabv2", fusion=fusion, **settings).eval()
    alone = build("deeplabv2", scales=(1,), **settings).eval()
    alone.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 41, 41)
    with torch.no_grad():
        fused = network.forward_features(x)
        each = [
            torch.nn.functional.interpolate(
                alone.forward_features(torch.nn.functional.interpolate(x, (n, n), mode="bilinear", align_corners=True)),
                (6, 6),
                mode="bilinear",
                align_corners=True,
            )
            for n in (41, 31, 21)
        ]
    stack = torch.stack(each)
    torch.testing.assert_close(fused, stack.amax(0) if fusion == "max" else stack.mean(0), rtol=1e-4, atol=1e-5)


def test_gcn_computes_k_by_1_then_1_by_k_and_the_reverse():
    torch.manual_seed(0)
    module = build("gcn", spatial_dims=2, in_channels=1, num_classes=3, kernel=5, **NARROW).head.scores[0]
    x = torch.randn(1, 16, 9, 8)
    s = module.state_dict()

    def apply(x, name, padding):
        return torch.nn.functional.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], padding=padding)

    left = apply(apply(x, "branches.0.0", (2, 0)), "branches.0.1", (0, 2))
    right = apply(apply(x, "branches.1.1", (0, 2)), "branches.1.0", (2, 0))
    torch.testing.assert_close(module(x), left + right)


def test_gcn_has_nine_refinements_and_in_3d_a_branch_for_every_axis():
    network = build("gcn", spatial_dims=3, in_channels=1, num_classes=3, kernel=5, **NARROW)
    refinements = [*network.head.sides, *network.head.fusions, *network.last]
    assert len(refinements) == 9
    orders = [[c.kernel_size for c in branch.values()] for branch in network.head.scores[0].branches]
    i, j, k = (5, 1, 1), (1, 5, 1), (1, 1, 5)
    assert orders == [[i, j, k], [j, k, i], [k, i, j]]


def test_refinenet_of_the_paper_s_figure_has_fewer_poolings_and_units():
    released, drawn = full("refinenet").head.blocks, full("refinenet", pools=2, output_units=1).head.blocks
    assert [(len(b.chain), len(b.refine)) for b in released] == [(4, 3)] * 4
    # Two units of the first three blocks prepare the coarser path for the next fusion.
    assert [(len(b.chain), len(b.refine)) for b in drawn] == [(2, 3), (2, 3), (2, 3), (2, 1)]


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("name", ["pspnet", "deeplabv3"])
def test_pooling_to_one_voxel_trains_at_batch_one_with_every_norm(name, norm):
    torch.manual_seed(0)
    network = build(name, spatial_dims=2, in_channels=1, num_classes=2, norm=norm, **NARROW).train()
    network(torch.randn(1, 1, 64, 64)).square().sum().backward()
    pooled = next(b for b in network.head.context.branches if hasattr(b, "bins")).unit[0].weight
    assert pooled.grad.abs().sum() > 0


def test_batch_norm_of_a_single_value_uses_the_running_statistics_and_leaves_them_alone():
    network = build("deeplabv3", spatial_dims=2, in_channels=1, num_classes=2, **NARROW).train()
    norm = network.head.context.branches[-1].unit[1]
    norm.running_mean.fill_(1.0)
    before = norm.running_mean.clone()
    x = torch.full((1, 16, 1, 1), 3.0)
    torch.testing.assert_close(norm(x), torch.full_like(x, 2.0), rtol=1e-4, atol=1e-4)
    assert torch.equal(norm.running_mean, before)
    norm(x.expand(2, -1, -1, -1))
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pspnet", {"depth": 34}, "depth 34 is neither 50, 101 nor 152"),
        ("pspnet", {"variant": "caffe"}, "variant 'caffe' is unknown; there are: paper, mmsegmentation"),
        ("deeplabv3", {"variant": "google"}, "there are: paper, torchvision, mmsegmentation"),
        ("deeplabv2", {"output_stride": 12}, "output_stride 12 is unknown; there are: 4, 8, 16, 32"),
        ("deeplabv2", {"fusion": "sum"}, "fusion 'sum' is 'max' or 'mean'"),
        ("gcn", {"kernel": 4}, "kernel 4 is not an odd number"),
        ("refinenet", {"strides": [2, 2]}, "has 2 entries, expected one integer or 5"),
        ("refinenet", {"kernel": 3}, "no setting 'kernel'; there are: pools, .*depth, width"),
    ],
)
def test_wrong_settings_say_what_is_possible(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(name, spatial_dims=2, in_channels=1, num_classes=2, **settings)

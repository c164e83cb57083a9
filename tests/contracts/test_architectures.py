"""What every architecture promises; a new entry of `ARCHITECTURES` is covered without new test code."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from medseg.errors import ConfigError
from medseg.inference.folding import folded
from medseg.networks import ARCHITECTURES, build
from tests.benchmarks.architectures import NARROW
from tests.networks.small import SMALL

SIZES = {2: [(32, 24), (17, 29), (1, 1)], 3: [(16, 12, 8), (9, 7, 5), (1, 1, 1)]}

NAMES = [architecture.name for architecture in ARCHITECTURES]


def small(name, spatial_dims, in_channels=1, num_classes=3):
    torch.manual_seed(0)
    return build(name, spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes, **SMALL[name])


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
class TestArchitecture:
    def test_logits_have_the_input_s_size(self, name, spatial_dims):
        network = small(name, spatial_dims).eval()
        for size in SIZES[spatial_dims]:
            assert network(torch.randn(1, 1, *size)).shape == (1, 3, *size)

    @pytest.mark.parametrize("in_channels", [1, 4])
    def test_every_parameter_gets_a_gradient_at_batch_one(self, name, spatial_dims, in_channels):
        network = small(name, spatial_dims, in_channels).train()
        x = torch.randn(1, in_channels, *SIZES[spatial_dims][0])
        outputs = network.training_outputs(x) if hasattr(network, "training_outputs") else [(network(x), 1.0)]
        torch.stack([logits.square().sum() for logits, _ in outputs]).sum().backward()
        without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []

    def test_same_seed_gives_the_same_weights(self, name, spatial_dims):
        a, b = small(name, spatial_dims).state_dict(), small(name, spatial_dims).state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)

    def test_saved_weights_give_the_same_logits(self, name, spatial_dims):
        network, other = (
            small(name, spatial_dims).eval(),
            build(name, spatial_dims=spatial_dims, in_channels=1, num_classes=3, **SMALL[name]),
        )
        other.load_state_dict(network.state_dict())
        x = torch.randn(1, 1, *SIZES[spatial_dims][0])
        assert torch.equal(network(x), other.eval()(x))

    def test_channels_last_gives_the_same_logits(self, name, spatial_dims):
        network = small(name, spatial_dims).eval()
        x = torch.randn(1, 1, *SIZES[spatial_dims][0])
        expected = network(x)
        layout = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
        ours = network.to(memory_format=layout)(x.to(memory_format=layout))
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)

    def test_bfloat16_autocast_stays_close(self, name, spatial_dims):
        network = small(name, spatial_dims).eval()
        x = torch.randn(1, 1, *SIZES[spatial_dims][0])
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours = network(x).float()
        assert (ours - expected).abs().max() < 0.1 * expected.abs().max()

    def test_folded_batch_normalisation_gives_the_same_logits(self, name, spatial_dims):
        has_choice = "norm" in next(a for a in ARCHITECTURES if a.name == name).settings
        settings = SMALL[name] | ({"norm": "batch"} if has_choice else {})
        torch.manual_seed(0)
        network = build(name, spatial_dims=spatial_dims, in_channels=1, num_classes=3, **settings).eval()
        for norm in (m for m in network.modules() if isinstance(m, _BatchNorm)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
        x = torch.randn(1, 1, *SIZES[spatial_dims][0])
        expected, fused = network(x), folded(network)
        torch.testing.assert_close(fused(x), expected, rtol=1e-3, atol=1e-5 * float(expected.detach().abs().max()))
        assert not any(isinstance(m, _BatchNorm) for m in fused.modules())
        assert torch.equal(network(x), expected)

    def test_exports(self, name, spatial_dims):
        network = small(name, spatial_dims).eval()
        x = torch.randn(1, 1, *SIZES[spatial_dims][0])
        exported = torch.export.export(network, (x,))
        other = torch.randn_like(x)  # what depends on values must not have been frozen
        torch.testing.assert_close(exported.module()(other), network(other), rtol=1e-4, atol=1e-5)

    def test_documents_parameters_and_receptive_field(self, name, spatial_dims):
        builder = next(a for a in ARCHITECTURES if a.name == name).builder
        text = " ".join(builder.__doc__.split())
        counts = text[text.index("Parameters at") :].split("Receptive field")[0]
        assert "Receptive field" in text
        channels = 1 if "1 channel" in counts else 3
        with torch.device("meta"):
            network = build(name, spatial_dims=spatial_dims, in_channels=channels, num_classes=2)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert any(form in counts for form in (f"{count:,}", f"{count / 1e6:.1f} M", f"{count / 1e6:.2f} M"))


def test_names_occur_once():
    assert len(set(NAMES)) == len(NAMES)


def test_unknown_architecture_lists_what_exists():
    with pytest.raises(ConfigError, match=r"'resnet' is unknown; there are: .*unet"):
        build("resnet", spatial_dims=2, in_channels=1, num_classes=2)


@pytest.mark.parametrize("wrong", [{"spatial_dims": 4}, {"in_channels": 0}, {"num_classes": 1}])
def test_impossible_dimensions_are_refused(wrong):
    with pytest.raises(ConfigError, match="spatial_dims is 2 or 3"):
        build("unet", **{"spatial_dims": 2, "in_channels": 1, "num_classes": 2} | wrong)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_benchmark_s_network_can_be_built_and_is_narrow(name, spatial_dims):
    with torch.device("meta"):
        network = build(name, spatial_dims=spatial_dims, in_channels=1, num_classes=3, **NARROW[name])
    assert sum(parameter.numel() for parameter in network.parameters()) < 3e6

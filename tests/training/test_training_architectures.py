"""Every architecture through training and prediction, and what networks ask of a training run beyond that."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import yaml

from medseg.config import TrainConfig, load_config
from medseg.errors import ConfigError
from medseg.formats import read
from medseg.model import load_model
from medseg.networks import ARCHITECTURES, build
from medseg.pipeline import segment
from medseg.training import train
from medseg.training.module import SegmentationModule
from tests.networks.small import SMALL

FORMS = {
    "slices": {"windows": {"size": [16, 16, 1]}, "spatial_dims": 2},
    "2.5D": {"windows": {"size": [16, 1, 16], "context": 1}, "spatial_dims": 2},
    "3D": {"windows": {"size": [16, 16, 16]}, "spatial_dims": 3},
}


@pytest.fixture
def configure(config_file):
    """Write a run of one epoch: (architecture, form, sections to change) to the file's path."""

    def write(name, form, **changes):
        content = yaml.safe_load(config_file.read_text())
        windows = FORMS[form]["windows"]
        network = {"architecture": name, "settings": SMALL[name], "spatial_dims": FORMS[form]["spatial_dims"]}
        content |= {"windows": windows, "network": network}
        content["data"]["folds"] = 6
        content["training"] |= {"epochs": 1, "validate_every": 5, "patch": windows["size"], "ema_decay": 0}
        for section, values in changes.items():
            content[section] = content.get(section, {}) | values
        # As users write it: tuples are lists.
        config_file.write_text(yaml.safe_dump(yaml.safe_load(yaml.dump(content).replace("!!python/tuple", ""))))
        return config_file

    return write


@pytest.mark.parametrize(
    ("name", "form"),
    # Slices without neighbours are one channel more of the same.
    [("unet", "slices"), *((a.name, form) for a in ARCHITECTURES for form in ("2.5D", "3D"))],
)
def test_architecture_trains_and_predicts(name, form, configure, decathlon, tmp_path):
    path = configure(name, form)
    folder = train(path, output=tmp_path / "run", device="cpu", progress=False)
    scan = read(decathlon / "imagesTr/case_0.nii.gz")
    segmentation = segment(scan, load_model(folder))
    assert segmentation.array.shape == scan.geometry.shape
    assert set(np.unique(segmentation.array)) <= {0, 1, 2}


def test_auxiliary_losses_count_in_training(configure, tmp_path):
    losses = []
    for weight in (0.0, 100.0):
        settings = SMALL["pspnet"] | {"auxiliary_weight": weight}
        path = configure(
            "pspnet", "slices", network={"architecture": "pspnet", "spatial_dims": 2, "settings": settings}
        )
        train(path, output=tmp_path / str(weight), device="cpu", progress=False)
        with (tmp_path / str(weight) / "log.csv").open() as file:
            losses.append(float(next(csv.DictReader(file))["loss"]))
    assert losses[1] > 20 * losses[0]


def test_random_forest_is_grown_from_the_patches_and_segments_well(configure, tmp_path):
    forest = {"trees": 10, "max_depth": 8, "max_leaves": 64, "scales": (1.0, 2.0)}
    network = {"architecture": "random_forest", "spatial_dims": 3, "settings": forest}
    path = configure("random_forest", "3D", network=network, training={"samples_per_case": 2})
    model = load_model(train(path, output=tmp_path / "run", device="cpu", progress=False))
    assert min(label["mean"] for label in model.info.metrics["validation_dice"].values()) > 0.8
    with (tmp_path / "run" / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    card = (tmp_path / "run/model/docs/README.md").read_text()
    assert "fitted to one epoch of patches of 16 × 16 × 16 voxels, 2 a case" in card
    assert "learning rate" not in card

    again = load_model(train(path, output=tmp_path / "run", resume=True, device="cpu", progress=False))
    assert again.info.sha256 == model.info.sha256


def test_trees_that_grew_twice_from_one_seed_are_the_same(configure, tmp_path):
    path = configure("random_forest", "slices")
    runs = [load_model(train(path, output=tmp_path / n, device="cpu", progress=False)) for n in ("a", "b")]
    assert runs[0].info.sha256 == runs[1].info.sha256


def vgg16(path, width=1 / 16):
    """A file of torchvision's layout from a backbone of random weights."""
    torch.manual_seed(5)
    network = build("fcn32s", spatial_dims=2, in_channels=3, num_classes=2, width=width, head_channels=8, norm="none")
    state = {"classifier.6.weight": torch.zeros(1000, 8)}
    index = 0
    for block in network.backbone.blocks:
        for unit in block:
            state |= {f"features.{index}.{key}": tensor for key, tensor in unit.conv.state_dict().items()}
            index += 2
        index += 1
    torch.save(state, path)
    return network.backbone.blocks[1][0].conv.weight.detach().clone()


def test_training_starts_from_a_public_checkpoint_and_its_convention_travels_with_the_model(
    configure, tmp_path, capsys
):
    first = vgg16(tmp_path / "vgg16.pth")
    path = configure(
        "deeplabv1",
        "3D",
        network={"checkpoint": "vgg16.pth"},
        preparation={"intensity": {"kind": "window", "low": -1, "high": 5}},
        training={"learning_rate": 1e-12, "weight_decay": 0, "epochs": 1},
    )
    model = load_model(train(path, output=tmp_path / "run", device="cpu", progress=True))

    started = model.network.backbone.blocks[1][0].conv.weight
    torch.testing.assert_close(started[..., 1], first, rtol=0, atol=1e-6)
    assert not started[..., 0].abs().max() > 1e-6
    assert model.preparation.convention.mean == (0.485, 0.456, 0.406)
    assert model.info.network.checkpoint is None
    shown = capsys.readouterr().err
    assert shown.count("note: vgg16.pth (torchvision VGG-16):") == shown.count("note:") > 1
    assert "inflated" in shown
    card = (tmp_path / "run/model/docs/README.md").read_text()
    assert "started from vgg16.pth" in card
    assert str(tmp_path) not in (tmp_path / "run/config.yaml").read_text()
    # The written configuration runs from where it lies.
    again = train(tmp_path / "run/config.yaml", output=tmp_path / "again", device="cpu", progress=False)
    assert load_model(again).info.sha256 == model.info.sha256


def test_checkpoint_without_grey_values_to_convert_says_what_to_choose(configure, tmp_path):
    vgg16(tmp_path / "vgg16.pth")
    path = configure("deeplabv1", "slices", network={"checkpoint": "vgg16.pth"})
    with pytest.raises(ConfigError, match=r"vgg16\.pth: preparation: .*choose window or percentiles"):
        train(path, output=tmp_path / "run", device="cpu", progress=False)


def test_another_architecture_takes_neither_the_settings_nor_the_checkpoint(configure, tmp_path):
    path = configure("deeplabv1", "slices", network={"checkpoint": "missing.pth"})
    model = train(path, output=tmp_path / "run", architecture="random_forest", device="cpu", progress=False)
    network = load_model(model).info.network
    assert (network.architecture, network.settings, network.checkpoint) == ("random_forest", {}, None)


def test_head_factor_reaches_the_optimiser(configure, tmp_path):
    for factor, moves in ((1e-9, False), (1.0, True)):
        path = configure("deeplabv1", "slices", training={"head_factor": factor, "weight_decay": 0.0})
        model = load_model(train(path, output=tmp_path / str(factor), device="cpu", progress=False))
        torch.manual_seed(0)
        fresh = build("deeplabv1", spatial_dims=2, in_channels=1, num_classes=3, **SMALL["deeplabv1"])
        name = "backbone.blocks.0.0.conv.weight"
        assert not torch.allclose(model.network.state_dict()[name], fresh.state_dict()[name], atol=1e-4)
        assert torch.allclose(model.network.score.weight, fresh.score.weight, atol=1e-6) is not moves


def test_convention_that_is_set_stays_whatever_the_checkpoint_s_layout_has(configure, tmp_path):
    vgg16(tmp_path / "vgg16.pth")
    given = {"order": "BGR", "scale": 1.0, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    path = configure(
        "deeplabv1",
        "slices",
        network={"checkpoint": "vgg16.pth"},
        preparation={"intensity": {"kind": "window", "low": -1, "high": 5}, "convention": given},
    )
    model = load_model(train(path, output=tmp_path / "run", device="cpu", progress=False))
    assert model.preparation.convention.model_dump(mode="json") == given


def test_step_whose_gradients_overflow_leaves_the_weights_alone_and_says_so(configure, capsys):
    module = SegmentationModule(load_config(configure("unet", "3D"), TrainConfig), torch.nn.Linear(2, 1))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)
    before = module.network.weight.detach().clone()
    for factor, moves in ((float("inf"), False), (1.0, True)):
        (module.network(torch.ones(1, 2)) * factor).sum().backward()
        module.configure_gradient_clipping(optimizer, 12.0)
        optimizer.step()
        optimizer.zero_grad()
        assert module.network.weight.isfinite().all()
        assert torch.equal(module.network.weight, before) is not moves
    assert capsys.readouterr().err.count("gradients are not finite") == 1


def test_mean_field_trains_in_bfloat16(configure, tmp_path):
    path = configure("crfrnn", "slices", training={"precision": "bfloat16"})
    model = load_model(train(path, output=tmp_path / "run", device="cpu", progress=False))
    assert all(tensor.isfinite().all() for tensor in model.network.state_dict().values())

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from medseg.cli import main
from medseg.config import load_config
from medseg.errors import ConfigError
from medseg.networks import build
from medseg.voc.dataset import find_photos
from medseg.voc.samples import Samples
from medseg.voc.schedule import VocSchedule
from medseg.voc.train import VocTraining, class_weights, train_voc
from medseg.voc.weights import CONVENTIONS, load_weights

RGB = CONVENTIONS["rgb"]


def schedule(**changes) -> VocSchedule:
    content = {
        "paper": "none",
        "architecture": "unet",
        "settings": {"channels": [4, 8]},
        "split": "train",
        "iterations": 4,
        "batch_size": 2,
        "crop": 24,
        "learning_rate": 0.1,
    }
    return VocSchedule.model_validate(content | changes)


@pytest.fixture
def root(tmp_path):
    """Photos whose left half is a red cat, and whose last column is not judged."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        photo = np.zeros((20 + number, 32, 3), dtype=np.uint8)
        labels = np.zeros(photo.shape[:2], dtype=np.uint8)
        photo[:, :16, 0] = 255
        labels[:, :16] = 8
        labels[:, -1] = 255
        Image.fromarray(photo).save(root / f"JPEGImages/{number}.jpg", quality=95)
        Image.fromarray(labels).save(root / f"SegmentationClass/{number}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n")
    return root


def test_samples_have_the_crops_size_and_are_the_same_in_every_run(root):
    chosen = schedule(scales=(0.5, 1.5), rotation_degrees=10, blur=True)
    samples = Samples(find_photos(root, "train"), chosen, RGB)
    assert len(samples) == 8
    for number in range(8):
        pixels, labels = samples[number]
        assert (pixels.shape, labels.shape) == ((3, 24, 24), (24, 24))
        torch.testing.assert_close(pixels, samples[number][0])
        # Cats are red, whatever the scale, the turn and the side.
        red = pixels[0] * RGB.std[0] + RGB.mean[0]
        assert red[labels == 8].mean() > 0.8
        assert red[labels == 0].mean() < 0.2 or not (labels == 0).any()


def test_what_lies_beyond_a_photo_is_the_mean_colour_and_not_judged(root):
    pixels, labels = Samples(find_photos(root, "train"), schedule(crop=64), RGB)[0]
    assert (labels[30:] == 255).all()
    assert (pixels[:, 30:] == 0).all()


def test_turned_photo_and_its_labels_stay_together(root):
    for name in ("0", "1", "2"):
        (root / "SegmentationClass" / f"{name}.png").unlink()
        rows = Image.open(root / "JPEGImages" / f"{name}.jpg").height
        labels = np.zeros((rows, 32), dtype=np.uint8)
        labels[:, :16] = 8
        Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")
    samples = Samples(find_photos(root, "train"), schedule(crop=48, rotation_degrees=45, flip=False), RGB)
    taken = [samples[number] for number in range(len(samples))]
    assert any((labels[:20, :32] == 255).any() for _, labels in taken)  # a turn brings in what is beyond the photo
    for pixels, labels in taken:
        red = pixels[0] * RGB.std[0] + RGB.mean[0]
        assert red[labels == 8].mean() > 0.8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"decay": "poly", "iterations": 100}, {0: 1, 50: 0.5**0.9, 100: 0}),
        ({"decay": "step", "step": 2000}, {0: 1, 1999: 1, 2000: 0.1, 4000: 0.01}),
        ({"decay": "fixed"}, {0: 1, 10**6: 1}),
    ],
)
def test_rate_follows_the_schedule(changes, expected):
    chosen = schedule(**changes)
    assert {n: pytest.approx(chosen.rate(n)) for n in expected} == expected


def test_head_and_biases_have_their_own_rates():
    network = torch.nn.ModuleDict({"backbone": torch.nn.Conv2d(3, 4, 1), "head": torch.nn.Conv2d(4, 21, 1)})
    chosen = schedule(head_factor=10, bias_factor=2, learning_rate=1e-3, decay_biases=False, weight_decay=0.1)
    module = VocTraining(network, chosen, None, RGB)
    decays = {g["params"][0].ndim: g["weight_decay"] for g in module.configure_optimizers()["optimizer"].param_groups}
    assert decays == {4: 0.1, 1: 0}
    rates = {g["params"][0].shape: g["initial_lr"] for g in module.configure_optimizers()["optimizer"].param_groups}
    assert rates[(4, 3, 1, 1)] == pytest.approx(1e-3)
    assert rates[(4,)] == pytest.approx(2e-3)
    assert rates[(21, 4, 1, 1)] == pytest.approx(1e-2)
    assert rates[(21,)] == pytest.approx(2e-2)


def test_head_is_what_the_schedule_names():
    chosen = schedule(head=("score.",))
    assert [chosen.is_head(name) for name in ("score.weight", "head.fc6.weight")] == [True, False]


def test_normalisation_that_is_frozen_stays_as_it_was(root, tmp_path):
    settings = {"width": 0.0625, "norm": "frozen_batch"}
    frozen = schedule(architecture="segnet", settings=settings, iterations=2)
    path, _ = train_voc(frozen, root, tmp_path / "run", progress=False)
    fresh = build("segnet", spatial_dims=2, in_channels=3, num_classes=21, **settings).state_dict()
    trained = load_file(path)
    norms = [key for key in fresh if "running" in key or "norm" in key]
    assert norms
    assert all(torch.equal(trained[key], fresh[key]) for key in norms)


class StoppedError(Exception):
    pass


def test_run_that_is_stopped_and_resumed_ends_in_the_same_weights(root, tmp_path, monkeypatch):
    chosen = schedule(iterations=6, accumulate=2, decay="poly", settings={"channels": [4, 8], "dropout": 0.3})
    whole, _ = train_voc(chosen, root, tmp_path / "whole", progress=False)
    read = Samples.__getitem__

    def stop(self, number):
        if number >= 4 * 2 * 2 + 1:
            raise StoppedError
        return read(self, number)

    monkeypatch.setattr(Samples, "__getitem__", stop)
    with pytest.raises(StoppedError):
        train_voc(chosen, root, tmp_path / "run", progress=False, saved_every=2)
    monkeypatch.setattr(Samples, "__getitem__", read)
    with pytest.raises(ConfigError, match="--resume"):
        train_voc(chosen, root, tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="another schedule"):
        train_voc(chosen.model_copy(update={"seed": 3}), root, tmp_path / "run", resume=True, progress=False)
    taken = []
    monkeypatch.setattr(Samples, "__getitem__", lambda self, number: (taken.append(number), read(self, number))[1])
    resumed, _ = train_voc(chosen, root, tmp_path / "run", resume=True, progress=False)
    assert taken == list(range(16, 24))
    for key, tensor in load_file(whole).items():
        assert torch.equal(tensor, load_file(resumed)[key]), key
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["weights.safetensors"]


def test_convention_of_the_initial_weights_travels_into_the_trained_ones(root, tmp_path):
    first, _ = train_voc(schedule(input="bgr"), root, tmp_path / "first", progress=False)
    second, _ = train_voc(schedule(input="rgb"), root, tmp_path / "second", initial=first, progress=False)
    network = build("unet", spatial_dims=2, in_channels=3, num_classes=21, channels=[4, 8])
    assert load_weights(network, second).convention == CONVENTIONS["bgr"]


def test_rare_classes_weigh_more_and_absent_ones_nothing(root):
    weights = class_weights(find_photos(root, "train"))
    # 16 columns of cat and 15 of background: the median of two frequencies is their mean.
    assert weights[8] == pytest.approx((16 / 31 + 15 / 31) / 2 / (16 / 31))
    assert weights[1] == 0


def test_weights_that_training_writes_are_those_that_evaluation_takes(root, tmp_path):
    text = "\n".join(f"{key}: {value}" for key, value in schedule(iterations=60).model_dump(mode="json").items())
    (tmp_path / "unet.yaml").write_text(text)
    command = ["voc", "train", str(tmp_path / "unet.yaml"), "--root", str(root), "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*command, "--device", "cpu", "--quiet"])
    assert result.exit_code == 0, result.output
    weights = tmp_path / "run" / "weights.safetensors"
    assert load_file(weights)
    command = ["voc", "evaluate", "--root", str(root), "--architecture", "unet", "--weights", str(weights)]
    result = CliRunner().invoke(main, [*command, "--split", "train"])  # the file tells settings and convention
    assert result.exit_code == 0, result.output
    assert "note" not in result.stderr
    mean = next(line for line in result.stdout.splitlines() if line.startswith("mean IoU"))
    assert float(mean.split()[2]) > 90


def test_whole_photos_in_batches_are_refused(root, tmp_path):
    with pytest.raises(ConfigError, match="crop 0"):
        train_voc(schedule(crop=0), root, tmp_path)


CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "voc").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_schedule_of_a_paper_fits_its_network(path):
    chosen = load_config(path, VocSchedule)
    with torch.device("meta"):
        network = build(chosen.architecture, spatial_dims=2, in_channels=3, num_classes=21, **chosen.settings)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert any(map(chosen.is_head, names))
    assert all(any(name.startswith(prefix) for name in names) for prefix in chosen.head)
    assert "arXiv" in chosen.paper

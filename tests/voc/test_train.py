import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from medseg.cli import main
from medseg.errors import ConfigError
from medseg.voc.dataset import find_photos
from medseg.voc.schedule import VocSchedule
from medseg.voc.train import Samples, VocTraining, class_weights, train_voc


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
    samples = Samples(find_photos(root, "train"), schedule(scales=(0.5, 1.5)))
    assert len(samples) == 8
    for number in range(8):
        pixels, labels = samples[number]
        assert (pixels.shape, labels.shape) == ((3, 24, 24), (24, 24))
        torch.testing.assert_close(pixels, samples[number][0])
        # Cats are red, whatever the scale and the side.
        assert pixels[0][labels == 8].mean() > 0.8
        assert pixels[0][labels == 0].mean() < 0.2 or not (labels == 0).any()


def test_what_lies_beyond_a_photo_is_not_judged(root):
    _, labels = Samples(find_photos(root, "train"), schedule(crop=64))[0]
    assert (labels[30:] == 255).all()


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
    module = VocTraining(network, schedule(head_factor=10, bias_factor=2, learning_rate=1e-3), None)
    rates = {g["params"][0].shape: g["initial_lr"] for g in module.configure_optimizers()["optimizer"].param_groups}
    assert rates[(4, 3, 1, 1)] == pytest.approx(1e-3)
    assert rates[(4,)] == pytest.approx(2e-3)
    assert rates[(21, 4, 1, 1)] == pytest.approx(1e-2)
    assert rates[(21,)] == pytest.approx(2e-2)


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
    result = CliRunner().invoke(main, [*command, "--setting", "channels=[4, 8]", "--split", "train"])
    assert result.exit_code == 0, result.output
    mean = next(line for line in result.stdout.splitlines() if line.startswith("mean IoU"))
    assert float(mean.split()[2]) > 90


def test_whole_photos_in_batches_are_refused(root, tmp_path):
    with pytest.raises(ConfigError, match="crop 0"):
        train_voc(schedule(crop=0), root, tmp_path)

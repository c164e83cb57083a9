import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from sklearn.metrics import confusion_matrix
from torch import nn

from medseg.bundle import ModelInfo
from medseg.cli import main
from medseg.config import Accepts, ModelCard, NetworkSettings, Windows
from medseg.convention import InputConvention
from medseg.errors import InputError
from medseg.geometry import Geometry
from medseg.model import Model
from medseg.networks import build
from medseg.prepare import prepare
from medseg.voc.dataset import CLASSES, LABELS, find_photos, read_labels, read_photo
from medseg.voc.evaluator import evaluate_photos, segment_photo
from medseg.voc.weights import CONVENTIONS, preparation_of, voc_model
from medseg.volume import Segmentation, Volume
from tests.networks.test_checkpoints import FILES, random_state

SMALL = "channels=[2, 4]"
PLAIN = preparation_of(InputConvention(order="RGB", scale=1 / 255, mean=(0, 0, 0)))


def voc_colours() -> list[int]:
    colours = []
    for index in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            rgb[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colours += rgb
    return colours


@pytest.fixture
def voc_root(tmp_path):
    """Five photos of different sizes; labels of all classes and of pixels that are not judged."""
    rng = np.random.default_rng(0)
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"2007_00{n:04d}" for n in range(5)]
    for number, name in enumerate(names):
        rows, columns = 20 + number, 31 - 2 * number
        Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        labels = rng.integers(0, 22, (rows, columns), dtype=np.uint8)
        labels[labels == 21] = 255
        palette = Image.fromarray(labels).convert("P")
        palette.putdata(labels.ravel().tolist())
        palette.putpalette(voc_colours())
        palette.save(root / ("SegmentationClassAug" if number == 4 else "SegmentationClass") / f"{name}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names[:4]) + "\n")
    (root / "ImageSets/Segmentation/train_aug.txt").write_text(
        f"{names[0]}\n/JPEGImages/{names[4]}.jpg /SegmentationClassAug/{names[4]}.png\n"
    )
    return root


def guess(photo) -> Segmentation:
    """A wrong but fixed prediction, from the photo alone."""
    return Segmentation(photo.array.sum(axis=0, dtype=np.uint16) % 21, photo.geometry, LABELS)


def test_number_equals_that_of_scikit_learns_confusion_matrix(voc_root):
    photos = find_photos(voc_root, "val")
    result = evaluate_photos(photos, guess)
    references = np.concatenate([np.asarray(Image.open(photo.labels)).ravel() for photo in photos])
    predictions = np.concatenate([guess(read_photo(photo)).array.ravel() for photo in photos])
    judged = references != 255
    counts = confusion_matrix(references[judged], predictions[judged], labels=range(21))
    np.testing.assert_array_equal(result.confusion.counts[:21, :21], counts)
    shared = counts.diagonal()
    expected = shared / (counts.sum(0) + counts.sum(1) - shared)
    assert list(result.class_iou.values()) == pytest.approx(expected)
    assert result.mean_iou == pytest.approx(expected.mean())


def test_prediction_that_is_the_reference_gives_one_although_255_is_guessed_at(voc_root):
    photos = find_photos(voc_root, "val")
    answers = iter(photos)

    def oracle(photo):
        labels = read_labels(next(answers)).array
        return Segmentation(np.where(labels == 255, 3, labels), photo.geometry, LABELS)

    assert evaluate_photos(photos, oracle).mean_iou == 1


def test_classes_that_occur_nowhere_are_left_out_of_the_mean(voc_root):
    photos = find_photos(voc_root, "val")[:1]
    labels = np.zeros(read_labels(photos[0]).array.shape[:2], dtype=np.uint8)
    labels[:10] = 15
    Image.fromarray(labels).save(photos[0].labels)
    result = evaluate_photos(photos, lambda photo: Segmentation(labels[..., None], photo.geometry, LABELS))
    assert np.isnan(result.class_iou["cat"])
    assert (result.class_iou["person"], result.mean_iou) == (1, 1)


def test_lists_of_the_augmented_set_are_read_in_both_forms(voc_root):
    photos = find_photos(voc_root, "train_aug")
    assert [photo.labels.parent.name for photo in photos] == ["SegmentationClass", "SegmentationClassAug"]
    assert all(read_labels(photo).array.shape[:2] == read_photo(photo).array.shape[1:3] for photo in photos)


def test_sbd_as_it_is_published_is_read(tmp_path):
    for folder in ("img", "cls"):
        (tmp_path / folder).mkdir()
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "img" / "2008_000002.jpg")
    kind = [("Boundaries", object), ("Segmentation", object)]
    savemat(tmp_path / "cls" / "2008_000002.mat", {"GTcls": np.array([(labels, labels)], dtype=kind)})
    (tmp_path / "train.txt").write_text("2008_000002\n")
    (photo,) = find_photos(tmp_path, "train")
    np.testing.assert_array_equal(read_labels(photo).array[..., 0], labels)
    photo.labels.write_bytes(b"torn")
    with pytest.raises(InputError, match="SBD"):
        read_labels(photo)


def test_palette_files_give_class_numbers_and_not_colours(voc_root):
    labels = read_labels(find_photos(voc_root, "val")[0]).array
    assert set(np.unique(labels)) == {*range(21), 255}
    assert LABELS[1].colour == (128, 0, 0)
    assert LABELS[15].colour == (192, 128, 128)
    assert (len(CLASSES), CLASSES[14]) == (20, "person")


def test_real_palette_files_and_photos_are_read(shared_data):
    photos = find_photos(shared_data / "fixtures" / "voc_palette_sample", "val")
    assert len(photos) == 3
    for photo in photos:
        assert read_labels(photo).array.shape == read_photo(photo).array.shape[1:]


class Reddest(nn.Module):
    """Class 15 where a pixel is brighter in red than 0.5, background elsewhere."""

    def forward(self, x):
        scores = torch.zeros(len(x), 21, *x.shape[2:])
        scores[:, 15] = 20 * (x[:, 0] - 0.5)
        return scores


@pytest.mark.parametrize(
    "options", [{}, {"flip": True}, {"scales": (0.5, 1.0, 2.0)}, {"scales": (0.75, 1.25), "flip": True}]
)
def test_photo_is_classified_at_full_size_at_any_scales_and_mirrored(voc_root, options):
    photo = read_photo(find_photos(voc_root, "val")[0])
    array = np.zeros_like(photo.array)
    array[0, 4:12, 6:20] = 255
    model = tiny_model(Reddest())
    found = segment_photo(type(photo)(array, photo.geometry), model, **options).array[..., 0]
    assert found.shape == photo.array.shape[1:3]
    inside = np.zeros(found.shape, bool)
    inside[5:11, 7:19] = True
    assert (found[inside] == 15).all()
    outside = np.ones(found.shape, bool)
    outside[2:14, 4:22] = False
    assert (found[outside] == 0).all()


def tiny_model(network: nn.Module) -> Model:
    about = dict.fromkeys(("title", "description", "intended_use", "limits", "data_source", "licence"), "test")
    windows = Windows(size=(8, 8, 1))
    info = ModelInfo(
        card=ModelCard(name="test", **about),
        labels=LABELS,
        accepts=Accepts(dimensions=2),
        preparation=PLAIN,
        network=NetworkSettings(architecture="unet", spatial_dims=2, in_channels=3),
        windows=windows,
        sha256="",
    )
    return Model(info, network, windows)


@pytest.mark.parametrize(("convention", "expected"), [("rgb", (1 - 0.485) / 0.229), ("bgr", 0 - 104.00699)])
def test_network_sees_a_photo_as_its_weights_were_trained(convention, expected):
    red = np.zeros((3, 2, 2, 1), dtype=np.uint8)
    red[0] = 255
    photo = Volume(red, Geometry((2, 2, 1), np.eye(4)))
    seen = prepare(photo, preparation_of(CONVENTIONS[convention])).array
    assert seen[0, 0, 0, 0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("layout", "order"), [("torchvision DeepLab v3", "RGB"), ("deeplab-pytorch DeepLab v2", "BGR")]
)
def test_public_file_brings_its_convention_and_settings(shared_data, voc_root, tmp_path, layout, order):
    name, architecture, _, _, _ = FILES[layout]
    torch.save(random_state(name), tmp_path / "public.pth")
    model, findings = voc_model(architecture, tmp_path / "public.pth", None, {"width": 1 / 16})
    assert findings == ()
    assert model.preparation.convention.order == order
    segmentation = segment_photo(read_photo(find_photos(voc_root, "val")[0]), model)
    assert segmentation.array.shape == (20, 31, 1)
    other, _ = voc_model(architecture, tmp_path / "public.pth", "bgr", {"width": 1 / 16})
    assert other.preparation.convention == CONVENTIONS["bgr"]


def test_file_that_does_not_tell_its_convention_is_doubted(tmp_path):
    state = build("unet", spatial_dims=2, in_channels=3, num_classes=21, channels=[2, 4]).state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    _, findings = voc_model("unet", tmp_path / "plain.safetensors", None, {"channels": [2, 4]})
    assert [finding.code for finding in findings] == ["convention-uncertain"]


def evaluated(voc_root, weights, *words):
    command = ["voc", "evaluate", "--root", str(voc_root), "--architecture", "unet", "--weights", str(weights)]
    return CliRunner().invoke(main, [*command, "--setting", SMALL, *words])


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_command_measures_weights_from_a_file_and_prints_every_class(voc_root, tmp_path, ending):
    torch.manual_seed(0)
    state = build("unet", spatial_dims=2, in_channels=3, num_classes=21, channels=[2, 4]).state_dict()
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        save_file(state, path)
    result = evaluated(voc_root, path, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["photos"] == 4
    assert len(content["class_iou"]) == 21
    model, _ = voc_model("unet", path, "rgb", {"channels": [2, 4]})
    by_hand = evaluate_photos(find_photos(voc_root, "val"), lambda photo: segment_photo(photo, model))
    assert content["mean_iou"] == by_hand.mean_iou
    text = evaluated(voc_root, path, "--multi-scale", "--flip", "--crf")
    assert text.exit_code == 0, text.output
    assert "mean IoU" in text.stdout


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--split", "nowhere"], 2, "there are: train_aug, val"),
        (["--setting", "channels"], 2, "NAME=VALUE"),
        (["--setting", "width=3"], 2, "no setting 'width'"),
    ],
)
def test_wrong_options_are_one_line(voc_root, tmp_path, words, code, part):
    state = build("unet", spatial_dims=2, in_channels=3, num_classes=21, channels=[2, 4]).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    result = evaluated(voc_root, tmp_path / "weights.safetensors", *words)
    assert result.exit_code == code
    assert part in result.stderr


def test_weights_that_do_not_fit_and_files_that_are_none_are_refused(voc_root, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    for name, code in (("other.safetensors", 2), ("torn.pth", 3), ("missing.pth", 3)):
        result = evaluated(voc_root, tmp_path / name)
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1)
        assert name in result.stderr


def test_damaged_photo_stops_an_official_number(voc_root):
    photo = find_photos(voc_root, "val")[1]
    photo.image.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read as an image"):
        evaluate_photos(find_photos(voc_root, "val"), guess)


def test_volume_of_a_photo_is_one_voxel_thick(voc_root):
    photo = read_photo(find_photos(voc_root, "val")[0])
    assert photo.array.shape == (3, 20, 31, 1)
    assert photo.geometry.matches(Geometry((20, 31, 1), np.eye(4)))

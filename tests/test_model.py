import hashlib
import json

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from safetensors.torch import load_file, save_file

from medseg.bundle import INFERENCE, METADATA, WEIGHTS, find_model, read_info, shipped_models
from medseg.config import Accepts, TrainConfig, validate
from medseg.errors import ModelError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.model import build_network, load_model, save_model

CARD = {
    "name": "tiny",
    "title": "Tiny",
    "description": "A test.",
    "intended_use": "Tests.",
    "limits": "Knows nothing.",
    "data_source": "None.",
    "licence": "Apache-2.0",
}


def tiny_config(**changes):
    content = {
        "card": CARD,
        "data": {"root": "."},
        "labels": {"labels": [{"index": 2, "name": "inner"}, {"index": 5, "name": "outer"}]},
        "accepts": {"modalities": ["MR"], "field_of_view_mm": [10, 100]},
        "preparation": {"spacing_mm": [1.0, 1.0, 1.0]},
        "network": {"architecture": "unet", "settings": {"channels": [2, 4]}},
        "windows": {"size": [8, 8, 8]},
        "training": {"epochs": 1, "patch": [8, 8, 8]},
    }
    return validate(content | changes, TrainConfig, where="test")


@pytest.fixture
def bundle(tmp_path):
    torch.manual_seed(0)
    config = tiny_config()
    network = build_network(config)
    save_model(tmp_path / "tiny", network, config, card="# Tiny", licence="Apache-2.0", metrics={"dice": 0.5})
    return tmp_path / "tiny", network


def test_saved_model_comes_back_the_same(bundle):
    folder, network = bundle
    model = load_model(folder)
    config = tiny_config()
    assert (model.labels, model.preparation, model.windows) == (config.labels, config.preparation, config.windows)
    assert not model.network.training
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(model.network(x), network.eval()(x))
    assert model.info.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_altered_weights_are_refused(bundle):
    folder, _ = bundle
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256 is"):
        load_model(folder)


def test_weights_of_another_network_are_refused(bundle):
    folder, _ = bundle
    state = load_file(folder / WEIGHTS)
    state["surplus"] = state.pop("head.bias")
    save_file(state, folder / WEIGHTS)
    metadata = json.loads((folder / METADATA).read_text())
    metadata["medseg"]["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match=r"head.bias.*surplus"):
        load_model(folder)


def test_pickled_weights_are_never_loaded(bundle, tmp_path):
    folder, network = bundle
    torch.save(network.state_dict(), folder / WEIGHTS)
    metadata = json.loads((folder / METADATA).read_text())
    metadata["medseg"]["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="does not fit"):
        load_model(folder)


def test_code_in_metadata_is_data(bundle, tmp_path):
    folder, _ = bundle
    metadata = json.loads((folder / METADATA).read_text())
    metadata["medseg"]["network"]["architecture"] = "$__import__('pathlib').Path('ran').touch()"
    (folder / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="is unknown"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("{}", 'no "medseg" section'), ('{"medseg": {"sha256": 1}}', "medseg|Field required|card")],
)
def test_damaged_metadata_is_one_line(bundle, content, message):
    folder, _ = bundle
    (folder / METADATA).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_unknown_model_lists_those_that_are_shipped():
    with pytest.raises(ModelError, match="neither a shipped model"):
        find_model("no-such-model")


def test_folder_that_is_not_a_model_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data.txt").write_text("mine")
    config = tiny_config()
    with pytest.raises(ModelError, match="no model here"):
        save_model(tmp_path / "precious", build_network(config), config, card="", licence="", metrics={})
    assert (tmp_path / "precious" / "data.txt").read_text() == "mine"


def test_saving_again_replaces_the_model(bundle):
    folder, _ = bundle
    config = tiny_config(card=CARD | {"version": "2.0.0"})
    save_model(folder, build_network(config), config, card="# Two", licence="", metrics={})
    assert read_info(folder).card.version == "2.0.0"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny"]


def test_monai_s_own_workflow_segments_with_the_bundle(bundle, tmp_path):
    folder, _ = bundle
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    nibabel.save(
        nibabel.Nifti1Image(rng.standard_normal((12, 10, 9)).astype(np.float32), np.diag([1.2, 1, -1, 1])),
        folder / "data" / "scan.nii.gz",
    )
    workflow = ConfigWorkflow(
        config_file=str(folder / INFERENCE),
        meta_file=str(folder / METADATA),
        workflow_type="infer",
        bundle_root=str(folder),
    )
    workflow.initialize()
    workflow.run()
    written = nibabel.load(folder / "eval" / "scan" / "scan_seg.nii.gz")
    assert written.shape == (12, 10, 9)
    assert set(np.unique(written.get_fdata())) <= {0, 1, 2}
    np.testing.assert_allclose(written.affine, np.diag([1.2, 1, -1, 1]), atol=1e-5)


def test_metadata_has_what_monai_s_schema_asks_for(bundle):
    folder, _ = bundle
    parser = ConfigParser()
    parser.read_meta(str(folder / METADATA))
    metadata = parser.get("_meta_")
    for key in ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors"):
        assert metadata[key]
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == {"0": "background", "1": "inner", "2": "outer"}


@pytest.mark.parametrize(
    ("shape", "spacing", "modality", "objection"),
    [
        ((50, 50, 50), 1.0, "MR", None),
        ((50, 50, 50), 1.0, None, None),
        ((50, 50, 50), 1.0, "CT", "takes MR, not CT"),
        ((50, 50, 50), 3.0, "MR", "takes a field of view of 10 to 100 mm an axis, not 150 × 150 × 150 mm"),
        ((50, 50, 1), 1.0, "MR", "takes volumes, not single images"),
    ],
)
def test_model_says_which_scans_it_does_not_accept(bundle, shape, spacing, modality, objection):
    info = read_info(bundle[0])
    geometry = Geometry(shape, np.diag([spacing, spacing, spacing, 1]))
    assert info.objection(geometry, modality) == objection


def test_names_of_shipped_models_are_the_names_of_their_folders():
    for name, folder in shipped_models().items():
        assert read_info(folder).name == name
        assert isinstance(read_info(folder).accepts, Accepts)
        assert isinstance(read_info(folder).labels, LabelSet)


def test_half_weights_take_half_the_space_and_come_back_in_32_bits(tmp_path):
    torch.manual_seed(0)
    network = build_network(tiny_config())
    sizes = []
    for half in (False, True):
        folder = tmp_path / f"half {half}"
        save_model(folder, network, tiny_config(half_weights=half), card="# Tiny", licence="", metrics={})
        sizes.append(sum(value.nbytes for value in load_file(folder / WEIGHTS).values()))
        for name, value in load_model(folder).network.state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3 if half else 0, atol=1e-6)
    assert sizes[1] * 2 == sizes[0]

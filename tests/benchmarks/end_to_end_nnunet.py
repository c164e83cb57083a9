"""nnU-Net's plans for the networks of the end-to-end benchmark: the same spacing, windows and intensities."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.end_to_end_cases import HIGH, LOW, SPACING_MM, WINDOW


def plans(*, torch_resampling: bool) -> dict[str, Any]:
    default = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    torch_settings = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    name = "resample_torch_fornnunet" if torch_resampling else "resample_data_or_seg_to_shape"
    scores = torch_settings if torch_resampling else default
    data = torch_settings if torch_resampling else {**default, "order": 3}
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": [WINDOW] * 3,
        "median_image_size_in_voxels": [2 * WINDOW] * 3,
        "spacing": [SPACING_MM] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": name,
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg": name,
        "resampling_fn_seg_kwargs": {**scores, "is_seg": True},
        "resampling_fn_probabilities": name,
        "resampling_fn_probabilities_kwargs": scores,
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": False,
    }
    # CTNormalization clips to the percentiles, then gives (x - mean) / std: LOW … HIGH becomes 0 … 1.
    intensities = {"percentile_00_5": LOW, "percentile_99_5": HIGH, "mean": LOW, "std": HIGH - LOW}
    return {
        "dataset_name": "benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [SPACING_MM] * 3,
        "original_median_shape_after_transp": [2 * WINDOW] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def dataset(classes: int) -> dict[str, Any]:
    labels = {"background": 0, **{f"label {n}": n for n in range(1, classes)}}
    return {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}

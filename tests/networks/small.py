"""Settings that make each network small enough to test; the structure stays the paper's."""

RESNET = {"depth": (1, 1, 1, 1), "width": 1 / 16}
VGG = {"width": 1 / 16, "norm": "none", "head_channels": 8, "dropout": 0.0}
# Not as the release starts: with scores of zero there are no gradients, and its deconvolutions are not learned.
FCN = {**VGG, "fc6_kernel": 3, "padding": "same", "zero_scores": False, "learn_upsampling": True}
SMALL = {
    "unet": {"channels": (4, 8, 16)},
    "fcn32s": FCN,
    "fcn16s": FCN,
    "fcn8s": FCN,
    # In bfloat16, maxima of noise move to a neighbour; each pooling more moves them further.
    "segnet": {"width": 1 / 16, "norm": "batch", "strides": (2, 2, 1, 1, 1)},
    "dilated_frontend": {**VGG, "fc6_kernel": 3, "padding": "same"},
    "dilated": {**VGG, "fc6_kernel": 3, "padding": "same"},
    "deeplabv1": VGG,
    "deeplabv1_msc": VGG,
    "crfrnn": {**FCN, "iterations": 2, "eval_iterations": 2, "bilateral_sd": 5.0},
    "patch_classifier": {"channels": (4, 8), "kernels": (4, 3), "head_channels": 8},
    "random_forest": {"trees": 2, "max_depth": 4, "max_leaves": 16, "scales": (1.0,)},
    "deeplabv2": RESNET,
    "refinenet": RESNET,
    "pspnet": RESNET,
    "gcn": RESNET | {"output_stride": 8},  # at stride 32 a test image would be one voxel with three scores
    "deeplabv3": RESNET,
    "deeplabv3_cascade": RESNET,
    "fcn_resnet": RESNET,
}

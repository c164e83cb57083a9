"""The arithmetic of public networks, written down plainly on the tensors of their own files.

Nothing here uses medseg: a name or a setting that its networks or adapters get wrong shows as other logits.
"""

import torch
from torch.nn import functional as F  # noqa: N812  # as everybody writes it

# What the four convolutions of a bottleneck and their normalisations are called.
TORCHVISION = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1")]
KAZUTO = [(f"{part}.conv", f"{part}.bn") for part in ("reduce", "conv3x3", "increase", "shortcut")]
PLAIN = [("conv1", "bn1")]
SEMSEG = [("layer0.0", "layer0.1"), ("layer0.3", "layer0.4"), ("layer0.6", "layer0.7")]
MMSEGMENTATION = [("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")]
# (stride, dilation of the first block, dilation of the others) of res2 to res5.
STRIDE_32 = [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]
PREVIOUS_8 = [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]
ALIKE_8 = [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4)]


def sub(state, prefix):
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}


def conv(s, name, x, stride=1, dilation=1):
    weight = s[f"{name}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride=stride, padding=padding, dilation=dilation)


def conv_bn(s, names, x, stride=1, dilation=1):
    name, bn = names
    statistics = (s[f"{bn}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(conv(s, name, x, stride, dilation), *statistics)


def bottleneck(s, names, x, *, stride, dilation, stride_first):
    a, b = (stride, 1) if stride_first else (1, stride)
    y = F.relu(conv_bn(s, names[0], x, a))
    y = F.relu(conv_bn(s, names[1], y, b, dilation))
    y = conv_bn(s, names[2], y)
    if f"{names[3][0]}.weight" in s:
        x = conv_bn(s, names[3], x, stride)
    return F.relu(x + y)


def resnet(s, x, stem, stages, *, names=TORCHVISION, block="layer{}.{}.", first=(1, 0), caffe=False):
    for index, unit in enumerate(stem):
        x = F.relu(conv_bn(s, unit, x, 1 if index else 2))
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=caffe)
    features = []
    for index, (stride, first_dilation, dilation) in enumerate(stages):
        number = 0
        while tensors := sub(s, block.format(index + first[0], number + first[1])):
            how = {"stride": 1, "dilation": dilation} if number else {"stride": stride, "dilation": first_dilation}
            x = bottleneck(tensors, names, x, **how, stride_first=caffe)
            number += 1
        features.append(x)
    return features


def up(x, like, align_corners):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)


def torchvision_fcn(s, image):
    x = resnet(sub(s, "backbone."), image, PLAIN, PREVIOUS_8)[-1]
    x = conv(s, "classifier.4", F.relu(conv_bn(s, ("classifier.0", "classifier.1"), x)))
    return up(x, image, False)


def torchvision_deeplabv3(s, image):
    x = resnet(sub(s, "backbone."), image, PLAIN, PREVIOUS_8)[-1]
    p = sub(s, "classifier.0.")
    rates = (1, 12, 24, 36)
    branches = [F.relu(conv_bn(p, (f"convs.{i}.0", f"convs.{i}.1"), x, 1, r)) for i, r in enumerate(rates)]
    pooled = F.relu(conv_bn(p, ("convs.4.1", "convs.4.2"), x.mean((2, 3), keepdim=True)))
    x = torch.cat([*branches, up(pooled, x, False)], 1)
    x = F.relu(conv_bn(p, ("project.0", "project.1"), x))
    x = F.relu(conv_bn(s, ("classifier.1", "classifier.2"), x))
    return up(conv(s, "classifier.4", x), image, False)


def mmsegmentation_pspnet(s, image):
    x = resnet(sub(s, "backbone."), image, MMSEGMENTATION, PREVIOUS_8)[-1]
    h = sub(s, "decode_head.")
    maps = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        pooled = F.adaptive_avg_pool2d(x, bins)
        maps.append(up(F.relu(conv_bn(h, (f"psp_modules.{i}.1.conv", f"psp_modules.{i}.1.bn"), pooled)), x, False))
    x = F.relu(conv_bn(h, ("bottleneck.conv", "bottleneck.bn"), torch.cat(maps, 1)))
    return up(conv(h, "conv_seg", x), image, False)


def mmsegmentation_deeplabv3(s, image):
    x = resnet(sub(s, "backbone."), image, MMSEGMENTATION, PREVIOUS_8)[-1]
    h = sub(s, "decode_head.")
    pooled = F.relu(conv_bn(h, ("image_pool.1.conv", "image_pool.1.bn"), x.mean((2, 3), keepdim=True)))
    maps = [up(pooled, x, False)]
    for i, rate in enumerate((1, 12, 24, 36)):
        maps.append(F.relu(conv_bn(h, (f"aspp_modules.{i}.conv", f"aspp_modules.{i}.bn"), x, 1, rate)))
    x = F.relu(conv_bn(h, ("bottleneck.conv", "bottleneck.bn"), torch.cat(maps, 1)))
    return up(conv(h, "conv_seg", x), image, False)


def semseg_pspnet(s, image):
    x = resnet(s, image, SEMSEG, ALIKE_8)[-1]
    maps = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        unit = (f"ppm.features.{i}.1", f"ppm.features.{i}.2")
        maps.append(up(F.relu(conv_bn(s, unit, F.adaptive_avg_pool2d(x, bins))), x, True))
    x = F.relu(conv_bn(s, ("cls.0", "cls.1"), torch.cat(maps, 1)))
    return up(conv(s, "cls.4", x), image, True)


def deeplab_pytorch(s, image):
    s = sub(s, "base.")

    def at(scale):
        x = F.interpolate(image, [int(n * scale) for n in image.shape[2:]], mode="bilinear", align_corners=False)
        stem = [("layer1.conv1.conv", "layer1.conv1.bn")]
        x = resnet(s, x, stem, ALIKE_8, names=KAZUTO, block="layer{}.block{}.", first=(2, 1), caffe=True)[-1]
        return sum(conv(s, f"aspp.c{i}", x, 1, rate) for i, rate in enumerate((6, 12, 18, 24)))

    whole = at(1)
    fused = torch.stack([whole, *(up(at(scale), whole, False) for scale in (0.75, 0.5))]).amax(0)
    return up(fused, image, False)


def refinenet_pytorch(s, image):
    def units(x, name, count):
        for u in range(1, count + 1):
            y = conv(s, f"{name}.{u}_conv", F.relu(x))
            x = x + conv(s, f"{name}.{u}_conv_relu_varout_dimred", F.relu(y))
        return x

    x = None
    for i, feature in enumerate(reversed(resnet(s, image, PLAIN, STRIDE_32)), start=1):
        y = units(conv(s, f"p_ims1d2_outl{i}_dimred", feature), f"adapt_stage{i}_b.0", 2)
        if x is not None:
            x = up(conv(s, f"mflow_conv_g{i - 1}_b3_joint_varout_dimred", x), feature, True)
            y = conv(s, f"adapt_stage{i}_b2_joint_varout_dimred", y) + x
        y = top = F.relu(y)
        for u in range(1, 5):
            top = conv(s, f"mflow_conv_g{i}_pool.0.{u}_outvar_dimred", F.max_pool2d(top, 5, 1, 2))
            y = y + top
        x = units(y, f"mflow_conv_g{i}_b.0", 3)
    return up(conv(s, "clf_conv", x), image, True)


def vgg16(state, x, names, norms=None, *, padding=1):
    """The five pooled maps; `names` and `norms` are the keys of the 13 convolutions and their normalisations."""
    maps, units = [], iter(zip(names, norms or [None] * 13, strict=True))
    for count in (2, 2, 3, 3, 3):
        for _ in range(count):
            name, norm = next(units)
            x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)
            padding = 1
            if norm:
                statistics = (state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
                x = F.batch_norm(x, *statistics)
            x = F.relu(x)
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        maps.append(x)
    return maps


def pytorch_fcn8s(s, image):
    names = [f"conv{block}_{unit}" for block, n in enumerate((2, 2, 3, 3, 3), 1) for unit in range(1, n + 1)]
    *_, pool3, pool4, pool5 = vgg16(s, image, names, padding=100)
    x = F.relu(F.conv2d(pool5, s["fc6.weight"], s["fc6.bias"]))
    x = F.relu(F.conv2d(x, s["fc7.weight"], s["fc7.bias"]))
    x = F.conv_transpose2d(conv(s, "score_fr", x), s["upscore2.weight"], stride=2)
    x = x + conv(s, "score_pool4", pool4)[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = F.conv_transpose2d(x, s["upscore_pool4.weight"], stride=2)
    x = x + conv(s, "score_pool3", pool3)[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    x = F.conv_transpose2d(x, s["upscore8.weight"], stride=8)
    return x[:, :, 31 : 31 + image.shape[2], 31 : 31 + image.shape[3]]

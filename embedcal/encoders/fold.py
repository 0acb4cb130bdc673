"""CLIP's ResNet trunk without its batch norms."""

from __future__ import annotations

import copy

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(tower: ModifiedResNet) -> nn.Module:
    """A copy of the convolutional trunk with batch norms folded in, channels last.

    A batch norm in eval mode is an affine map, so it joins the convolution before it exactly, up
    to rounding. Maps (b, 3, h, w) -> (b, w, h / 32, w / 32).
    """
    trunk = nn.Sequential()
    for name in ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3", "act3"):
        trunk.add_module(name, copy.deepcopy(getattr(tower, name)))
    trunk.add_module("avgpool", tower.avgpool)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        trunk.add_module(name, copy.deepcopy(getattr(tower, name)))
    trunk.eval()
    for block in trunk.modules():
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)] + [("0", "1")]
        for conv, norm in pairs:
            if isinstance(getattr(block, norm, None), nn.BatchNorm2d):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    return trunk.to(memory_format=torch.channels_last)

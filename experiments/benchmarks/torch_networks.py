"""Networks of jaxseg written as one writes them in PyTorch: peers of the benchmark and of tests.

Names of parameters are those of jaxseg with dots for slashes, which for the ResNet are
torchvision's, so that `jaxseg.models.weights.to_variables` takes their state dicts. Dropout is left
out, as jaxseg leaves it out without random keys.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from jaxseg.models.espnet import CHANNELS
from jaxseg.models.espnet_layers import SCALES, dilations
from jaxseg.models.mobilenet import STAGES


def conv(inputs, outputs, size=1, stride=1, dilation=1, groups=1, bias=False):
    return nn.Conv2d(
        inputs, outputs, size, stride, dilation * (size // 2), dilation, groups, bias=bias
    )


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


def resized(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


# U-Net


class Double(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)


class UNet(nn.Module):
    """Padded, with batch norm and transposed convolutions."""

    def __init__(self, num_classes, width=64, depth=4, inputs=3):
        super().__init__()
        self.depth = depth
        for level in range(depth + 1):
            self.add_module(f"down{level}", Double(inputs, inputs := width * 2**level))
        for level in reversed(range(depth)):
            features = width * 2**level
            self.add_module(f"rise{level}", nn.ConvTranspose2d(2 * features, features, 2, 2))
            self.add_module(f"up{level}", Double(2 * features, features))
        self.head = conv(width, num_classes, bias=True)

    def forward(self, x):
        skips = []
        for level in range(self.depth):
            skips.append(self.get_submodule(f"down{level}")(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.get_submodule(f"down{self.depth}")(x)
        for level in reversed(range(self.depth)):
            x = torch.cat([skips[level], self.get_submodule(f"rise{level}")(x)], 1)
            x = self.get_submodule(f"up{level}")(x)
        return self.head(x)


# ResNet


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, dilation):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            shortcut = conv(inputs, 4 * width, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        x = self.downsample(x) if self.downsample else x
        return F.relu(self.bn3(self.conv3(y)) + x, inplace=True)


class ResNet50(nn.Module):
    """The trunk, its stages as `jaxseg.models.resnet` gives them."""

    def __init__(self, width=64, output_stride=32, multi_grid=(1, 1, 1), blocks=(3, 4, 6, 3)):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inputs, reached, dilation = width, 4, 1
        for i, count in enumerate(blocks):
            stride = 1 if i == 0 else 2
            if reached * stride > output_stride:
                stride, dilation = 1, 2 * dilation
            reached *= stride
            layers = []
            for b in range(count):
                factor = multi_grid[b] if i == 3 and b < 3 else 1
                own = Bottleneck(inputs, width * 2**i, stride if b == 0 else 1, dilation * factor)
                layers.append(own)
                inputs = 4 * width * 2**i
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))

    def forward(self, x):
        maps = [F.relu(self.bn1(self.conv1(x)), inplace=True)]
        x = F.max_pool2d(maps[0], 3, 2, 1)
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps


# MobileNetV2


class Residual(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride, dilation):
        super().__init__()
        wide = inputs * expansion
        layers = []
        if expansion > 1:
            layers.append(nn.Sequential(conv(inputs, wide), nn.BatchNorm2d(wide), nn.ReLU6(True)))
        depthwise = conv(wide, wide, 3, stride, dilation, groups=wide)
        layers.append(nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.ReLU6(True)))
        self.conv = nn.Sequential(*layers, conv(wide, outputs), nn.BatchNorm2d(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Without its last layer; maps at the strides 2, 4, 8, ..."""

    def __init__(self, output_stride=16):
        super().__init__()
        first = nn.Sequential(conv(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU6(True))
        layers, inputs, reached, dilation = [first], 32, 2, 1
        self.ends = []
        for expansion, outputs, blocks, stride in STAGES:
            if stride > 1:
                self.ends.append(len(layers) - 1)
            for i in range(blocks):
                step, own = stride if i == 0 else 1, dilation
                if step > 1 and reached == output_stride:
                    step, dilation = 1, 2 * dilation
                reached *= step
                layers.append(Residual(inputs, outputs, expansion, step, own))
                inputs = outputs
        self.features = nn.Sequential(*layers)

    def forward(self, x):
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.ends:
                maps.append(x)
        return [*maps, x]


# DeepLabv3+


class ASPP(nn.Module):
    def __init__(self, inputs, features, scale):
        super().__init__()
        for i, rate in enumerate((0, 6, 12, 18), 1):
            size, dilation = (3, rate * scale) if rate else (1, 1)
            self.add_module(f"aspp{i}", conv(inputs, features, size, dilation=dilation))
            self.add_module(f"aspp{i}_bn", nn.BatchNorm2d(features))
        self.pool, self.pool_bn = conv(inputs, features), nn.BatchNorm2d(features)
        self.conv1, self.conv1_bn = conv(5 * features, features), nn.BatchNorm2d(features)

    def branch(self, x, name):
        x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return F.relu(x, inplace=True)

    def forward(self, x):
        maps = [self.branch(x, f"aspp{i}") for i in range(1, 5)]
        mean = self.branch(x.mean((2, 3), keepdim=True), "pool")
        maps.append(mean.expand(-1, -1, *x.shape[2:]))
        return self.branch(torch.cat(maps, 1), "conv1")


class Decoder(nn.Module):
    def __init__(self, num_classes, low, features):
        super().__init__()
        fine = 3 * features // 16
        self.conv1, self.bn1 = conv(low, fine), nn.BatchNorm2d(fine)
        self.conv2, self.bn2 = conv(features + fine, features, 3), nn.BatchNorm2d(features)
        self.conv3, self.bn3 = conv(features, features, 3), nn.BatchNorm2d(features)
        self.score = conv(features, num_classes, bias=True)

    def forward(self, x, low):
        low = F.relu(self.bn1(self.conv1(low)), inplace=True)
        x = torch.cat([resized(x, low.shape[2:]), low], 1)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.score(F.relu(self.bn3(self.conv3(x)), inplace=True))


class DeepLab(nn.Module):
    def __init__(self, num_classes, encoder, low, last, features=256, output_stride=16):
        super().__init__()
        self.encoder = encoder
        self.aspp = ASPP(last, features, 16 // output_stride)
        self.decoder = Decoder(num_classes, low, features)

    def forward(self, x):
        maps = self.encoder(x)
        return resized(self.decoder(self.aspp(maps[-1]), maps[1]), x.shape[2:])


def deeplab_resnet50(num_classes):
    encoder = ResNet50(output_stride=16, multi_grid=(1, 2, 4))
    return DeepLab(num_classes, encoder, low=256, last=2048)


def deeplab_mobilenetv2(num_classes):
    return DeepLab(num_classes, MobileNetV2(16), low=24, last=320)


# ESPNetv2


def conv_norm(inputs, outputs, size=1, stride=1, groups=1, activate=True):
    own = conv(inputs, outputs, size, stride, groups=groups)
    layers = {"conv": own, "bn": nn.BatchNorm2d(outputs)}
    return named(**layers, **({"act": nn.PReLU(outputs)} if activate else {}))


def norm_act(features):
    return named(bn=nn.BatchNorm2d(features), act=nn.PReLU(features))


class EESP(nn.Module):
    def __init__(self, inputs, features, field, stride=1):
        super().__init__()
        each, self.stride = features // 4, stride
        self.proj_1x1 = conv_norm(inputs, each, groups=4)
        for i, dilation in enumerate(dilations(field)):
            branch = conv(each, each, 3, stride, dilation, groups=each)
            self.add_module(f"branch{i}", branch)
        self.br_after_cat = norm_act(features)
        self.conv_1x1_exp = conv_norm(features, features, groups=4, activate=False)
        self.module_act = nn.PReLU(features)

    def forward(self, x):
        reduced, maps = self.proj_1x1(x), []
        for i in range(4):
            y = self.get_submodule(f"branch{i}")(reduced)
            maps.append(y + maps[-1] if maps else y)
        y = self.conv_1x1_exp(self.br_after_cat(torch.cat(maps, 1)))
        if x.shape == y.shape:
            y = y + x
        return y if self.stride > 1 else self.module_act(y)


class DownSampler(nn.Module):
    def __init__(self, inputs, features, field):
        super().__init__()
        self.eesp = EESP(inputs, features - inputs, field, 2)
        self.reinforcement1 = conv_norm(3, 3, 3)
        self.reinforcement2 = conv_norm(3, features, activate=False)
        self.act = nn.PReLU(features)

    def forward(self, x, image):
        y = torch.cat([F.avg_pool2d(x, 3, 2, 1), self.eesp(x)], 1)
        return self.act(y + self.reinforcement2(self.reinforcement1(image)))


class ESPNetEncoder(nn.Module):
    def __init__(self, scale):
        super().__init__()
        channels = CHANNELS[scale]
        self.level1 = conv_norm(3, channels[0], 3, 2)
        self.units = {2: 0, 3: 3, 4: 7}
        for level, field in ((2, 13), (3, 11), (4, 9)):
            before, after = channels[level - 2 : level]
            self.add_module(f"level{level}_0", DownSampler(before, after, field))
            for i in range(self.units[level]):
                unit = EESP(after, after, {3: 9, 4: 7}[level])
                self.add_module(f"level{level}_unit{i}", unit)

    def forward(self, x):
        image, maps = F.avg_pool2d(x, 3, 2, 1), [self.level1(x)]
        for level, units in self.units.items():
            image = F.avg_pool2d(image, 3, 2, 1)
            y = self.get_submodule(f"level{level}_0")(maps[-1], image)
            for i in range(units):
                y = self.get_submodule(f"level{level}_unit{i}")(y)
            maps.append(y)
        return maps


class PyramidPool(nn.Module):
    def __init__(self, inputs, outputs, projection, last):
        super().__init__()
        self.projection = conv_norm(inputs, projection)
        for i in range(len(SCALES)):
            stage = conv(projection, projection, 3, groups=projection)
            self.add_module(f"stage{i}", stage)
        self.merge_norm = norm_act(5 * projection)
        self.merge = conv_norm(5 * projection, projection, 3, groups=projection)
        self.expansion = conv(projection, outputs, bias=last)
        self.br = None if last else norm_act(outputs)

    def forward(self, x):
        x = self.projection(x)
        size, maps = x.shape[2:], []
        for i, scale in enumerate(SCALES):
            stage = self.get_submodule(f"stage{i}")
            inner = [max(math.ceil(n * scale), 5) for n in size]
            if scale < 1:
                maps.append(resized(stage(F.adaptive_avg_pool2d(x, inner)), size))
            elif scale > 1:
                maps.append(F.adaptive_avg_pool2d(stage(resized(x, inner)), size))
            else:
                maps.append(stage(x))
        y = self.merge_norm(torch.cat(maps, 1))
        batch, channels, height, width = y.shape
        y = y.reshape(batch, 5, channels // 5, height, width).transpose(1, 2)
        y = self.expansion(self.merge(y.reshape(batch, channels, height, width)))
        return self.br(y) if self.br else y


class Skip(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.gate = conv(inputs, outputs)
        self.expansion = conv_norm(inputs, outputs, 3, groups=math.gcd(inputs, outputs))

    def forward(self, x):
        return torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))) * self.expansion(x)


class ESPNetDecoder(nn.Module):
    def __init__(self, num_classes, channels, width=16):
        super().__init__()
        projection = max(min(num_classes // 2, width), 1)
        inputs = channels[-1]
        for i in range(1, 5):
            features = num_classes if i == 4 else (5 - i) * width
            self.add_module(f"pyramid{i}", PyramidPool(inputs, features, projection, i == 4))
            inputs = features
            if i < 4:
                self.add_module(f"skip{i + 1}", Skip(channels[3 - i], features))
                self.add_module(f"norm{i + 1}", norm_act(features))

    def forward(self, maps):
        y = maps[-1]
        for i in range(1, 4):
            skip = maps[3 - i]
            y = resized(self.get_submodule(f"pyramid{i}")(y), skip.shape[2:])
            y = y + self.get_submodule(f"skip{i + 1}")(skip)
            y = self.get_submodule(f"norm{i + 1}")(y)
        return self.pyramid4(y)


class ESPNetv2(nn.Module):
    def __init__(self, num_classes, scale=2.0):
        super().__init__()
        self.encoder = ESPNetEncoder(scale)
        self.decoder = ESPNetDecoder(num_classes, CHANNELS[scale])

    def forward(self, x):
        return resized(self.decoder(self.encoder(x)), x.shape[2:])

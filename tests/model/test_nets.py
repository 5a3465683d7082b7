"""What every net promises: any size in, the same size out, all of it learns, and it exports."""

from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import InputError
from model.nets import build_net
from model.recipe import NETS
from tiny import RECIPE

NARROW: dict[str, dict[str, Any]] = {
    "segmentnet": {"net": "segmentnet", "width": 4},
    "unet": {"net": "unet", "width": 4},
    "unet-3": {"net": "unet", "width": 4, "depth": 3},
    "resnet18-unet": {"net": "resnet_unet", "encoder": "resnet18", "width": 8},
    "resnet34-unet": {"net": "resnet_unet", "width": 4},
    "resnet50-unet": {"net": "resnet_unet", "encoder": "resnet50", "width": 4},
    "unet11": {"net": "vgg_unet", "width": 8},
    "unet16": {"net": "vgg_unet", "encoder": "vgg16", "width": 8},
    "simple-fcn": {"net": "simple_fcn", "width": 4},
}
every_net = pytest.mark.parametrize("name", NARROW)


def build(name: str, classes: int = 3, seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    free = {"width": None, "depth": None}
    return build_net(RECIPE.override(free | NARROW[name] | settings), classes)


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_no_net_is_left_out() -> None:
    assert {settings["net"] for settings in NARROW.values()} == set(NETS)


@every_net
def test_every_size_comes_back(name: str) -> None:
    net = build(name, classes=5).eval()
    with torch.inference_mode():
        for size in ((1, 1), (1, 7), (31, 33), (64, 64)):
            logits = net(random_images(2, 3, *size))
            assert logits.shape == (2, 5, *size)
            assert torch.isfinite(logits).all()
        assert net(random_images(1, 3, 513, 511)).shape == (1, 5, 513, 511)


@every_net
def test_an_odd_photo_is_the_corner_of_a_grown_one(name: str) -> None:
    net = build(name).eval()
    images = random_images(1, 3, 33, 50)
    stride = net.stride
    assert isinstance(stride, int)
    grown = F.pad(images, (0, -50 % stride, 0, -33 % stride), mode="replicate")
    with torch.inference_mode():
        assert torch.equal(net(images), net(grown)[..., :33, :50])


@every_net
def test_stride_is_the_side_of_the_deepest_place(name: str) -> None:
    net = build(name).eval()
    sides = []

    def measure(_: nn.Module, __: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sides.append(output.shape[-1])

    for module in net.modules():
        module.register_forward_hook(measure)
    with torch.inference_mode():
        net(random_images(1, 3, 128, 128))
    assert net.stride == 128 / min(sides)


@every_net
def test_training_starts_at_a_sane_scale_and_reaches_every_weight(name: str) -> None:
    net = build(name)
    logits = net(random_images(2, 3, 64, 64))
    assert 0.1 < logits.std() < 5
    target = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(1))
    F.cross_entropy(logits, target).backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().max() > 0, key


@every_net
def test_learns_what_is_red(name: str) -> None:
    net = build(name, classes=2, **({"dropout": 0.0} if name == "simple-fcn" else {}))
    images = random_images(2, 3, 64, 64)
    target = torch.zeros(2, 64, 64, dtype=torch.long)
    target[0, 8:40, 10:50] = 1
    target[1, 30:, :30] = 1
    images[:, 0] += 3 * target
    # Without batch norm, narrow as here, a large step is one too far.
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3 if name.startswith("unet1") else 1e-2)
    losses = []
    for _ in range(26):
        loss = F.cross_entropy(net(images), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@every_net
def test_memory_format_changes_little(name: str) -> None:
    images = random_images(2, 3, 64, 64)
    outputs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = build(name).eval().to(memory_format=layout)
        with torch.inference_mode():
            outputs.append(net(images.contiguous(memory_format=layout)))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-3)


@every_net
def test_no_strided_1x1_convolution(name: str) -> None:
    # Its backward corrupts memory (see ResidualBlock): it may crash anywhere later or not at all,
    # so its absence is what can be tested.
    for module in build(name).modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            assert module.stride == (1, 1)


def test_onnx_with_any_size() -> None:
    net = build("unet", depth=1).eval()
    sizes = {0: "batch", 2: "height", 3: "width"}
    example = (random_images(2, 3, 16, 16),)
    program = torch.onnx.export(net, example, dynamic_shapes=(sizes,), dynamo=True)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for shape in ((1, 3, 31, 70), (3, 3, 64, 32), (2, 3, 1, 1)):
        images = random_images(*shape)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(logits), net(images), rtol=1e-3, atol=1e-3)


def test_compiles_for_any_size() -> None:
    net = build("unet", depth=1).eval()
    compiled = torch.compile(net, backend="eager")
    with torch.inference_mode():
        for size in ((16, 16), (31, 33)):
            images = random_images(1, 3, *size)
            torch.testing.assert_close(compiled(images), net(images))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"net": "resnet_unet", "encoder": "resnet35"}, "'resnet35'.*resnet34"),
        ({"net": "vgg_unet", "encoder": "resnet34"}, "vgg11, vgg16"),
        ({"net": "resnet_unet", "pretrained": True, "width": 32}, "resnet34.*width=64, not 32"),
        ({"net": "vgg_unet", "pretrained": True, "width": 32}, "vgg11.*width=64, not 32"),
        ({"net": "unet", "encoder": "vgg11"}, "unet has no encoder"),
        ({"net": "simple_fcn", "pretrained": True}, "simple_fcn has no pretrained"),
    ],
)
def test_what_a_net_does_not_take_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_net(RECIPE.override({"width": None, "depth": None} | settings), 2)

"""FP8 products: the definition against real float8 casts, and kernels against the definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cairn.ops import fp8, paths
from cairn.ops.fp8 import Statistics, cast, product
from cairn.ops.fp8_linear import Scaled, fp8_feed_forward, fp8_linear
from cairn.ops.norm import squared_relu

pytestmark = pytest.mark.kernels

RECIPES = ("current", "block")


def draw(*shape: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    """Of many magnitudes, so that some become subnormal or 0 in FP8."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random) * torch.exp2(
        spread * torch.randn(shape, generator=random)
    )


def widened(operand: fp8.Operand) -> Tensor:
    wide = fp8._widened(operand)
    return wide * operand.inverse if operand.kind == "tensor" else wide


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("role", fp8.ROLES)
def test_current_scales_the_largest_magnitude_to_the_formats_largest(role):
    x = draw(48, 64)
    first, second = cast(x, role, "current", Statistics())
    limit = 57344 if role == "gradients" else 448
    assert first.values.dtype == (torch.float8_e5m2 if role == "gradients" else fp8.E4M3)
    assert first.values.float().abs().max() == limit
    scale = torch.tensor(float(limit)) / x.abs().max()
    expected = (x * scale).clamp(-limit, limit).to(first.values.dtype)
    assert torch.equal(first.values.float(), expected.float())
    assert torch.equal(second.values.float(), expected.float().t())
    assert first.inverse == 1 / scale


def test_blocks_have_scales_of_their_own_that_are_powers_of_two():
    x = torch.ones(128, 256)
    x[:, 128:] = 1e-6
    x[3, :128] = 1e4
    rows, columns = cast(x, "activations", "block", Statistics())
    mantissa, _ = torch.frexp(rows.inverse)
    assert torch.equal(mantissa, torch.full_like(mantissa, 0.5))
    torch.testing.assert_close(widened(rows), x, rtol=2**-4, atol=0)
    assert torch.equal(widened(columns).t()[:, 128:], widened(rows)[:, 128:])
    tiles, _ = cast(x, "weights", "block", Statistics())
    assert tiles.inverse.shape == (1, 4)
    assert widened(tiles)[0, 0] == 1  # 1 of 1e4 is still a normal number


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("role", fp8.ROLES)
def test_a_cast_is_as_fine_as_its_format(recipe, role):
    x = draw(64, 256, spread=0.5)
    step = 2**-3 if fp8.format_of(recipe, role) == fp8.E5M2 else 2**-4
    for operand, wanted in zip(cast(x, role, recipe, Statistics()), (x, x.t()), strict=True):
        got = widened(operand)[: wanted.shape[0], : wanted.shape[1]]
        normal = wanted.abs() > wanted.abs().max() * 2**-10
        assert ((got - wanted).abs() <= step * wanted.abs())[normal].all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_not_finite_becomes_nan_and_is_counted(recipe):
    x = draw(16, 128, spread=0)
    x[1, 2], x[3, 4], x[5, 6], x[7, 8] = torch.nan, torch.inf, -torch.inf, 1e-9
    statistics = Statistics()
    rows, columns = cast(x, "activations", recipe, statistics)
    assert rows.values.float().isnan().sum() == 3
    assert columns.values.float().isnan().sum() == 3
    found = statistics.take()
    assert (found["fp8_nan"], found["fp8_overflow"]) == (1, 2)
    assert found["fp8_underflow_activations"] >= 1 / x.numel()
    assert statistics.take()["fp8_nan"] == 0


def gradients(layer, leaves: list[Tensor | None], grad: Tensor) -> list[Tensor]:
    wanted = [x for x in leaves if x is not None]
    y = layer(*leaves)
    return [y.detach(), *torch.autograd.grad(y, wanted, grad)]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(5, 48), (70, 128), (130, 272)])
def test_forward_and_backward_are_near_the_exact_ones(recipe, shape):
    T, width = shape
    leaves = [draw(T, width, spread=0), draw(80, width, spread=0), draw(80)]
    scaled = Scaled(recipe, Statistics(), torch.float32)
    grad = draw(T, 80, seed=2, spread=0)
    exact = [x.double().requires_grad_() for x in leaves]
    leaves = [x.requires_grad_() for x in leaves]
    true = gradients(lambda x, w, b: x @ w.t() + b, exact, grad.double())
    got = gradients(lambda x, w, b: fp8_linear(x, w, b, scaled), leaves, grad)
    for a, b in zip(got, true, strict=True):
        assert a.dtype == torch.float32
        assert relative(a.double(), b) < 0.06


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_feed_forward_is_its_two_layers(recipe):
    """But for roundings: what squared ReLU makes is cast from fp32, and not from a result."""
    leaves = [draw(70, 128, spread=0), draw(272, 128, spread=0), draw(48, 272, spread=0)]
    leaves = [x.requires_grad_() for x in leaves]
    one, two = (Scaled(recipe, Statistics(), torch.float32) for _ in range(2))

    def parts(x, up, down):
        return fp8_linear(squared_relu(fp8_linear(x, up, None, two)), down, None, two)

    grad = draw(70, 48, seed=2, spread=0)
    got = gradients(lambda x, u, d: fp8_feed_forward(x, u, d, one), leaves, grad)
    for a, b in zip(got, gradients(parts, leaves, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
    assert one.statistics.take() == two.statistics.take()


def test_nothing_is_computed_for_gradients_that_nobody_wants():
    x, weight = draw(16, 32), draw(48, 32).requires_grad_()
    scaled = Scaled("current", Statistics(), torch.float32)
    with paths.recorded() as taken:
        fp8_linear(x, weight, None, scaled).sum().backward()
    assert sum(choice.op == "fp8_product" for choice in taken) == 2
    assert x.grad is None


def test_a_product_sums_in_fp32():
    a, b = draw(16, 4096, spread=0), draw(32, 4096, spread=0)
    for recipe in RECIPES:
        left, _ = cast(a, "activations", recipe, Statistics(), columns=False)
        right, _ = cast(b, "weights", recipe, Statistics(), columns=False)
        wanted = widened(left).double() @ widened(right).double().t()
        assert relative(product(left, right, torch.float32).double(), wanted) < 1e-6


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("role", fp8.ROLES)
@pytest.mark.parametrize("before", [None, "squared_relu", "squared_relu_gradient"])
@pytest.mark.parametrize("shape", [(1, 16), (37, 144), (256, 128), (130, 400)])
@pytest.mark.parametrize("order", ["both", "rows", "columns"])
def test_kernels_cast_as_the_definition_does(triton_device, recipe, role, before, shape, order):
    x = draw(*shape, spread=4)
    x[0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 1e-30])
    dtype = torch.bfloat16 if role == "gradients" else torch.float32
    x = x.to(triton_device, dtype)
    kinds = {"rows": order != "columns", "columns": order != "rows", "before": before}
    if before == "squared_relu_gradient":
        kinds["of"] = draw(*shape, seed=1).to(triton_device, torch.bfloat16)
    ours, theirs = Statistics(triton_device), Statistics(triton_device)
    with fp8.emulation(), paths.only("torch"):
        wanted = cast(x, role, recipe, theirs, **kinds)
    with paths.only("triton"):
        got = cast(x, role, recipe, ours, **kinds)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is None or b is None:
            continue
        assert a.kind == b.kind
        assert torch.equal(a.inverse, b.inverse)
        assert torch.equal(a.values.float().nan_to_num(999), b.values.float().nan_to_num(999))
        assert a.values.is_contiguous()
    assert torch.equal(ours.counts, theirs.counts)
    assert ours.take() == theirs.take() if order == "both" else True


def test_kernels_read_parts_of_a_wider_matrix(triton_device):
    x = draw(40, 96).to(triton_device)[:, 32:80]
    with paths.only("triton"):
        got, _ = cast(x, "activations", "current", Statistics(triton_device))
    wanted, _ = cast(x.cpu().contiguous(), "activations", "current", Statistics())
    assert torch.equal(got.values.float().cpu(), wanted.values.float())


@pytest.mark.parametrize("path", ["torch", "triton"])
def test_parts_of_a_tensor_on_ranks_are_cast_as_the_whole(triton_device, monkeypatch, path):
    x = draw(32, 96).to(triton_device)
    told = []

    def all_reduce(largest: Tensor, op: object, group: object) -> None:
        told.append(largest.clone())
        other = x.abs().max()
        largest.view(-1)[0] = other.view(torch.int32) if path == "triton" else other

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    whole, _ = cast(x, "activations", "current", Statistics(triton_device))
    group: Any = object()
    with paths.only(path):
        part, _ = cast(x[:, :48], "activations", "current", Statistics(triton_device), group=group)
        cast(x[:, :48], "activations", "block", Statistics(triton_device), group=group)
    assert len(told) == 1, "blocks ask nobody"
    assert torch.equal(part.inverse, whole.inverse)
    assert torch.equal(part.values.float(), whole.values[:, :48].float())


def on_gpu(recipe: fp8.Recipe) -> Scaled:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    if fp8.problem(recipe, torch.device("cuda")):
        pytest.skip(fp8.problem(recipe, torch.device("cuda")))
    return Scaled(recipe, Statistics("cuda"))


SHAPES = [(512, 1024, 1536), (100, 144, 400), (1000, 1024, 2320)]


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_multiplies_as_the_definition_does(recipe, shape):
    """All three products of a layer have the same operands: what differs is how sums are rounded.

    Matrix units add up 8-bit products with some 14 bits before they go to fp32.
    """
    scaled = on_gpu(recipe)
    T, width, outputs = shape
    leaves = [x.cuda().requires_grad_() for x in (draw(T, width), draw(outputs, width))]
    grad = draw(T, outputs, seed=2).cuda().to(torch.bfloat16)

    def both(emulate: bool) -> list[Tensor]:
        with fp8.emulation(emulate):
            return gradients(lambda x, w: fp8_linear(x, w, None, scaled), leaves, grad)

    with paths.recorded() as taken:
        got = both(False)
    assert {choice.path for choice in taken if choice.op == "fp8_product"} == {"library"}
    for a, b in zip(got, both(True), strict=True):
        assert relative(a.double(), b.double()) < 4e-3  # as far as roundings to bf16


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_is_as_near_to_the_exact_products_as_the_definition(recipe, shape):
    """Through several layers a rounding of a sum moves a scale, and so all roundings of a cast."""
    scaled = on_gpu(recipe)
    T, width, outputs = shape
    leaves = draw(T, width, spread=1), draw(outputs, width, spread=1), draw(width, outputs)
    leaves = [x.cuda().requires_grad_() for x in leaves]
    grad = draw(T, width, seed=2, spread=1).cuda().to(torch.bfloat16)

    def layers(x, up, down):
        return fp8_linear(fp8_feed_forward(x, up, down, scaled), up, None, scaled)[:, :width]

    def both(emulate: bool) -> list[Tensor]:
        with fp8.emulation(emulate):
            return gradients(layers, leaves, grad)

    exact = [x.detach().double().requires_grad_() for x in leaves]
    true = gradients(
        lambda x, up, down: ((x @ up.t()).relu().square() @ down.t() @ up.t())[:, :width],
        exact, grad.double(),
    )  # fmt: skip
    for a, b, c in zip(both(False), both(True), true, strict=True):
        assert relative(a.double(), c) < 1.02 * relative(b.double(), c)
        assert relative(a.double(), b.double()) < 0.1

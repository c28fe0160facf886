"""softmax_ce.torch under torch.compile, torch.export and PyTorch's checks of operators."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn import functional  # noqa: E402

from softmax_ce.torch import CrossEntropyLoss, cross_entropy, operator  # noqa: E402
from softmax_ce.torch import loss as routes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # PyTorch's own


def problem(soft: bool = False) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    if soft:
        return x, torch.softmax(torch.randn(4, 5, 3, generator=generator, dtype=torch.float64), 1)
    labels = torch.randint(0, 5, (4, 3), generator=generator)
    labels[0, 0] = -100
    return x, labels


def test_the_operators_pass_pytorchs_checks() -> None:
    for soft, reduction in itertools.product((False, True), ("mean", "none")):
        x, target = problem(soft)
        if soft:
            target.requires_grad_()
        weight = torch.linspace(0.5, 2, 5, dtype=torch.float64)
        options = (-100, reduction, 0.1, 0.01, 3.0, None, None, torch.float64)
        torch.library.opcheck(operator.cross_entropy, (x, target, weight, *options))
        upstream = torch.ones((4, 3) if reduction == "none" else (), dtype=torch.float64)
        torch.library.opcheck(
            operator.cross_entropy_grad, (upstream, x.detach(), target.detach(), weight, *options)
        )  # fmt: skip


def test_the_operator_has_derivatives_of_first_and_second_order() -> None:
    for soft in (False, True):
        x, target = problem(soft)
        options = (-100, "mean", 0.1, 0.01, None, None, None, torch.float64)
        assert torch.autograd.gradcheck(lambda x, t=target, o=options: operator.cross_entropy(x, t, None, *o), x)
        assert torch.autograd.gradgradcheck(lambda x, t=target, o=options: operator.cross_entropy(x, t, None, *o), x)


@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1, "reduction": "none"}, {"denominator": 7.0}, {"denominator": True}],
    ids=str,
)
def test_a_compiled_call_gives_the_same_bits(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "SMALL", 0)
    monkeypatch.setattr(routes, "SMALL_IN_FULL", 0)
    if options.get("denominator") is True:
        options = {"denominator": torch.tensor(8.0, dtype=torch.float64)}
    x, target = problem()
    compiled = torch.compile(lambda x, t: cross_entropy(x, t, **options), fullgraph=True, backend="aot_eager")
    found, expected = compiled(x, target), cross_entropy(x, target, **options)
    assert "softmax_ce" not in str(type(expected.grad_fn))
    assert torch.equal(found, expected)
    grads = [torch.autograd.grad(loss.sum(), x)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-15, atol=1e-17)


def test_compiled_small_and_transformed_calls_are_pytorchs() -> None:
    x, target = problem()
    seen: list[Any] = []

    def record(module: Any, _: Any) -> Any:
        seen.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    found = torch.compile(cross_entropy, fullgraph=True, backend=record)(x, target)
    torch.testing.assert_close(found, functional.cross_entropy(x, target))
    assert not any("softmax_ce" in name for name in seen)


def test_autocast_is_seen_when_a_call_is_compiled() -> None:
    x, target = problem()
    x = x.detach().bfloat16().requires_grad_()
    compiled = torch.compile(lambda x, t: cross_entropy(x, t, z_loss=0.1), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        loss = compiled(x, target)
    assert loss.dtype is torch.float32
    loss.backward()
    assert x.grad.dtype is torch.bfloat16
    assert compiled(x, target).dtype is torch.bfloat16


def test_an_exported_program_takes_other_sizes() -> None:
    x, target = problem()
    sizes = {0: torch.export.Dim("rows", min=2, max=50), 2: torch.export.Dim("positions", min=2, max=50)}
    module = CrossEntropyLoss(label_smoothing=0.1, z_loss=0.01)
    shapes = sizes, {0: sizes[0], 1: sizes[2]}
    program = torch.export.export(module, (x.detach(), target), dynamic_shapes=shapes)
    assert any("softmax_ce.cross_entropy" in str(node.target) for node in program.graph.nodes)
    many, labels = torch.cat([x, x]).detach(), torch.cat([target, target])
    assert torch.equal(program.module()(many, labels), module(many, labels))


def test_a_mode_sees_an_operator() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    x, target = problem()
    graph = make_fx(lambda x: cross_entropy(x, target, z_loss=0.1))(x.detach())
    assert "softmax_ce.cross_entropy" in graph.code
    mode = FakeTensorMode()
    fake, labels = mode.from_tensor(x.detach()), mode.from_tensor(target)
    with mode:
        loss = cross_entropy(fake, labels, z_loss=0.1, reduction="none")
    assert loss.shape == (4, 3)


@pytest.mark.slow
def test_the_default_compiler_gives_the_same_bits() -> None:
    x = torch.randn(512, 200, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.arange(512) % 200
    compiled = torch.compile(lambda x, t: cross_entropy(2 * x, t, z_loss=0.1), fullgraph=True)
    found, expected = compiled(x, target), cross_entropy(2 * x, target, z_loss=0.1)
    assert torch.equal(found, expected)
    grads = [torch.autograd.grad(loss, x)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def guides() -> list[Any]:
    """The code blocks of the guide. Hugging Face's is shown as text."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "how-to" / "pytorch.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    return [block for block in blocks if "transformers" not in block]


@pytest.mark.parametrize("code", guides(), ids=["drop-in", "compile", "accumulation"])
def test_what_the_guide_shows(code: str) -> None:
    torch.manual_seed(0)
    exec(compile(code, "<guide>", "exec"), {})

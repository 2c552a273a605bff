"""Norms: the probed formula equals every family's module; folding and pulling back equal autograd."""

from __future__ import annotations

import pytest
import torch
from tests.families import cached
from torch import nn

from rewarden.errors import RewardenError
from rewarden.norms import Norm

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "gpt2", "gpt_neox", "opt",
            "olmo2", "nemotron", "stablelm", "starcoder2", "bloom", "falcon", "mpt", "helium", "modernbert", "bert")


def norms_of(family: str) -> dict[str, tuple[nn.Module, int]]:
    """One module per class of norm in a family, with its width."""
    found = {}
    for module in cached(family).modules():
        name = type(module).__name__
        if "Norm" in name and getattr(module, "weight", None) is not None:
            found[f"{name}-{module.weight.numel()}"] = (module, module.weight.numel())
    return found


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random vectors with a mean of their own, from large to small."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (x + 0.7) * torch.logspace(2, -3, shape[0])[:, None]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_formula_is_the_module(family: str) -> None:
    found = norms_of(family)
    assert len(found) == (2 if family in ("qwen3", "gemma3_text", "olmo2") else 1)  # those of queries and keys are narrower
    for module, width in found.values():
        x = vectors(12, width)
        with torch.no_grad():
            theirs = module(x[None])[0]
        torch.testing.assert_close(Norm.of(module, width)(x), theirs, rtol=1e-4, atol=1e-4)


def test_the_families_differ_in_what_they_do() -> None:
    families = ("llama", "gemma2", "gpt2", "opt")
    kinds = {family: [Norm.of(*item) for item in norms_of(family).values()][-1] for family in families}
    assert [kinds[family].centre for family in families] == [False, False, True, True]
    assert float(kinds["llama"].bias.abs().max()) == 0 < float(kinds["gpt2"].bias.abs().max())
    weight = next(module.weight for name, module in cached("gemma2").named_modules() if name == "model.norm")
    torch.testing.assert_close(Norm.of(cached("gemma2").model.norm, 32).gain, 1 + weight)  # Gemma stores gain − 1


class LearnedMean(nn.Module):
    """No eps attribute at all: it has to be measured."""

    def __init__(self, eps: float, centre: bool) -> None:
        super().__init__()
        self.hidden, self.centre = eps, centre

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centre else x
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.hidden)


@pytest.mark.parametrize("width", [8, 9])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-8])
def test_an_epsilon_that_is_stated_nowhere_is_measured(width: int, centre: bool, eps: float) -> None:
    module = LearnedMean(eps, centre)
    norm = Norm.of(module, width)
    assert norm.centre is centre
    x = vectors(12, width)
    torch.testing.assert_close(norm(x), module(x), rtol=2e-4, atol=2e-4)


def test_torch_rms_norm_with_its_default_epsilon() -> None:
    module = nn.RMSNorm(16)  # eps=None means the number format's own
    norm = Norm.of(module, 16)
    x = vectors(12, 16)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("module", "name"), [
    (nn.Linear(8, 8), "Linear"), (nn.Sequential(nn.LayerNorm(8), nn.Tanh()), "Sequential"), (nn.Identity(), "Identity"),
    (nn.Softmax(-1), "Softmax"), (nn.Sequential(nn.LayerNorm(8), nn.ReLU()), "Sequential"),
    (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), "Sequential"),
])
def test_what_is_no_norm_is_refused(module: nn.Module, name: str) -> None:
    with pytest.raises(RewardenError, match=f"{name} is neither a LayerNorm nor an RMSNorm") as error:
        Norm.of(module, 8)
    assert "register a read-out" in error.value.fix


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "modernbert"])
def test_fold_and_pull_back_equal_autograd(family: str) -> None:
    module, width = list(norms_of(family).values())[-1]
    norm = Norm.of(module, width)
    weight = torch.randn(width, generator=torch.Generator().manual_seed(1))
    x = vectors(6, width, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad((module(x[None])[0] @ weight).sum(), x)
    plain = x.detach()
    torch.testing.assert_close(norm.pull_back(weight, plain) * plain.norm(dim=-1, keepdim=True),
                               gradient * plain.norm(dim=-1, keepdim=True), rtol=1e-3, atol=1e-3)
    scale = norm.scale(plain)
    (frozen,) = torch.autograd.grad((norm.apply_at(x, scale) @ weight).sum(), x)
    direction = norm.fold(weight, scale)
    torch.testing.assert_close(direction, frozen, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((direction * plain).sum(-1), (norm.apply_at(plain, scale) - norm.bias) @ weight,
                               rtol=1e-4, atol=1e-3)


def test_the_identity_changes_nothing() -> None:
    norm, x, weight = Norm.identity(5), vectors(4, 5), torch.arange(5.0)
    assert norm.is_identity
    torch.testing.assert_close(norm(x), x, rtol=0, atol=0)
    torch.testing.assert_close(norm.pull_back(weight, x), weight.expand(4, 5), rtol=0, atol=0)
    torch.testing.assert_close(norm.fold(weight, norm.scale(x)), weight.expand(4, 5), rtol=0, atol=0)


def test_half_precision_modules_are_read_in_float32() -> None:
    module, width = list(norms_of("llama").values())[-1]
    half = type(module)(width).bfloat16()
    with torch.no_grad():
        half.weight.copy_(module.weight)
    assert Norm.of(half, width).gain.dtype == torch.float32
    torch.testing.assert_close(Norm.of(half, width).gain, half.weight.float(), rtol=1e-5, atol=1e-5)
    assert half.weight.dtype == torch.bfloat16  # the model's own module is left as it is

"""Weight compander: train a variable whose bounded image is the weight."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.weights.compander import FORMS, Compander, reach
from tether.words import nearest

if TYPE_CHECKING:
    from tether.engine.context import Context

_KERNELS = (nn.modules.conv._ConvNd, nn.Linear)


@register(
    "weight_compander",
    kind="weights",
    paper="arXiv:2306.16993",
    cost="forward",
    search_space={"slope": ("log", 0.5, 2.0)},
    conflicts=("rate_constraint", "proximal", "group_envelope"),
)
class WeightCompander(Method):
    """Bound every weight, and spread those near zero, through a monotone map of what is trained.

    A weight is ``w = a arctan(v / b)`` of a trained v: large ones are pressed together, so that
    none dominates, and an update moves small ones further than large ones. The pretrained weights
    are turned into v exactly, so that nothing changes at the start. Helps against a few weights
    that dominate, on little data; our small experiment shows the shape, not a gain. Hurts pruning
    and short codes: few weights stay near zero. Not for embeddings, norms, quantised weights.
    Methods on the distance to the start, and weight decay, see v.

    ``tether.prepare`` puts the map in before the optimiser is made; ``finish``, and the export of
    ``tether tune``, leave an ordinary network with the weights w.

    ::

        arctan: w = a arctan(v / b)     tanh: w = a tanh(v / b)
        mulaw:  w = a sign(v) log(1 + 255 |v| / b) / log 256          (no bound)
        a = max |w0| / (margin pi / 2),  b = a / slope                 (arctan)

    Args:
        form: ``"arctan"`` (default; the paper's, as far as is known), ``"tanh"``, ``"mulaw"``.
        slope: of the map at zero, above 0 (default 1; from scratch 1.5 to 2).
        learnable: train a and b of every layer, too (default).
        margin: the largest weight over the bound at the start, in (0, 1) (default 0.9).
        targets: wildcards of layers; default: convolutions and linear layers, the head left out.

    State:
        None of its own: v, a and b are the model's parameters.

    Cost:
        No further pass through the network, but an arctangent of every weight in the forward and
        its slope in the backward: a sixth to a third of a small step on a CPU. A copy of the
        weights.

    Raises:
        ValueError: an option out of range.
        TetherError: ``targets`` fits no layer, or a layer is parametrised already.

    References:
        R. Cakaj, J. Mehnert, B. Yang, "Weight Compander: A Simple Weight Reparameterization for
        Regularization", 2023, arXiv:2306.16993.

    Example:
        >>> import tether
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = tether.prepare(model, method := WeightCompander(slope=1.5))
        >>> [name for name, _ in model.named_parameters()][1]
        '0.parametrizations.weight.original'
        >>> method.finish(model)
        >>> [name for name, _ in model.named_parameters()][0]
        '0.weight'
    """

    def __init__(
        self,
        form: str = "arctan",
        slope: float = 1.0,
        learnable: bool = True,
        margin: float = 0.9,
        targets: Sequence[str] | str | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
        if not slope > 0:
            raise ValueError(f"slope must be above 0, got {slope!r}")
        if not 0.0 < margin < 1.0:
            raise ValueError(f"margin must lie in (0, 1), got {margin!r}")
        self.form = form
        self.slope = slope
        self.learnable = learnable
        self.margin = margin
        self.targets = targets

    def prepare(self, model: nn.Module) -> None:
        """Put the map before the weight of every chosen layer."""
        chosen, seen = self._chosen(model), dict[int, str]()
        for name, module in chosen.items():
            if parametrize.is_parametrized(module, "weight") or hasattr(module, "weight_g"):
                why = f"the weight of {name!r} is parametrised already"
            elif id(module.weight) in seen:
                why = f"{seen[id(module.weight)]!r} and {name!r} share their weight"
            else:
                seen[id(module.weight)] = name
                continue
            raise TetherError(
                f"method {self.info.name!r}: {why}; name other layers with targets=[...]"
            )
        for module in chosen.values():
            learnable = self.learnable and module.weight.requires_grad
            mapped = Compander(module.weight, self.form, self.slope, self.margin, learnable)
            parametrize.register_parametrization(module, "weight", mapped)

    def _chosen(self, model: nn.Module) -> dict[str, Any]:
        layers = {n: m for n, m in model.named_modules() if isinstance(m, _KERNELS)}
        head = getattr(self, "head_name", "")
        if self.targets is None:
            found = {n: m for n, m in layers.items() if n != head}
        else:
            patterns = [self.targets] if isinstance(self.targets, str) else self.targets
            for pattern in patterns:
                if not any(fnmatch.fnmatchcase(name, pattern) for name in layers):
                    near = nearest(pattern, layers, most=3, listing=True)
                    raise TetherError(
                        f"method {self.info.name!r}: targets names {pattern!r}, but no convolution "
                        f"or linear layer is called so{near}"
                    )
            found = {n: m for n, m in layers.items()
                     if any(fnmatch.fnmatchcase(n, p) for p in patterns)}  # fmt: skip
        if not found:
            raise TetherError(
                f"method {self.info.name!r}: no convolution or linear layer below the head; name "
                "layers with targets=[...]"
            )
        return found

    def setup(self, ctx: Context) -> None:
        """Look that the map is in this model."""
        if not any(True for _ in self._maps(ctx.model)):
            raise TetherError(f"{ctx.name}: call tether.prepare on this very model first")

    @staticmethod
    def _maps(model: nn.Module) -> Iterator[tuple[Any, Compander]]:
        for module in model.modules():
            for mapped in getattr(getattr(module, "parametrizations", None), "weight", ()):
                if isinstance(mapped, Compander):
                    yield module, mapped

    def measure(self) -> dict[str, Any]:
        """Largest weight over its bound, and excess kurtosis of the weights, means over layers."""
        shares, kurtoses = [], []
        for module, mapped in self._maps(self.ctx.model):
            weight = module.weight
            whole = (weight.full_tensor() if hasattr(weight, "full_tensor") else weight).detach()
            wide = whole.flatten().double()
            shares.append(float(wide.abs().max() / mapped.pair()[0].double() / reach(self.form)))
            centred = wide - wide.mean()
            kurtoses.append(float(centred.pow(4).mean() / centred.square().mean().square() - 3.0))
        return {
            "bound_share": sum(shares) / len(shares),
            "kurtosis": sum(kurtoses) / len(kurtoses),
        }

    def finish(self, model: nn.Module) -> None:
        """Leave the weights themselves, under their own names and in their own order."""
        for module, _ in list(self._maps(model)):
            with torch.no_grad():
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            others = [name for name in module._parameters if name != "weight"]
            for name in others:
                module._parameters[name] = module._parameters.pop(name)

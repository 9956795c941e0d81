"""The unknowns of 3D Gaussian splatting's optimisation (arXiv 2308.04079, sections 4 and 5.1) with their Adam moments.

Clones and splits change how many Gaussians there are, so the moments are kept beside the values they belong to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.datatypes import Gaussians

NAMES = ("means", "log_scales", "quats", "logits", "colors")
_BETAS, _EPSILON = (0.9, 0.999), 1e-15
_SMALLEST, _FAINTEST = 1e-7, 1e-6


def logit(opacities: Tensor) -> Tensor:
    """The inverse of the sigmoid, finite for 0 and 1."""
    clamped = opacities.clamp(_FAINTEST, 1 - _FAINTEST)
    return torch.log(clamped / (1 - clamped))


class Splats:
    """N Gaussians as they are optimised: `values` holds means [N, 3], log_scales [N, 3], quats [N, 4] of any length,
    logits [N] and colors [N, 3] (sRGB, not clamped)."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.values = {
            "means": gaussians.means.detach().float().clone(),
            "log_scales": gaussians.scales.detach().float().clamp_min(_SMALLEST).log(),
            "quats": torch.nn.functional.normalize(gaussians.quats.detach().float(), dim=-1),
            "logits": logit(gaussians.opacities.detach().float()),
            "colors": gaussians.colors.detach().float().clone(),
        }
        self._first = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self._second = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self._steps = 0

    def __len__(self) -> int:
        return self.values["means"].shape[0]

    def leaves(self) -> dict[str, Tensor]:
        """The values as leaves that gather gradients; the memory is shared."""
        return {name: value.detach().requires_grad_() for name, value in self.values.items()}

    def gaussians(self) -> Gaussians:
        """As Gaussians within their bounds."""
        v = self.values
        return Gaussians(
            v["means"].clone(),
            v["log_scales"].exp(),
            torch.nn.functional.normalize(v["quats"], dim=-1),
            torch.sigmoid(v["logits"]),
            v["colors"].clamp(0, 1),
        )

    def step(self, gradients: dict[str, Tensor], rates: dict[str, float]) -> None:
        """One step of Adam, each kind of value at its own rate."""
        self._steps += 1
        bias_1, bias_2 = (1 - beta**self._steps for beta in _BETAS)
        for name in NAMES:
            # A Gaussian far outside every picture can have a gradient that is no number.
            gradient = torch.nan_to_num(gradients[name], nan=0.0, posinf=0.0, neginf=0.0)
            first, second = self._first[name], self._second[name]
            first.mul_(_BETAS[0]).add_(gradient, alpha=1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            scale = (second / bias_2).sqrt_().add_(_EPSILON)
            self.values[name].addcdiv_(first, scale, value=-rates[name] / bias_1)

    def replace(self, kept: Tensor, added: dict[str, Tensor]) -> None:
        """Keep the Gaussians of the mask [N], then append the `added` ones, which begin without momentum."""
        for name in NAMES:
            new = added[name]
            nothing = torch.zeros_like(new)
            self.values[name] = torch.cat([self.values[name][kept], new])
            self._first[name] = torch.cat([self._first[name][kept], nothing])
            self._second[name] = torch.cat([self._second[name][kept], nothing])

    def keep(self, kept: Tensor) -> None:
        """Drop the Gaussians outside the mask [N]."""
        self.replace(kept, {name: value[:0] for name, value in self.values.items()})

    def limit_opacity(self, most: float) -> None:
        """The opacity reset of section 5.2: nothing stays more opaque than `most`, and the momentum is forgotten."""
        self.values["logits"].clamp_(max=float(logit(torch.tensor(most))))
        self._first["logits"].zero_()
        self._second["logits"].zero_()

"""FedBN: normalisation stays at each site, everything else is averaged.

Li et al., *FedBN: Federated Learning on Non-IID Features via Local Batch Normalization*, ICLR 2021
(arXiv:2102.07623), Algorithm 1. A site's scanner or lab shifts the features; its own normalisation absorbs
the shift. Weights, biases and running statistics of batch norm layers are neither sent nor overwritten.

With `layers: all`, so do the scales and shifts of group, layer and instance normalisation (as FedBN on other layers than
batch norm; they have no running statistics, and serve where record-level privacy rules batch norm out). Under
record-level privacy what stays is trained with the same noise as what is sent.

The server's copy of those arrays stays as initialised, so the global model is meant to be used at the sites
that trained it: a central evaluation, or a site that never trained, runs with untrained normalisation; for batch norm,
without statistics, that says nothing, for the others it is a model without scales and shifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from strategies.base import ClientHalf, Strategy, StrategyError

if TYPE_CHECKING:
    from torch import nn


LAYERS = ("batch", "all")


class FedBNClient(ClientHalf):
    """Keeps every array of the normalisation layers at the site: of batch norm, or of all kinds."""

    def keeps(self, model: nn.Module) -> set[str]:
        return {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            if isinstance(module, self._kinds())
            for name in module.state_dict()
        }

    def _kinds(self) -> tuple[type[nn.Module], ...]:
        from torch import nn

        batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        if self.parameters.get("layers", "batch") == "batch":
            return batch
        instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
        return (*batch, *instance, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

    def begin(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        if not self.keeps(model):
            kind = (
                "batch norm layers" if self.parameters.get("layers", "batch") == "batch" else "normalisation"
            )
            cure = ", layers: all" if kind == "batch norm layers" else ""
            raise StrategyError(
                f"fedbn keeps {kind} at the site, but {type(model).__name__} has none; "
                f"choose a model that has them{cure}, or strategy fedavg",
                value=type(model).__name__,
            )


class FedBN(Strategy):
    """Averages what comes; the base leaves the arrays that no site sends as they are.

    Args:
        layers: `batch` keeps batch norm layers at the site; `all` also group, layer and instance norm.
        **settings: Those of the base.
    """

    client: ClassVar[type[ClientHalf] | None] = FedBNClient

    def __init__(self, layers: str = "batch", **settings: Any) -> None:
        if layers not in LAYERS:
            raise StrategyError(
                f"layers is {layers!r}; allowed: {', '.join(LAYERS)}", value=layers, allowed=LAYERS
            )
        super().__init__(**settings)

"""FedBN: batch normalisation stays at each site, everything else is averaged.

Li et al., *FedBN: Federated Learning on Non-IID Features via Local Batch Normalization*, ICLR 2021
(arXiv:2102.07623), Algorithm 1. A site's scanner or lab shifts the features; its own normalisation absorbs
the shift. Weights, biases and running statistics of batch norm layers are neither sent nor overwritten.

The server's copy of those arrays stays as initialised, so the global model is meant to be used at the sites
that trained it: a central evaluation, or a site that never trained, runs with untrained normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from strategies.base import ClientHalf, Strategy, StrategyError

if TYPE_CHECKING:
    from torch import nn


class FedBNClient(ClientHalf):
    """Keeps every array of a batch norm layer at the site."""

    def keeps(self, model: nn.Module) -> set[str]:
        from torch import nn

        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        return {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            if isinstance(module, kinds)
            for name in module.state_dict()
        }

    def begin(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        if not self.keeps(model):
            raise StrategyError(
                f"fedbn keeps batch norm layers at the site, but {type(model).__name__} has none; "
                "choose a model that has them, or strategy fedavg",
                value=type(model).__name__,
            )


class FedBN(Strategy):
    """Averages what comes; the base leaves the arrays that no site sends as they are."""

    client: ClassVar[type[ClientHalf] | None] = FedBNClient

"""What a forward pass does with a model's parameters, so that one backward pass gives every row's gradients in parts.

    1 forward     hooks keep each layer's input and the place of its output in the graph
    2 check       each trainable parameter is reached in the graph as often as hooks saw it used, no more, and from the losses by
                  way of the outputs that hooks saw alone
    3 backward    from the losses to these places only: gradients of outputs, none of parameters
    4 parts       input and gradient of output, layer by layer (`fedcore.learning.private.layers`)

The check finds what hooks cannot see: a weight that a function takes, a parameter of a module of one's own. Such a model is
`Unwatched`, and goes the general way (`fedcore.learning.private.general`).

Source: Bu et al., ICML 2023, arXiv 2210.00038 (one backward pass, without parameters' gradients).
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from fedcore.errors import JobError
from fedcore.learning.private import attention
from fedcore.learning.private.layers import RULES, Gradients, least_dimensions, linear_parts
from fedcore.learning.private.parts import Part, Rows, joined

Key = tuple[nn.Parameter, int, int]
"""A parameter, and of its first axis the rows from and to; the whole of it from 0 to its length."""


class Unwatched(Exception):
    """Why a model's gradients cannot be had in parts; says no values."""


@dataclass
class _Use:
    """One use of a module's parameters.

    Args:
        parameters: By the names that `parts` gives.
        rows: Of their first axis; None for all.
        parts: From input and gradient of output.
        inputs: As they came, with rows on the first axis.
        version: Of `inputs`, then.
        edge: Of the output.
        behind: What `inputs` come from, in the graph.
    """

    parameters: dict[str, nn.Parameter]
    rows: slice | None
    parts: Callable[[torch.Tensor, torch.Tensor], Gradients]
    inputs: torch.Tensor
    version: int
    edge: GradientEdge
    behind: Node | None


class Recorder:
    """Watches one forward pass of a model.

    Args:
        model: Its parameters that require gradients are watched.

    Raises:
        Unwatched: A layer with such parameters is not among those known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._watched: list[nn.Module] = []
        for name, module in model.named_modules():
            if type(module) is nn.MultiheadAttention:
                reason = attention.why_not(module)
            elif not any(p.requires_grad for p in module.parameters(recurse=False)):
                continue
            else:
                reason = None if type(module) in RULES else f"no rule for {type(module).__name__}"
            if reason is None and "forward" in vars(module):
                reason = "a forward of its own"
            if reason is not None:
                raise Unwatched(f"layer {name or '(the model)'}: {reason}")
            self._watched.append(module)
        self._least = {module: least_dimensions(module) for module in self._watched}
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self._uses: list[_Use] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are on inside, off after."""
        self._uses = []
        hooks = []
        patched: list[nn.Module] = []
        # With the cache one cast would serve two uses of a weight, and the check would count one.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            for module in self._watched:
                if isinstance(module, nn.MultiheadAttention):
                    module.forward = attention.patched(module, partial(self._attention, module))  # type: ignore[method-assign]
                    patched.append(module)
                else:
                    # Before other hooks, which may give another output.
                    hook = module.register_forward_hook(self._seen, with_kwargs=True, prepend=True)
                    hooks.append(hook)
            yield
        finally:
            torch.set_autocast_cache_enabled(cached)
            for hook in hooks:
                hook.remove()
            for module in patched:
                del module.forward

    def _seen(self, module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        inputs = args[0] if args else kwargs["input"]
        if inputs.dim() < self._least[module]:
            raise Unwatched(f"a {type(module).__name__} whose input has no axis of rows")
        # As `named_parameters` gives, without its generators.
        parameters = {name: p for name, p in module._parameters.items() if p is not None and p.requires_grad}
        self._use(parameters, None, partial(RULES[type(module)], module), inputs, output)

    def _attention(
        self, module: nn.MultiheadAttention, inputs: torch.Tensor, output: torch.Tensor, rows: slice
    ) -> None:
        named = {"weight": module.in_proj_weight, "bias": module.in_proj_bias}
        trainable = {name: p for name, p in named.items() if p is not None and p.requires_grad}
        if trainable:
            self._use(trainable, rows, partial(linear_parts, bias="bias" in trainable), inputs, output)

    def _use(
        self,
        parameters: dict[str, nn.Parameter],
        rows: slice | None,
        parts: Callable[[torch.Tensor, torch.Tensor], Gradients],
        inputs: torch.Tensor,
        output: torch.Tensor,
    ) -> None:
        if not output.requires_grad:
            return
        held = inputs.detach()
        behind = get_gradient_edge(inputs).node if inputs.requires_grad else None
        # A detached tensor has the version counter of the one it is from.
        self._uses.append(
            _Use(parameters, rows, parts, held, held._version, get_gradient_edge(output), behind)
        )

    def gradients(self, losses: torch.Tensor) -> dict[Key, Part]:
        """Every row's gradients, in parts.

        Args:
            losses: `[n]`, of the pass that was watched.

        Raises:
            Unwatched: Parameters are used where no hook sees it, or a layer's first axis is not the rows.
        """
        self._check(losses)
        edges = [use.edge for use in self._uses]
        found = torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ()
        by_key: dict[Key, list[Part]] = defaultdict(list)
        with torch.no_grad(), without_autocast(losses.device):
            for use, gradient in zip(self._uses, found, strict=True):
                if gradient is None:
                    continue
                if use.inputs._version != use.version:
                    raise Unwatched("a layer's input is changed in place after it was used")
                made = use.parts(*_alike(use.inputs, gradient))
                if not use.parameters.keys() <= made.keys():
                    raise Unwatched("a layer has parameters besides those of its kind")
                for name, part in made.items():
                    parameter = use.parameters.get(name)
                    if parameter is not None:
                        rows = use.rows or slice(0, parameter.shape[0])
                        by_key[parameter, rows.start, rows.stop].append(part)
            self._uses = []
            return {key: joined(parts) for key, parts in _apart(by_key).items()}

    def _check(self, losses: torch.Tensor) -> None:
        seen: Counter[nn.Parameter] = Counter()
        for use in self._uses:
            seen.update(use.parameters.values())
            if use.inputs.shape[0] != losses.shape[0]:
                raise Unwatched("a layer's first axis is not that of the rows")
        trainable = set(self.trainable)
        hidden = _reached(losses, trainable) - seen
        if not hidden:
            # An output that is changed in place, or thrown away, is one that the graph may go around.
            hidden = _reached(losses, trainable, {use.edge.node: use.behind for use in self._uses})
        if hidden:
            raise Unwatched(f"{len(hidden)} parameters are used outside of their layers")


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """No casts of mixed precision inside; nothing where there are none, which is faster."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def _apart(by_key: dict[Key, list[Part]]) -> dict[Key, list[Part]]:
    """Keys of one parameter as they are where their rows are apart, as gradients of the whole where they are not."""
    if len({parameter for parameter, _, _ in by_key}) == len(by_key):
        return by_key
    spans: dict[nn.Parameter, list[tuple[int, int]]] = defaultdict(list)
    for parameter, start, stop in by_key:
        spans[parameter].append((start, stop))
    found: dict[Key, list[Part]] = {}
    for parameter, own in spans.items():
        own.sort()
        if all(one[1] <= other[0] for one, other in itertools.pairwise(own)):
            found.update({(parameter, *span): by_key[parameter, *span] for span in own})
            continue
        total = None
        for start, stop in own:
            each = joined(by_key[parameter, start, stop]).each()
            if total is None:
                total = each.new_zeros(len(each), *parameter.shape)
            total[:, start:stop] += each
        if total is not None:
            found[parameter, 0, len(parameter)] = [Rows(total)]
    return found


def _alike(inputs: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the wider of their types, and in float32 at least: a sum of squares of half precision overflows."""
    if inputs.dtype == gradient.dtype == torch.float32:
        return inputs, gradient
    wide = torch.promote_types(gradient.dtype, torch.float32)
    if inputs.is_floating_point():
        wide = torch.promote_types(inputs.dtype, wide)
        inputs = inputs.to(wide)
    return inputs, gradient.to(wide)


def _reached(
    losses: torch.Tensor, parameters: set[nn.Parameter], seen: dict[Node, Node | None] | None = None
) -> Counter[nn.Parameter]:
    """How often the graph of the losses takes each parameter.

    Args:
        losses: Where it ends.
        parameters: Those that count.
        seen: What goes through these does not count: each node is left for what stands with it.
    """
    seen = seen or {}
    if losses.grad_fn is None:
        raise JobError("the losses do not depend on any parameter that is trained; unfreeze one")
    taken: list[nn.Parameter] = []
    waiting: list[Node] = [losses.grad_fn]
    known: set[Node] = {losses.grad_fn}
    while waiting:
        last = waiting.pop()
        for node in [seen[last]] if last in seen else [node for node, _ in last.next_functions]:
            if node is None:
                continue
            if node not in known:
                variable = getattr(node, "variable", None)
                if variable is None:
                    known.add(node)
                    waiting.append(node)
                elif variable in parameters:
                    taken.append(variable)
    return Counter(taken)

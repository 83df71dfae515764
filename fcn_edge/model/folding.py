"""Batch norm folded into the convolutions before it, as inference wants it; knows nothing about files or training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UsageError


def folded(backbone: nn.Module) -> torch.fx.GraphModule:
    """A backbone in eval mode with each batch norm that follows a convolution folded into it; names are kept."""
    # torch.fx.experimental.optimization.fuse does the same, but importing it warns of deprecation.
    graph = traced(backbone)
    modules = dict(graph.named_modules())
    for conv, norm in _pairs(graph):
        fused = fuse_conv_bn_eval(modules[conv.target], modules[norm.target])
        graph.set_submodule(conv.target, fused)
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def traced(backbone: nn.Module) -> torch.fx.GraphModule:
    """The backbone as a graph of its convolutions, norms and sums; it shares the backbone's modules."""
    return torch.fx.GraphModule(backbone, _Tracer().trace(backbone))


def conv_norm_pairs(backbone: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution that only a batch norm reads, and of that batch norm."""
    return [(conv.target, norm.target) for conv, norm in _pairs(traced(backbone))]


def modules_before(backbone: nn.Module, stride: int) -> list[str]:
    """Names of the modules that the features at a stride are made by.

    Raises:
        UsageError: if the backbone has no features at that stride.
    """
    graph = traced(backbone).graph
    (answer,) = next(node for node in graph.nodes if node.op == "output").args
    if stride not in answer:
        raise UsageError(f"the backbone has no features at stride {stride}; it has them at {sorted(answer)}: use one")
    waiting, found = [answer[stride]], dict[torch.fx.Node, None]()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += node.all_input_nodes
    return [node.target for node in graph.nodes if node in found and node.op == "call_module"]


def _pairs(graph: torch.fx.GraphModule) -> list[tuple[Any, Any]]:
    """The graph's nodes of each convolution that only a batch norm reads, and of that batch norm."""
    modules = dict(graph.named_modules())
    found = []
    for norm in graph.graph.nodes:
        if norm.op != "call_module" or not isinstance(modules[norm.target], nn.BatchNorm2d):
            continue
        conv = norm.args[0]
        if conv.op == "call_module" and isinstance(modules[conv.target], nn.Conv2d) and len(conv.users) == 1:
            found.append((conv, norm))
    return found


class _Tracer(torch.fx.Tracer):
    """Looks through every Sequential, since a slice of one is no submodule of the backbone and has no name."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one node of the graph: torch's own are, and every convolution."""
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The module's answer as a node of the graph."""
        if isinstance(m, nn.Sequential):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

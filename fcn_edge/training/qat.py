"""Quantisation-aware fine-tuning: rounding where an INT8 file will round; knows nothing about files or optimisers.

Rounding stands exactly where :mod:`fcn_edge.export.qdq` puts QuantizeLinear and DequantizeLinear: on the input of every
convolution but the first and those that make scores, on both inputs of an addition that such convolutions feed, and on
these convolutions' weights. Steps of activations are learned (Esser et al., "Learned Step Size Quantization", ICLR
2020); that of a weight is its channel's largest value divided by 127, as in the file. Batch norm is folded first and
stays so (Jacob et al., CVPR 2018, with statistics frozen); weights are then learned in units of their channel's
largest.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import FcnEdgeError
from ..model.depthwise import convolved
from ..model.fcn import FCN
from ..model.folding import folded

_LEVELS = 127
_QUANTISERS = "quantisers"
_SAMPLE = 4096
_CLIPS = 40
_SMALLEST_NORMAL, _LARGEST = (torch.finfo(torch.float16).tiny, torch.finfo(torch.float16).max)


def quantised(model: FCN) -> FCN:
    """A copy of a model that rounds as its INT8 file will; its batch norm is folded.

    Args:
        model: trained; it is not changed.

    Returns:
        An FCN whose backbone holds a :class:`Quantiser` for each rounded activation, under the name of
        its place, and a :class:`QuantisedConv` for each convolution that will multiply integers. Its steps are those
        of :func:`measure_steps`, which is to be called next, or of a state dict that is loaded into it.
    """
    result = copy.deepcopy(model)
    graph = folded(result.backbone.eval())
    _drop_identities(graph)
    graph.add_module(_QUANTISERS, nn.ModuleDict())
    for node, place in _rounded(graph):
        target = f"{_QUANTISERS}.{place.replace('.', '/')}"
        graph.add_submodule(target, Quantiser())
        with graph.graph.inserting_after(node):
            rounding = graph.graph.call_module(target, (node,))
        for reader in list(node.users):
            if reader is not rounding:
                reader.replace_input_with(node, rounding)
    for name in _layers(graph):
        graph.set_submodule(name, QuantisedConv(graph.get_submodule(name)))  # type: ignore[arg-type]
    graph.recompile()
    result.backbone = graph
    return result


def is_quantised(state: Iterable[str]) -> bool:
    """Whether the names of a state dict are those of a model that :func:`quantised` made."""
    return any(name.startswith(f"backbone.{_QUANTISERS}.") for name in state)


def unquantised(model: FCN) -> FCN:
    """A copy of a model that :func:`quantised` made, with its weights but no rounding: what is written as FP32."""
    result = copy.deepcopy(model)
    graph: torch.fx.GraphModule = result.backbone  # type: ignore[assignment]
    for node in list(graph.graph.nodes):
        if node.op != "call_module":
            continue
        module = graph.get_submodule(node.target)
        if isinstance(module, Quantiser):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif isinstance(module, QuantisedConv):
            graph.set_submodule(node.target, module.plain())
    graph.delete_submodule(_QUANTISERS)
    graph.recompile()
    return result


def learned_steps(model: FCN) -> dict[str, float]:
    """The step of each rounded activation by its place, as it stands in an INT8 file (exact in FP16).

    A place is ``backbone.s8.block0.body.0.0:input`` for what a convolution reads, or ``...:output`` for what only an
    addition reads; :func:`fcn_edge.export.qdq.places` gives the same names to the tensors of a graph.
    """
    quantisers = getattr(model.backbone, _QUANTISERS)
    return {_place_of(name): float(module.step().detach()) for name, module in quantisers.items()}


@torch.no_grad()
def measure_steps(model: FCN, images: Iterable[Tensor]) -> None:
    """Give each rounded activation the step with the least squared error of rounding.

    Args:
        model: as :func:`quantised` makes it; its steps are set.
        images: uint8 or float batches ``[N, 3, H, W]`` BGR 0 to 255.

    Raises:
        FcnEdgeError: if an activation is not finite, or there are no images.
    """
    quantisers = dict(getattr(model.backbone, _QUANTISERS).items())
    seen: dict[str, list[Tensor]] = {place: [] for place in quantisers}
    largest = dict.fromkeys(quantisers, 0.0)

    def observe(place: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> Tensor:
            values = inputs[0].detach().abs().flatten().float()
            largest[place] = max(largest[place], float(values.max()))
            seen[place].append(values[torch.randint(len(values), (_SAMPLE,), generator=generator).to(values.device)])
            return inputs[0]  # what follows shall see what the network computes without rounding

        return hook

    generator = torch.Generator().manual_seed(0)
    hooks = [module.register_forward_hook(observe(place)) for place, module in quantisers.items()]
    training = model.training
    model.eval()
    try:
        for batch in images:
            model.features(batch)
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    for place, module in quantisers.items():
        values = torch.cat(seen[place]) if seen[place] else torch.empty(0)
        if not len(values) or not bool(torch.isfinite(values).all()):
            raise FcnEdgeError(
                f"the values of {_place_of(place)} cannot be measured ({len(values)} seen, largest "
                f"{largest[place]:g}); quantisation-aware training needs images and a checkpoint whose activations "
                "are finite"
            )
        module.set_step(_least_error(values, max(largest[place], 1e-4)))


@torch.no_grad()
def correct_biases(model: FCN, images: Iterable[Tensor]) -> None:
    """Take what the rounding of weights adds to a convolution's mean output out of its bias.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, as
    :mod:`fcn_edge.export.bias_correction` does for what is calibrated.

    Args:
        model: as :func:`quantised` makes it; its biases are changed.
        images: as for :func:`measure_steps`.
    """
    layers = {name: module for name, module in model.backbone.named_modules() if isinstance(module, QuantisedConv)}
    plain = unquantised(model).eval()
    means: dict[str, list[Tensor]] = {name: [] for name in layers}

    def observe(name: str) -> Any:
        return lambda _, inputs: means[name].append(inputs[0].float().mean((0, 2, 3)))

    for name in layers:
        plain.backbone.get_submodule(name).register_forward_pre_hook(observe(name))
    for batch in images:
        plain.features(batch)
    for name, conv in layers.items():
        seen = torch.stack(means[name]).mean(0).view(conv.groups, 1, -1)
        error = _rounding_error(conv.weight * conv.unit)
        summed = error.sum((2, 3)).view(conv.groups, conv.out_channels // conv.groups, -1)
        assert conv.bias is not None  # for the type checker: batch norm is folded into it
        conv.bias.sub_((summed * seen).sum(2).flatten())


def _place_of(name: str) -> str:
    """The place of the quantiser of this name; a module's name holds no dots."""
    return f"backbone.{name.replace('/', '.')}"


def _least_error(values: Tensor, largest: float) -> float:
    """The step of the clipping, of 40 between a tenth of the largest value and all of it, with the least error."""
    steps = largest / _LEVELS * torch.linspace(0.1, 1.0, _CLIPS, device=values.device)
    errors = [float((_rounding(values, step) - values).square().mean()) for step in steps]
    return float(steps[min(range(_CLIPS), key=errors.__getitem__)])


class Quantiser(nn.Module):
    """Rounds an activation to int8 steps; the step is learned, as its logarithm, so that it stays positive."""

    def __init__(self) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.zeros(()))

    def step(self) -> Tensor:
        """The step, float32, exact in FP16: the files hold it so."""
        return _in_half(self.log_step.exp())

    def set_step(self, step: float) -> None:
        """Start with this step."""
        with torch.no_grad():
            self.log_step.fill_(step).log_()

    def forward(self, maps: Tensor) -> Tensor:
        """Float maps of any shape, rounded."""
        rounded: Tensor = _Round.apply(maps, self.step())  # type: ignore[no-untyped-call]
        return rounded


class QuantisedConv(nn.Conv2d):
    """A convolution whose weights are rounded to int8 steps, one step for each output channel.

    Its parameter ``weight`` is in units of the channel's largest weight at the start. Adam moves every weight by the
    learning rate, and with batch norm folded in, channels differ by a factor of a thousand: the same rate would wear
    small ones away and hardly move large ones.

    Attributes:
        unit: float32 ``[out, 1, 1, 1]``, what ``weight`` is multiplied by; it is not learned.
    """

    unit: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(**_geometry(conv), device="meta")
        largest = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True)
        self.register_buffer("unit", torch.where(largest > 0, largest, torch.ones_like(largest)))
        self.weight, self.bias = nn.Parameter(conv.weight.detach() / self.unit), conv.bias

    def forward(self, maps: Tensor) -> Tensor:
        """As a convolution."""
        exact = self.weight * self.unit
        # The value is the rounded weight's, the gradient goes to the weight itself (straight-through estimator).
        return convolved(self, maps, exact + _rounding_error(exact.detach()), self.bias)

    def plain(self) -> nn.Conv2d:
        """The convolution without rounding, with the same weights."""
        conv = nn.Conv2d(**_geometry(self), device="meta")
        conv.weight, conv.bias = nn.Parameter(self.weight.detach() * self.unit), self.bias
        return conv.train(self.training)


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """What a convolution like this one is made with, its parameters aside."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    return {name: getattr(conv, name) for name in names}


class _Round(torch.autograd.Function):
    """Rounding to steps; gradients of values and step are those of LSQ."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(maps, step)
        return _rounding(maps.float(), step).to(maps.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        maps, step = ctx.saved_tensors
        scaled = maps.float() / step
        rounded = scaled.round()
        inside = (rounded >= -_LEVELS - 1) & (rounded <= _LEVELS)
        of_step = torch.where(inside, rounded - scaled, rounded.clamp(-_LEVELS - 1, _LEVELS))
        # LSQ's scale of the step's gradient, so that steps and weights learn at like speeds.
        share = (gradient.float() * of_step).sum() / (maps.numel() * _LEVELS) ** 0.5
        return gradient * inside, share


class _Half(torch.autograd.Function):
    """Rounds to the nearest FP16 number that has its full precision, and back; the gradient passes."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clamp(_SMALLEST_NORMAL, _LARGEST).half().float()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def _in_half(value: Tensor) -> Tensor:
    rounded: Tensor = _Half.apply(value)  # type: ignore[no-untyped-call]
    return rounded


def _rounding_error(weight: Tensor) -> Tensor:
    """What rounding adds to a convolution's weight ``[out, in / groups, k, k]``."""
    steps = _in_half(weight.abs().amax((1, 2, 3), keepdim=True) / _LEVELS)
    return (weight / steps).round_().clamp_(-_LEVELS, _LEVELS).mul_(steps).sub_(weight)


def _rounding(values: Tensor, step: Tensor) -> Tensor:
    return (values / step).round_().clamp_(-_LEVELS - 1, _LEVELS).mul_(step)


def _drop_identities(graph: torch.fx.GraphModule) -> None:
    """Let those that read an identity read what it reads: in a file there is only one tensor."""
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _layers(graph: torch.fx.GraphModule) -> list[str]:
    """Names of the convolutions that will multiply integers: all of the backbone's but the first."""
    modules = dict(graph.named_modules())
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    return [node.target for node in nodes if isinstance(modules[node.target], nn.Conv2d)][1:]


def _rounded(graph: torch.fx.GraphModule) -> list[tuple[torch.fx.Node, str]]:
    """Nodes whose output is rounded, each with its place, in their order."""
    layers = set(_layers(graph))

    def is_layer(node: Any) -> bool:
        return isinstance(node, torch.fx.Node) and node.op == "call_module" and node.target in layers

    modules = dict(graph.named_modules())
    found: dict[torch.fx.Node, None] = {}
    for node in graph.graph.nodes:
        if is_layer(node):
            found[node.args[0]] = None
        elif node.op == "call_function" and node.target is operator.add:
            terms = [_unresized(term) for term in node.args]
            convs = [term for term in terms if term.op == "call_module" and isinstance(modules[term.target], nn.Conv2d)]
            if convs and all(is_layer(conv) for conv in convs):
                found.update(dict.fromkeys(terms))
    places = []
    for node in found:
        readers = sorted(str(user.target) for user in node.users if is_layer(user))
        places.append((node, f"{readers[0]}:input" if readers else f"{node.target}:output"))
    return places


def _unresized(node: torch.fx.Node) -> torch.fx.Node:
    """The node whose values another one copies to another size, which is where a file rounds them."""
    while node.op == "call_function" and node.target is F.interpolate:
        (node,) = node.all_input_nodes[:1]  # behind it stand those that tell the size
    return node

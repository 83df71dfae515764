"""What quantising each layer costs in labels, and which layers to keep out for it; knows nothing about ranges.

Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import GateError
from .candidates import Calibrated, Judge, OnProgress
from .qdq import placement


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer costs.

    Attributes:
        layer: name of the convolution.
        alone: agreement with FP32 where nothing but this layer is quantised.
        without: agreement with FP32 where everything but this layer is quantised.
    """

    layer: str
    alone: float
    without: float


def sensitivity(
    known: Calibrated, method: str, keep: Sequence[str] = (), on_progress: OnProgress | None = None
) -> tuple[LayerSensitivity, ...]:
    """Quantise only one layer, and all but one, for each layer that is not kept out.

    Returns:
        One entry for each layer, in the order in which they run. All but one is what counts in a file; where a layer is
        the last but one of those that feed an addition, keeping it out frees the addition too.
    """
    layers = placement(known.model, keep).layers
    found = []
    for index, layer in enumerate(layers, 1):
        others = [other for other in layers if other != layer]
        alone = known.agreement(known.int8(method, [*keep, *others]))
        # With a single layer left, to keep it out is to quantise nothing.
        without = known.agreement(known.int8(method, [*keep, layer])) if others else 1.0
        found.append(LayerSensitivity(layer, alone, without))
        if on_progress:
            on_progress("quantising layer by layer", index, len(layers))
    return tuple(found)


def layers_to_keep(
    known: Calibrated,
    method: str,
    keep: Sequence[str],
    min_agreement: float,
    on_progress: OnProgress | None = None,
    judge: Judge | None = None,
) -> tuple[tuple[str, ...], float]:
    """Keep out more layers, those first whose absence helps most, until the labels agree with FP32's.

    A judge is asked of candidates whose labels agree, and more layers go until it has no objection.

    Returns:
        ``keep`` with the layers that were added, and the agreement reached.

    Raises:
        GateError: if it is not reached, or the judge not content, while a layer is left to quantise.
    """
    rows = sorted(sensitivity(known, method, keep, on_progress), key=lambda row: row.without, reverse=True)
    kept, best, objection = tuple(keep), known.agreement(known.int8(method, keep)), ""
    for count, row in enumerate(rows[:-1], 1):
        kept = (*kept, row.layer)
        candidate = known.int8(method, kept)
        reached = known.agreement(candidate)
        if on_progress:
            on_progress("keeping layers out", count, len(rows) - 1)
        if reached >= min_agreement:
            objection = judge.objection(candidate) if judge else ""
            if not objection:
                return kept, reached
        best = max(best, reached)
    if objection:
        raise GateError(
            f"int8 fails its gate however many layers are kept out, at last: {objection}; ask for less, calibrate on "
            "more frames, or choose fp16"
        )
    raise GateError(
        f"int8 agrees with fp32 on at most {best:.3%} of the labels, with any number of layers kept out; expected "
        f"{min_agreement:.3%}: ask for less, calibrate on more frames, or export fp16"
    )

"""What goes into a plan and what comes out, checked against the contract and measured; knows nothing about memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..contract import Contract
from ..errors import ModelError

IMAGE = "image"
LABELS = "labels"


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; a side of -1 is chosen at run time, ``dtype`` is TensorRT's name of the type."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.name} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Bindings:
    """Shapes for one frame: uint8 ``image_shape`` ``(1, H, W, 3)`` in, one byte a pixel ``labels_shape`` out.

    Attributes:
        image_shape: of the tensor ``image``.
        labels_shape: of the tensor ``labels``.
        is_dynamic: whether the number of frames must be set before the engine runs.
    """

    image_shape: tuple[int, ...]
    labels_shape: tuple[int, ...]
    is_dynamic: bool


def bindings_of(tensors: Sequence[Tensor], contract: Contract) -> Bindings:
    """Shapes of an engine's one input and one output, for a single frame.

    Args:
        tensors: what the engine says that it takes and gives.
        contract: what its sidecar says.

    Raises:
        ModelError: if the engine takes or gives anything else than one frame and its labels.
    """
    height, width = contract.size_hw
    expected = (
        Tensor(IMAGE, "UINT8", (1, height, width, 3), True),
        Tensor(LABELS, "INT8", (1, height, width), False),
    )
    batches = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
    fixed = {Tensor(tensor.name, tensor.dtype, (1, *tensor.shape[1:]), tensor.is_input) for tensor in tensors}
    if fixed != set(expected) or len(tensors) != 2 or batches not in ({1}, {-1}):
        raise ModelError(
            f"the engine has {', '.join(map(str, tensors)) or 'no tensors'}; expected "
            f"{' and '.join(map(str, expected))}, of 1 frame or of -1"
        )
    return Bindings(expected[0].shape, expected[1].shape, batches == {-1})

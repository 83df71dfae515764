"""The contract: what goes into a model, what comes out, what the numbers mean; knows nothing about pixels or files.

It travels inside every file that is handed on: in a checkpoint as a dictionary, in an ONNX file as the metadata entry
``fcn_edge.contract``, beside an engine in its sidecar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from .errors import ModelError

METADATA_KEY = "fcn_edge.contract"
MAX_CLASSES = 256
MAX_SIDE = 8192


@dataclass(frozen=True)
class Contract:
    """What a model expects and what its answers mean.

    A frame is uint8 ``[height, width, 3]`` in ``color_order``. It is resized to ``size_hw`` (OpenCV's ``resize``
    interpolation), converted to float and normalised as ``(value - mean) / std``, channel by channel, in the order of
    the frame and on its scale of 0 to 255. The answer is one class id for each pixel, resized to the frame's own size
    by nearest neighbour.

    Attributes:
        model: name of the architecture, such as ``fcn8s-edge-n``.
        size_hw: (height, width) that the network is fed.
        class_names: one name for each class id.
        palette: one (red, green, blue) for each class id, 0 to 255.
        mean: subtracted from each channel of the frame.
        std: divides each channel of the frame.
        strides: strides of the score maps, coarse to fine, such as ``(32, 16, 8)``.
        ignore_id: mask value that never counts, or None if every id is a class.
        color_order: order of a frame's channels.
        resize: interpolation that brings a frame to ``size_hw``.
        version: version of this structure.
    """

    model: str
    size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    strides: tuple[int, ...]
    ignore_id: int | None = 255
    color_order: str = "BGR"
    resize: str = "linear"
    version: int = 1

    @property
    def num_classes(self) -> int:
        """Number of classes, 1 to 256."""
        return len(self.class_names)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ModelError(f"the model's contract is not usable: {problem}; export it again")


def contract_from_json(text: str | bytes) -> Contract:
    """Read a contract.

    Raises:
        ModelError: if the text is not JSON, a field is missing or has the wrong type, or the fields contradict.
    """
    try:
        return msgspec.json.decode(text, type=Contract)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeError) as exc:
        raise ModelError(f"the model's contract cannot be read: {exc}; export it again with this version") from exc


def contract_from_dict(fields: dict[str, Any]) -> Contract:
    """The contract from the dictionary that :func:`dict_from_contract` makes.

    Raises:
        ModelError: as for :func:`contract_from_json`.
    """
    try:
        return msgspec.convert(fields, type=Contract)
    except msgspec.ValidationError as exc:
        raise ModelError(f"the model's contract cannot be read: {exc}; export it again with this version") from exc


def json_from_contract(contract: Contract) -> str:
    """The contract as one line of JSON."""
    return msgspec.json.encode(contract).decode()


def dict_from_contract(contract: Contract) -> dict[str, Any]:
    """The contract as a dictionary of lists, numbers and strings."""
    fields: dict[str, Any] = msgspec.to_builtins(contract)
    return fields


def is_printable(name: str) -> bool:
    """Whether a name steers no terminal and can be written as UTF-8; joiners inside words may stand."""
    return all(sign.isprintable() or sign in "\u00a0\u200c\u200d" for sign in name)


def _problem(contract: Contract) -> str:
    """What is wrong with the contract, or an empty string."""
    count = len(contract.class_names)
    if not 1 <= count <= MAX_CLASSES:
        return f"it has {count} classes, expected 1 to {MAX_CLASSES}"
    for name in (contract.model, *contract.class_names):
        if not is_printable(name):
            return f"the name {name!a} holds a character that cannot be shown"
    if not all(name.strip() for name in contract.class_names):
        return "one of its classes has no name"
    if len(set(contract.class_names)) != count:
        return "two of its classes have the same name"
    if len(contract.palette) != count:
        return f"it has {len(contract.palette)} palette colours for {count} classes"
    if not all(0 <= value <= 255 for color in contract.palette for value in color):
        return "a palette value lies outside 0 to 255"
    if not all(1 <= side <= MAX_SIDE for side in contract.size_hw):
        return f"its size is {contract.size_hw[0]}x{contract.size_hw[1]}, expected sides of 1 to {MAX_SIDE}"
    if not all(0 < value < math.inf for value in contract.std):  # which a NaN is not
        return f"std is {contract.std}, expected positive numbers"
    if not all(map(math.isfinite, contract.mean)):
        return f"mean is {contract.mean}, expected finite numbers"
    is_power = bool(contract.strides) and contract.strides[-1] & (contract.strides[-1] - 1) == 0
    halved = all(coarse == 2 * fine for coarse, fine in zip(contract.strides, contract.strides[1:], strict=False))
    if not 1 <= len(contract.strides) <= 4 or not halved or not is_power or contract.strides[-1] < 2:
        return f"its strides are {contract.strides}, expected 1 to 4 powers of two, each half of the one before"
    if contract.ignore_id is not None and not count <= contract.ignore_id <= 255:
        return f"its ignore id {contract.ignore_id} is also a class or no uint8"
    if contract.color_order != "BGR" or contract.resize != "linear" or contract.version != 1:
        return (
            f"it asks for colour order {contract.color_order}, resize {contract.resize}, version {contract.version}; "
            "this release knows BGR, linear, 1"
        )
    return ""

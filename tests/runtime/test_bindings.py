from __future__ import annotations

import pytest

from fcn_edge.errors import ModelError
from fcn_edge.runtime.bindings import Bindings, Tensor, bindings_of

IMAGE = Tensor("image", "UINT8", (1, 45, 70, 3), True)
LABELS = Tensor("labels", "INT8", (1, 45, 70), False)


def test_static_engine(contract):
    assert bindings_of([IMAGE, LABELS], contract) == Bindings((1, 45, 70, 3), (1, 45, 70), is_dynamic=False)


def test_order_does_not_matter(contract):
    assert bindings_of([LABELS, IMAGE], contract) == bindings_of([IMAGE, LABELS], contract)


def test_engine_for_any_number_of_frames_is_run_with_one(contract):
    image = Tensor("image", "UINT8", (-1, 45, 70, 3), True)
    labels = Tensor("labels", "INT8", (-1, 45, 70), False)
    assert bindings_of([image, labels], contract) == Bindings((1, 45, 70, 3), (1, 45, 70), is_dynamic=True)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "no tensors"),
        ([IMAGE], r"output labels INT8 \[1, 45, 70\]"),
        ([IMAGE, LABELS, LABELS], "labels"),
        ([Tensor("image", "FLOAT", (1, 45, 70, 3), True), LABELS], "input image FLOAT"),
        ([IMAGE, Tensor("labels", "INT64", (1, 45, 70), False)], "INT64"),
        ([Tensor("image", "UINT8", (1, 3, 45, 70), True), LABELS], r"\[1, 3, 45, 70\]"),
        ([IMAGE, Tensor("labels", "INT8", (1, 46, 70), False)], r"\[1, 46, 70\]"),
        ([Tensor("image", "UINT8", (4, 45, 70, 3), True), Tensor("labels", "INT8", (4, 45, 70), False)], r"\[4, 45"),
        ([Tensor("image", "UINT8", (-1, 45, 70, 3), True), LABELS], r"\[-1, 45"),
        ([Tensor("x", "UINT8", (1, 45, 70, 3), True), LABELS], "input x"),
        ([Tensor("image", "UINT8", (1, 45, 70, 3), False), LABELS], "output image"),
        ([Tensor("image", "UINT8", (), True), LABELS], r"image UINT8 \[\]"),
    ],
)
def test_anything_else_is_refused(contract, tensors, said):
    with pytest.raises(ModelError, match=said) as caught:
        bindings_of(tensors, contract)
    assert "\n" not in str(caught.value)

"""Metrics against counts made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcn_edge.metrics import class_shares, confusion, miou, per_class_iou, pixel_accuracy

TARGET = np.array([[0, 0, 1, 1], [2, 255, 255, 0]], np.uint8)
PRED = np.array([[0, 1, 1, 1], [0, 2, 1, 0]], np.uint8)


def test_by_hand() -> None:
    matrix = confusion(PRED, TARGET, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.dtype == np.int64
    assert per_class_iou(matrix)[:3].tolist() == [0.5, 2 / 3, 0.0]
    assert math.isnan(per_class_iou(matrix)[3])  # in neither labels nor prediction
    assert miou(matrix) == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert pixel_accuracy(matrix) == pytest.approx(4 / 6)


def test_nothing_counts() -> None:
    matrix = confusion(PRED, np.full_like(PRED, 255), 3)
    assert matrix.sum() == 0
    assert math.isnan(miou(matrix))
    assert math.isnan(pixel_accuracy(matrix))


def test_all_256_ids_can_be_classes() -> None:
    ids = np.arange(256, dtype=np.uint8)
    assert miou(confusion(ids, ids, 256, ignore_id=None)) == 1


def test_refusals_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"pred has shape \(2,\)"):
        confusion(np.zeros(2, np.uint8), np.zeros(3, np.uint8), 2)
    for odd in (np.float32, np.bool_):
        with pytest.raises(ValueError, match=f"pred is {np.dtype(odd)}, expected integers"):
            confusion(PRED.astype(odd), np.zeros_like(PRED), 2)
        with pytest.raises(ValueError, match=f"target is {np.dtype(odd)}, expected integers"):
            confusion(np.zeros_like(PRED), PRED.astype(odd), 2)
    with pytest.raises(ValueError, match="pred has ids 2 to 2"):
        confusion(np.full_like(PRED, 2), np.zeros_like(PRED), 2)
    with pytest.raises(ValueError, match="or 255 to ignore"):
        confusion(np.zeros_like(TARGET), TARGET, 2)


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1, 1), (7, 0)])
@pytest.mark.parametrize("num_classes", [1, 11, 256])
def test_shares_are_those_counted_one_by_one(shape: tuple[int, int], num_classes: int) -> None:
    labels = np.random.default_rng(0).integers(0, num_classes, shape).astype(np.uint8)
    for seen in (labels, labels[::-1, ::-1], labels.T):
        shares = class_shares(seen, num_classes)
        counted = [np.count_nonzero(labels == number) for number in range(num_classes)]
        if labels.size:
            assert shares == [count / labels.size for count in counted]
        else:
            assert len(shares) == num_classes
            assert all(math.isnan(share) for share in shares)  # as every number of this file where nothing counts


def test_shares_of_what_is_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[class_shares\] labels have ids up to 200, expected 0 to 10"):
        class_shares(np.full((3, 5), 200, np.uint8), 11)
    with pytest.raises(ValueError, match="labels are int64, expected uint8"):
        class_shares(np.zeros((2, 2), np.int64), 11)

"""The contract survives its journeys and refuses what contradicts itself."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fcn_edge.contract import Contract, contract_from_dict, contract_from_json, dict_from_contract, json_from_contract
from fcn_edge.errors import ModelError

CONTRACT = Contract(
    "fcn8s-edge-n", (360, 480), ("a", "b"), ((0, 0, 0), (1, 2, 3)), (1.0, 2, 3), (1.0, 1, 2), (32, 16, 8)
)


def test_round_trips() -> None:
    assert contract_from_json(json_from_contract(CONTRACT)) == CONTRACT
    assert contract_from_dict(json.loads(json.dumps(dict_from_contract(CONTRACT)))) == CONTRACT


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("size_hw", (0, 480), "0x480"),
        ("size_hw", (360, 10**6), "1000000"),
        ("class_names", (), "0 classes"),
        ("class_names", ("a",), "2 palette colours for 1"),
        ("palette", ((0, 0, 256), (0, 0, 0)), "palette value"),
        ("std", (1.0, 0.0, 1.0), "positive"),
        ("std", (1.0, float("nan"), 1.0), "positive"),
        ("std", (1.0, float("inf"), 1.0), "positive"),
        ("mean", (1.0, float("nan"), 1.0), "finite"),
        ("mean", (1.0, float("-inf"), 1.0), "finite"),
        ("model", "fcn\x1b[2J", "cannot be shown"),
        ("class_names", ("a", "b\x1b[31m"), "cannot be shown"),
        ("class_names", ("a", "b\n"), "cannot be shown"),
        ("class_names", ("a", "\ud800"), "cannot be shown"),
        ("class_names", ("a", "a"), "same name"),
        ("class_names", ("a", ""), "no name"),
        ("class_names", ("a", " "), "no name"),
        ("strides", (6, 3), "powers of two"),
        ("strides", (32, 8), "half of the one before"),
        ("strides", (), "strides"),
        ("strides", (32, 16, 8, 4, 2), "1 to 4"),
        ("ignore_id", 1, "ignore id 1"),
        ("color_order", "RGB", "RGB"),
        ("version", 2, "version 2"),
    ],
)
def test_contradictions(field: str, value: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        dataclasses.replace(CONTRACT, **{field: value})
    with pytest.raises(ModelError):
        contract_from_dict({**dict_from_contract(CONTRACT), field: value})


def test_names_of_any_language() -> None:
    names = ("road \u00e9\u4eba", "\u067e\u06cc\u0627\u062f\u0647\u200c\u0631\u0648")
    assert dataclasses.replace(CONTRACT, class_names=names).class_names == names


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"model": 3}'])
def test_unreadable(text: str) -> None:
    with pytest.raises(ModelError, match="contract cannot be read"):
        contract_from_json(text)

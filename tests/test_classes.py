"""classes.json: what it may say, and a sentence for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_edge.classes import classes_from_json
from fcn_edge.errors import UsageError


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (None, "is missing"),
        ("{", "cannot be used"),
        ('{"names": []}', "names 0 classes"),
        ('{"names": ["a", "a"]}', "different names"),
        ('{"names": ["a\\u001b[2J"]}', "cannot be shown"),
        ('{"names": ["a", ""]}', "gives class 1 no name"),
        ('{"names": [" "]}', "gives class 0 no name"),
        ('{"names": ["a"], "palette": [[0, 0, 300]]}', "from 0 to 255"),
        ('{"names": ["a", "b"], "ignore_id": 1}', "ignore_id 1"),
        ('{"names": ["a"], "colour": 1}', "colour"),
    ],
)
def test_a_bad_classes_file(tmp_path: Path, classes: str | None, words: str) -> None:
    path = tmp_path / "classes.json"
    if classes is not None:
        path.write_text(classes)
    with pytest.raises(UsageError, match=words):
        classes_from_json(path)


def test_a_classes_file_of_an_editor_with_a_bom_is_read_and_one_in_another_code_told(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"names": ["straße"]}', encoding="utf-8-sig")
    assert classes_from_json(path).names == ("straße",)
    for code in ("latin-1", "utf-16"):
        path.write_text('{"names": ["straße"]}', encoding=code)
        with pytest.raises(UsageError, match=r"is not in UTF-8 .*; save it as UTF-8"):
            classes_from_json(path)

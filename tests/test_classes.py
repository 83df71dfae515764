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

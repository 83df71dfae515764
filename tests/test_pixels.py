"""Reading, resizing and writing: whole files only, and nothing half-written."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge.errors import DataError, MissingError, UsageError
from fcn_edge.pixels import fit_image, read_image, read_mask, replaced, require_cv2, restore_labels, write_png

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("No module named 'cv2'", "fcn-edge\\[cpu\\]"),
        ("libGL.so.1: cannot open shared object file: No such file or directory", "apt install libgl1"),
    ],
)
def test_what_opencv_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, remedy: str) -> None:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingError, match=f"{said}.*{remedy}"):
        require_cv2()


def test_png_round_trip(tmp_path: Path) -> None:
    write_png(tmp_path / "deep" / "x.png", IMAGE)
    assert np.array_equal(read_image(tmp_path / "deep" / "x.png"), IMAGE)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    data = cv2.imencode(ending, IMAGE)[1].tobytes()
    path = tmp_path / f"x{ending}"
    path.write_bytes(data)
    assert read_image(path).shape == IMAGE.shape
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="no readable image"):
        read_image(path)


def test_a_mask_is_one_uint8_channel(tmp_path: Path) -> None:
    write_png(tmp_path / "color.png", IMAGE)
    with pytest.raises(DataError, match="3 channels"):
        read_mask(tmp_path / "color.png")
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match="uint16"):
        read_mask(tmp_path / "deep.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(tmp_path / "missing.png")


def test_fit_image() -> None:
    assert fit_image(IMAGE, (20, 30)) is IMAGE
    assert np.array_equal(fit_image(IMAGE, (10, 60)), cv2.resize(IMAGE, (60, 10), interpolation=cv2.INTER_LINEAR))
    grey = IMAGE[..., 0]
    assert np.array_equal(fit_image(grey, (20, 30)), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(fit_image(np.dstack([IMAGE, grey]), (20, 30)), IMAGE)
    assert fit_image(IMAGE[:1, :1], (5, 7)).shape == (5, 7, 3)
    assert fit_image(IMAGE[:, ::2], (20, 15)).flags.c_contiguous
    for bad in (IMAGE.astype(np.float32), IMAGE[:0], IMAGE[..., :2], IMAGE[None]):
        with pytest.raises(UsageError, match="frame"):
            fit_image(bad, (20, 30))


def test_restore_labels_invents_no_class() -> None:
    labels = np.array([[1, 7], [7, 1]], np.uint8)
    assert restore_labels(labels, (2, 2)) is labels
    assert np.array_equal(restore_labels(labels, (4, 4)), labels.repeat(2, 0).repeat(2, 1))
    assert set(np.unique(restore_labels(labels, (5, 3)))) == {1, 7}


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail() -> None:
        with replaced(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

"""Histograms and ranges on distributions whose answer is known, and which frames are read."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest

pytest.importorskip("onnx")
cv2 = pytest.importorskip("cv2")

from fcn_edge.errors import DataError, ModelError, UsageError  # noqa: E402
from fcn_edge.export.calibration import (  # noqa: E402
    METHODS,
    Histogram,
    entropy_range,
    histogram_of,
    mse_range,
    percentile_range,
    scales_from,
    seen_from,
)
from fcn_edge.export.calibration_frames import read_frames  # noqa: E402
from fcn_edge.pixels import write_png  # noqa: E402


def drawn(values: np.ndarray) -> Histogram:
    return histogram_of(values.astype(np.float32))


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_histogram_counts_magnitudes_in_any_order() -> None:
    parts = [random().normal(0, scale, (3, 1000)).astype(np.float32) for scale in (1, 100, 0.01)]
    orders = ([0, 1, 2], [2, 1, 0], [1, 0, 2])
    found = []
    for order in orders:
        total = None
        for index in order:
            total = histogram_of(parts[index], total)
        found.append(total)
    everything = np.abs(np.concatenate(parts)).ravel()
    for total in found:
        assert total.largest == everything.max()
        assert total.width == found[0].width
        edges = np.arange(len(total.counts) + 1) * total.width
        np.testing.assert_array_equal(total.counts, np.histogram(everything, edges)[0])
        assert total.largest >= total.width * len(total.counts) / 2, "half of the bins are never used"


def test_histogram_of_nothing_but_zeros_and_of_a_power_of_two() -> None:
    zeros = drawn(np.zeros((4, 4)))
    assert (zeros.largest, zeros.counts[0], zeros.counts.sum()) == (0, 16, 16)
    power = drawn(np.array([2.0, -8.0]))
    assert (power.largest, power.counts.sum()) == (8, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(bad) -> None:
    with pytest.raises(ModelError, match="not finite"):
        histogram_of(np.array([1, bad], np.float32))


def test_minmax_is_the_largest() -> None:
    histogram = histogram_of(np.float32([0.5, -3.25]), drawn(np.float32([1, 2])))
    assert METHODS["minmax"](histogram) == 3.25


@pytest.mark.parametrize("percent", [50, 99, 99.9, 99.99])
def test_percentile_of_a_uniform_distribution(percent) -> None:
    values = np.linspace(0, 10, 200001)
    histogram = drawn(values)
    assert percentile_range(histogram, percent) == pytest.approx(percent / 10, abs=2 * histogram.width)
    assert percentile_range(histogram, 100) == pytest.approx(10, abs=histogram.width)


def test_percentile_leaves_out_a_thousandth() -> None:
    values = np.ones(10000)
    values[:9] = 100  # fewer than 1 in 1000, more than 1 in 10 000
    histogram = drawn(values)
    assert METHODS["percentile99.9"](histogram) == pytest.approx(1, abs=2 * histogram.width)
    assert METHODS["percentile99.99"](histogram) == 100


@pytest.mark.parametrize(("draw", "optimum"), [("normal", 3.92), ("laplace", 9.89)])
def test_least_squared_error_of_known_distributions(draw, optimum) -> None:
    """Banner et al., 2019: the best range of 8 bits, in deviations or scales; a sample has a thinner tail."""
    values = getattr(random(), draw)(0, 2.5, 2_000_000)
    assert mse_range(drawn(values)) / 2.5 == pytest.approx(optimum, rel=0.06)


def test_least_squared_error_is_least() -> None:
    values = np.concatenate([np.abs(random().normal(0, 1, 200_000)), [60.0] * 3]).astype(np.float32)
    histogram = drawn(values)

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(np.mean((np.clip(np.rint(values / step), -128, 127) * step - values) ** 2))

    best = mse_range(histogram)
    assert best < 60
    assert error(best) <= 1.02 * min(error(threshold) for threshold in np.geomspace(1, 60, 300))


def test_entropy_keeps_an_even_distribution_and_cuts_a_lonely_tail() -> None:
    even = random().uniform(0, 5, 400_000)
    assert entropy_range(drawn(even)) == pytest.approx(5, rel=0.01)
    relu = np.concatenate([np.zeros(400_000), even])  # zeros are exact whatever the range
    assert entropy_range(drawn(relu)) == pytest.approx(5, rel=0.01)
    tail = np.concatenate([even, random().uniform(5, 20, 40)])
    assert 4.9 < entropy_range(drawn(tail)) < 8


def test_every_method_stands_a_tensor_of_one_value_or_none() -> None:
    for values in (np.full(100, 4.0), np.zeros(100), np.array([1.0] * 99 + [2.0])):
        for name, choose in METHODS.items():
            found = choose(drawn(values))
            assert 0 <= found <= values.max(), name
            assert found >= 0.9 * values[0], name


def test_scales_are_a_127th_of_ranges_and_frames_add_up() -> None:
    def maps(*channels: float) -> np.ndarray:
        return np.broadcast_to(np.float32(channels).reshape(1, -1, 1, 1), (1, len(channels), 2, 3))

    seen = seen_from({"a": maps(value), "b": maps(-2 * value, 1)} for value in (1, 63.5, 3))
    assert scales_from(seen, "minmax") == {"a": 0.5, "b": 1.0}
    assert seen["a"].histogram.counts.sum() == 3 * 6
    np.testing.assert_allclose(seen["b"].means, [-45, 1], rtol=1e-6)
    assert scales_from(seen_from([{"dead": maps(0)}]), "mse")["dead"] > 0


# ---------------------------------------------------------------------------------------------------------- frames


@pytest.fixture
def folder(tmp_path):
    for index in range(20):
        write_png(tmp_path / f"{index:02}.png", np.full((10, 12, 3), index, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_frames_are_spread_and_every_third_is_held_out(folder) -> None:
    frames = read_frames(folder, (20, 24), 9)
    seen = [int(frame[0, 0, 0]) for frame in frames.calibrate], [int(frame[0, 0, 0]) for frame in frames.held_out]
    assert seen == ([0, 2, 7, 10, 14, 17], [5, 12, 19])
    assert {frame.shape for frame in (*frames.calibrate, *frames.held_out)} == {(20, 24, 3)}
    assert len(read_frames(folder, (10, 12), 100).calibrate) == 14


def test_the_digest_is_that_of_the_files_used_wherever_they_lie(folder, tmp_path) -> None:
    everything = read_frames(folder, (10, 12), 100)
    paths = sorted(folder.glob("*.png"))
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    assert everything.sha256 == hashlib.sha256(digests).hexdigest()
    other = tmp_path / "elsewhere"
    other.mkdir()
    for path in paths:
        (other / path.name).write_bytes(path.read_bytes())
    assert read_frames(other, (10, 12), 100).sha256 == everything.sha256
    assert read_frames(folder, (10, 12), 9).sha256 != everything.sha256
    assert read_frames(paths, (5, 5), 100).sha256 == everything.sha256


def test_a_data_set_gives_its_training_images(folder, tmp_path) -> None:
    root = tmp_path / "set"
    for part, value in (("train", 1), ("val", 2)):
        for index in range(9):
            write_png(root / part / f"{index}.png", np.full((4, 4, 3), value, np.uint8))
            write_png(root / f"{part}annot" / f"{index}.png", np.zeros((4, 4), np.uint8))
    frames = read_frames(root, (4, 4), 100)
    assert {int(frame.max()) for frame in (*frames.calibrate, *frames.held_out)} == {1}


def test_bad_frames_are_all_listed(folder) -> None:
    (folder / "03.png").write_bytes(b"")
    (folder / "07.png").write_bytes((folder / "08.png").read_bytes()[:40])
    with pytest.raises(DataError, match="2 frames") as failure:
        read_frames(folder, (10, 12), 100)
    assert [("03.png" in text, "07.png" in text) for text in failure.value.problems] == [(True, False), (False, True)]


def test_too_few_frames_and_no_folder(folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="names no image"):
        read_frames(tmp_path / "empty", (8, 8), 100)
    with pytest.raises(UsageError, match="is a variable empty"):
        read_frames("", (8, 8), 100)
    with pytest.raises(UsageError, match=r"there are 3 images.*at least 8"):
        read_frames(sorted(folder.glob("*.png"))[:3], (8, 8), 100)
    with pytest.raises(UsageError, match="max_frames is 2"):
        read_frames(folder, (8, 8), 2)
    with pytest.raises(UsageError, match="holds 1 images"):
        read_frames(folder / "00.png", (8, 8), 100)
    with pytest.raises(UsageError, match="names no image"):
        read_frames(folder / "nowhere", (8, 8), 100)


def test_a_glob_names_frames_too(folder) -> None:
    assert read_frames(f"{folder}/*.png", (8, 8), 100).sha256 == read_frames(folder, (8, 8), 100).sha256


def test_a_picture_beside_the_folders_of_a_data_set_is_none_of_its_images(tmp_path) -> None:
    for index in range(9):
        write_png(tmp_path / "train" / f"{index}.png", np.full((4, 4, 3), 1, np.uint8))
        write_png(tmp_path / "trainannot" / f"{index}.png", np.zeros((4, 4), np.uint8))
        write_png(tmp_path / f"grid{index}.png", np.full((4, 4, 3), 2, np.uint8))
    frames = read_frames(tmp_path, (4, 4), 100)
    assert {int(frame.max()) for frame in (*frames.calibrate, *frames.held_out)} == {1}
    shutil.rmtree(tmp_path / "trainannot")
    assert len(read_frames(tmp_path, (4, 4), 100).held_out) == 3, "a folder of images with folders in it"

"""The procedural street: the same at every call, exact labels, a world that moves as one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fcn_edge import classes, dataset, street
from fcn_edge.errors import UsageError
from fcn_edge.street.backdrop import paint_ground
from fcn_edge.street.canvas import Camera, Canvas, Texture, Tone
from fcn_edge.street.plan import street_from_seed, things

SIZE = (180, 240)
ID = {name: number for number, name in enumerate(street.CLASS_NAMES)}
PLAIN = Tone((1, 1, 1), 0.0, (0, 0, 0))


@pytest.fixture(scope="module")
def scenes():
    return [street.draw_street(seed, 10.0, SIZE) for seed in range(40)]


def digest(seed, time_s, size_hw):
    return hashlib.sha256(b"".join(part.tobytes() for part in street.draw_street(seed, time_s, size_hw))).hexdigest()


def run_python(code):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_names_and_colours_are_camvids():
    assert dict(zip(street.CLASS_NAMES, street.PALETTE, strict=True)) == classes.CAMVID


def test_same_picture_in_any_order_and_any_random_state():
    moments = [(3, 0.0), (3, 7.25), (4, 7.25), (3, 7.3), (5, 1000.0)]
    forward = [digest(*moment, SIZE) for moment in moments]
    np.random.seed(1)  # noqa: NPY002  the global state is what must not matter
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert [digest(*moment, SIZE) for moment in reversed(moments)] == forward[::-1]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert len(set(forward)) == len(moments)


def test_same_picture_in_a_new_process():
    code = (
        "import hashlib; from fcn_edge.street import draw_street; "
        "print(hashlib.sha256(b''.join(p.tobytes() for p in draw_street(11, 2.5, (90, 120)))).hexdigest())"
    )
    digest(12, 0.0, (90, 120))
    assert run_python(code).strip() == digest(11, 2.5, (90, 120))


def test_importing_the_street_does_not_import_opencv():
    assert run_python("import sys, fcn_edge.street; print('cv2' in sys.modules)").strip() == "False"


def test_result_belongs_to_the_caller():
    first, labels = street.draw_street(2, 1.0, SIZE)
    kept = first.copy(), labels.copy()
    first[:], labels[:] = 0, 0
    again = street.draw_street(2, 1.0, SIZE)
    assert (again[0] == kept[0]).all()
    assert (again[1] == kept[1]).all()


@pytest.mark.parametrize("size_hw", [(16, 16), (33, 47), (97, 31), (40, 501), (360, 480)])
def test_sizes(size_hw):
    for seed in range(3):
        image, labels = street.draw_street(seed, 3.0, size_hw)
        assert image.shape == (*size_hw, 3)
        assert labels.shape == size_hw
        assert image.dtype == labels.dtype == np.uint8
        assert image.flags.c_contiguous
        assert labels.flags.c_contiguous
        assert labels.max() < len(street.CLASS_NAMES)
        assert image.std() > 10


@pytest.mark.parametrize(
    ("seed", "time_s", "size_hw"),
    [
        (0, 0.0, (0, 480)),
        (0, 0.0, (360, 10**6)),
        (0, 0.0, (-5, 5)),
        (0, 0.0, (360.5, 480)),
        (0, 0.0, (360,)),
        (-1, 0.0, SIZE),
        (1.5, 0.0, SIZE),
        (0, -0.1, SIZE),
        (0, float("nan"), SIZE),
        (0, float("inf"), SIZE),
    ],
)
def test_bad_arguments_are_refused_in_words(seed, time_s, size_hw):
    with pytest.raises(UsageError, match="expected"):
        street.draw_street(seed, time_s, size_hw)


def test_every_class_has_its_share(scenes):
    counts = np.stack([np.bincount(labels.ravel(), minlength=len(ID)) for _, labels in scenes])
    share = dict(zip(ID, counts.sum(0) / counts.sum(), strict=True))
    seen = dict(zip(ID, (counts > 20).mean(0), strict=True))
    for name in ("Sky", "Building", "Road"):
        assert 0.05 < share[name] < 0.5, share
        assert seen[name] > 0.9
    for name in ("Pavement", "Tree", "Car"):
        assert 0.02 < share[name] < 0.25, share
        assert seen[name] > 0.85
    for name in ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist"):
        assert 0.003 < share[name] < 0.06, share
        assert seen[name] > 0.5, seen


def test_scenes_vary_in_light(scenes):
    means = np.array([image.reshape(-1, 3).mean(0) for image, _ in scenes])
    assert means.mean(1).std() > 12
    assert (means[:, 2] - means[:, 0]).std() > 6  # from cold to warm


def test_sky_is_above_and_brighter_than_the_road(scenes):
    rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE)
    for image, labels in scenes:
        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)
        sky, road = labels == ID["Sky"], labels == ID["Road"]
        assert road[-1].mean() > 0.3
        assert rows[sky].max() < np.median(rows[road])
        assert gray[sky].mean() > gray[road].mean()


@pytest.mark.parametrize("names", [("Car", "SignSymbol", "Pole"), ("Building", "Tree", "Fence"), ("Pavement",)])
def test_labels_lie_exactly_on_the_picture(scenes, names):
    """The picture's edges are strongest under the labels' borders where they are, not two pixels beside."""
    scores = {}
    for dy, dx in [(0, 0), (0, 2), (0, -2), (2, 0), (-2, 0)]:
        total = []
        for image, labels in scenes:
            soft = image.astype(np.float32)
            edge = np.abs(soft[:, 2:] - soft[:, :-2]).sum(2)[1:-1] + np.abs(soft[2:] - soft[:-2]).sum(2)[:, 1:-1]
            moved = np.roll(np.isin(labels, [ID[name] for name in names]), (dy, dx), (0, 1))
            border = (moved[1:-1, 2:] != moved[1:-1, :-2]) | (moved[2:, 1:-1] != moved[:-2, 1:-1])
            inner = np.s_[4:-4, 4:-4]
            if border[inner].any():
                total.append(edge[inner][border[inner]].mean() / edge[inner][~border[inner]].mean())
        scores[dy, dx] = np.mean(total)
    best = scores.pop((0, 0))
    assert best > 1.5, best
    assert max(scores.values()) < 0.93 * best, (best, scores)


@pytest.mark.parametrize("seed", [1, 4, 9])
def test_ground_stays_where_it_is_while_the_camera_moves(seed):
    plan, size_hw = street_from_seed(seed), (240, 320)
    z = np.linspace(507.0, 512.0, 60)
    ahead, across = (grid.ravel() for grid in np.meshgrid(z, np.linspace(-2.5, 2.5, 50), indexing="ij"))
    points = np.stack((plan.bend_at(ahead) + across, np.zeros_like(ahead), ahead), axis=1)
    samples = []
    for eye_z, shift in ((500.0, 0.0), (501.0, 0.0), (501.0, 1.5)):
        camera = Camera(300.0, 160.0, 100.0, (plan.bend(eye_z), 1.5, eye_z))
        canvas = Canvas(cv2, camera, np.zeros((*size_hw, 3), np.uint8), np.zeros(size_hw, np.uint8))
        paint_ground(canvas, seed)
        at = camera.project(points + np.array((0, 0, shift))).astype(np.float32)
        gray = cv2.cvtColor(canvas.image, cv2.COLOR_BGR2GRAY)
        sampled = cv2.remap(gray, at[None, :, 0].copy(), at[None, :, 1].copy(), cv2.INTER_LINEAR)
        samples.append((sampled.reshape(60, 50) - sampled.reshape(60, 50).mean(0)).ravel())
    assert np.corrcoef(samples[0], samples[1])[0, 1] > 0.6
    assert np.corrcoef(samples[0], samples[2])[0, 1] < 0.4


def test_the_world_moves_as_one():
    """What is seen at two moments is the same thing, a little further on."""
    for seed in range(6):
        plan, step = street_from_seed(seed), 1 / 30
        now, then = ({(t.kind, t.look, round(t.u, 3)): t for t in things(plan, time)} for time in (20.0, 20.0 + step))
        common = now.keys() & then.keys()
        assert len(common) > 0.9 * max(len(now), len(then)) > 20
        moved = np.array([then[key].z - now[key].z for key in common if key[0] != "lamp"])
        assert np.abs(moved).max() < 25 * step
        assert moved.min() < 0 < moved.max()
        assert plan.camera_z(20.0) < plan.camera_z(20.5) < plan.camera_z(60.0)


def test_video_is_smooth_and_the_road_comes_nearer():
    falls = []
    for seed in (1, 4, 6, 9):
        (first, labels), (second, labels_2), (_, later) = (
            street.draw_street(seed, time, (240, 320)) for time in (5.0, 5.0 + 1 / 30, 9.0)
        )
        assert (first != second).mean() > 0.5
        assert (labels == labels_2).mean() > 0.93
        assert (labels == later).mean() < (labels == labels_2).mean()
        grays = [cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (5, 5), 1.2) for image in (first, second)]
        flow = cv2.calcOpticalFlowFarneback(*grays, None, 0.5, 3, 21, 3, 7, 1.5, 0)
        edges = cv2.dilate((cv2.Canny(grays[0], 60, 120) > 0).astype(np.uint8), np.ones((3, 3)))
        ground = np.isin(labels, (ID["Road"], ID["Pavement"])) & (edges > 0)
        ground[:150] = False
        falls.append(np.median(flow[..., 1][ground]))
    assert np.mean(falls) > 0.3, falls


def new_canvas(size_hw=(60, 80)):
    camera = Camera(60.0, size_hw[1] / 2, size_hw[0] / 2, (0.0, 1.5, 0.0))
    return Canvas(cv2, camera, np.zeros((*size_hw, 3), np.uint8), np.zeros(size_hw, np.uint8))


@pytest.mark.parametrize("near", [4.0, 0.2, -3.0])
def test_textured_plane_paints_the_pixels_that_it_labels(near):
    canvas = new_canvas()
    texture = Texture((np.full((8, 8, 3), 200, np.uint8),))
    wall = np.array([1.2, 0.0, near]), np.array([0.3, 0.0, 20.0]), np.array([0.0, 4.0, 0.0])
    canvas.plane(*wall, texture, PLAIN, 7)
    assert 0 < (canvas.labels == 7).mean() < 1
    assert ((canvas.labels == 7) == (canvas.image[..., 0] == 200)).all()
    assert set(np.unique(canvas.labels)) == {0, 7}


def test_plane_leaves_holes_of_its_texture_open():
    canvas = new_canvas()
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 1
    texture = Texture((np.full((8, 8, 3), 90, np.uint8),), (mask,))
    card = np.array([-2.0, 0.0, 5.0]), np.array([4.0, 0.0, 0.0]), np.array([0.0, 3.0, 0.0])
    canvas.plane(*card, texture, PLAIN, 3)
    assert ((canvas.labels == 3) == (canvas.image[..., 0] > 0)).all()
    columns = np.flatnonzero((canvas.labels == 3).any(0))
    assert columns.min() == pytest.approx(40 - 2 * 12, abs=1.5)
    assert columns.max() == pytest.approx(40, abs=1.5)


def test_polygon_and_its_label_share_their_corners():
    canvas = new_canvas()
    square = np.array([(-1.0, 0.5, 5.0), (1.0, 0.5, 5.0), (1.0, 2.5, 5.0), (-1.0, 2.5, 5.0)])
    canvas.polygon(square, (255, 255, 255), 4)
    inside = cv2.erode((canvas.labels == 4).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    around = cv2.dilate((canvas.labels == 4).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    assert (canvas.image[inside] == 255).all()
    assert (canvas.image[around] == 0).all()
    rows, columns = np.nonzero(canvas.labels == 4)  # the pinhole: 2 m at 5 m with a focal length of 60 pixels
    assert columns.max() - columns.min() == pytest.approx(2 / 5 * 60, abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((30 - 60 * 1.0 / 5, 30 + 60 * 1.0 / 5), abs=1)


def test_polygon_behind_the_camera_is_not_painted():
    canvas = new_canvas()
    canvas.polygon(np.array([(-1.0, 0.5, -5.0), (1.0, 0.5, -5.0), (1.0, 2.5, -2.0)]), (255, 255, 255), 4)
    assert not canvas.labels.any()
    assert not canvas.image.any()


def test_dataset_round_trip(tmp_path):
    street.write_dataset(tmp_path / "set", 3, 2, (48, 64), seed=5)
    found = dataset.open_dataset(tmp_path / "set")
    assert found.layout == "plain"
    assert found.class_names == street.CLASS_NAMES
    assert found.palette == street.PALETTE
    assert {split: len(samples) for split, samples in found.splits.items()} == {"train": 3, "val": 2}
    dataset.check(found, ("train", "val"))
    samples = [*found.samples("train"), *found.samples("val")]
    images = [dataset.read_sample(found, sample)[0] for sample in samples]
    assert len({image.tobytes() for image in images}) == 5
    drawn = street.draw_street(int(samples[0].name.split("_")[1]), 10.0, (48, 64))
    read = dataset.read_sample(found, samples[0])
    assert (read[0] == drawn[0]).all()
    assert (read[1] == drawn[1]).all()


def test_val_does_not_depend_on_train(tmp_path):
    street.write_dataset(tmp_path / "a", 0, 1, (32, 32))
    street.write_dataset(tmp_path / "b", 2, 1, (32, 32))
    first, second = (next((tmp_path / name / "images" / "val").iterdir()) for name in "ab")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("train", "val", "size_hw"), [(0, 0, SIZE), (-1, 2, SIZE), (10**7, 1, SIZE), (1, 1, (0, 9))])
def test_bad_dataset_is_refused_before_anything_is_written(tmp_path, train, val, size_hw):
    with pytest.raises(UsageError, match="expected"):
        street.write_dataset(tmp_path / "set", train, val, size_hw)
    assert not (tmp_path / "set").exists()

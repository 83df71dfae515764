"""A checkpoint as an engine: the labels of the network itself, its threads, and what it refuses."""

import numpy as np
import pytest
import torch

from fcn_edge.benchmarks.engines import open_any_engine
from fcn_edge.benchmarks.torch_engine import open_torch_engine
from fcn_edge.errors import EngineError, MissingError, ModelError, UsageError
from fcn_edge.pixels import fit_image, restore_labels
from fcn_edge.training.checkpoint import model_from_checkpoint

FRAME = np.random.default_rng(2).integers(0, 256, (32, 48, 3), np.uint8)


def labels_of(checkpoint, image):
    model, _ = model_from_checkpoint(checkpoint)
    with torch.no_grad():
        logits = model(torch.tensor(image).permute(2, 0, 1)[None])
    return logits.argmax(1)[0].numpy().astype(np.uint8)


def test_labels_are_those_of_the_network(small_checkpoint):
    with open_torch_engine(small_checkpoint, device="cpu") as engine:
        labels = engine.infer(FRAME)
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1  # else the next line could not fail
    np.testing.assert_array_equal(labels, labels_of(small_checkpoint, FRAME))


def test_a_frame_of_another_size_goes_the_way_of_every_engine(small_checkpoint):
    frame = np.random.default_rng(4).integers(0, 256, (50, 90, 3), np.uint8)
    expected = restore_labels(labels_of(small_checkpoint, fit_image(frame, (32, 48))), (50, 90))
    with open_torch_engine(small_checkpoint, device="cpu") as engine:
        np.testing.assert_array_equal(engine.infer(frame), expected)


def test_it_says_what_it_is_and_how_long_the_stages_took(small_checkpoint):
    with open_torch_engine(small_checkpoint, device="cpu") as engine:
        engine.infer(FRAME)
        assert (engine.backend, engine.precision, engine.gpu_mib) == ("torch", "fp32", None)
        assert engine.contract.class_names == ("road", "car", "sky", "tree")
        assert list(engine.stages_ms) == ["resize", "network", "head", "restore"]
        assert engine.stages_ms["network"] > 0
        assert engine.stages_ms["head"] > 0


def test_a_read_only_frame_is_no_trouble_and_stays_as_it_is(small_checkpoint):
    frame = FRAME.copy()
    frame.flags.writeable = False
    with open_torch_engine(small_checkpoint, device="cpu") as engine:
        first = engine.infer(frame)  # torch's warning about such an array would be an error here
        kept = first.copy()
        engine.infer(255 - frame)
    np.testing.assert_array_equal(first, kept)  # labels are the caller's own
    np.testing.assert_array_equal(frame, FRAME)


def test_threads_are_set_for_a_frame_and_given_back(small_checkpoint):
    before, seen = torch.get_num_threads(), []
    engines = [open_torch_engine(small_checkpoint, threads=before + more, device="cpu") for more in (1, 2)]
    for engine in engines:
        features = engine._model.features
        engine._model.features = lambda image, of=features: (seen.append(torch.get_num_threads()), of(image))[1]
        engine.infer(FRAME)
        assert torch.get_num_threads() == before
    engines[0].infer(FRAME)
    assert seen == [before + 1, before + 2, before + 1]
    for engine in engines:  # the first to be opened is the first to be closed
        engine.close()
    assert torch.get_num_threads() == before
    torch.set_num_threads(before + 3)
    engines[0].close()
    assert torch.get_num_threads() == before + 3, "the caller has set it since"
    torch.set_num_threads(before)


def test_a_failure_of_torch_is_an_engine_error(small_checkpoint):
    with open_torch_engine(small_checkpoint, device="cpu") as engine:
        engine._model.features = lambda image: image @ image  # shapes that cannot be multiplied
        with pytest.raises(EngineError, match="torch failed on cpu"):
            engine.infer(FRAME)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"threads": 0}, "0 threads"),
        *[({"threads": bad}, "give a whole number from 1 to 1024") for bad in (1.5, True, "2", 10**6)],
    ],
)
def test_options_that_mean_nothing_are_refused(small_checkpoint, options, words):
    with pytest.raises(UsageError, match=words):
        open_torch_engine(small_checkpoint, **options)


def test_a_missing_gpu_is_named(small_checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match="no CUDA GPU"):
        open_torch_engine(small_checkpoint, device="cuda")
    with open_torch_engine(small_checkpoint) as engine:  # auto falls back
        assert engine.name == small_checkpoint.name
        assert engine.gpu_mib is None


def test_a_model_is_told_by_its_suffix(small_checkpoint, small_onnx):
    for model, backend in ((small_checkpoint, "torch"), (small_onnx, "openvino"), ("echo://", "echo")):
        with open_any_engine(model, threads=1, device="cpu") as engine:
            assert engine.backend == backend


@pytest.mark.parametrize(("options", "words"), [({"device": "tpu"}, "'tpu'"), ({"precision_hint": "f64"}, "'f64'")])
def test_an_option_that_means_nothing_is_refused_for_every_kind_of_model(small_checkpoint, small_onnx, options, words):
    for model in (small_checkpoint, small_onnx, "echo://"):
        with pytest.raises(UsageError, match=f"{words} is unknown; expected one of"):
            open_any_engine(model, **options)


def test_a_bad_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be read: File name too long|does not exist"):
        open_any_engine(tmp_path / ("x" * 300 + ".pt"))
    with pytest.raises(ModelError, match="does not exist"):
        open_any_engine(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError):
        open_any_engine(tmp_path / "text.pt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
def test_the_gpu_gives_the_labels_of_the_cpu(small_checkpoint):
    with open_torch_engine(small_checkpoint, device="cuda") as engine:
        labels = engine.infer(FRAME)
        assert engine.gpu_mib > 0
    assert np.mean(labels == labels_of(small_checkpoint, FRAME)) > 0.999

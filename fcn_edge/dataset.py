"""Folders of images and masks: which layout it is, which classes, what is wrong with it; knows nothing about torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import pixels
from .classes import CAMVID, CAMVID_VOID, CITYSCAPES, IGNORE_ID, Classes, chosen_classes, classes_from_json
from .errors import DataError, UsageError
from .sequences import names_in

_SPLITS = ("train", "val", "test")
_CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_MASKS = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")


@dataclass(frozen=True)
class Sample:
    """An image with its mask; ``name`` is the image file's stem."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Dataset:
    """A data set on disk.

    Attributes:
        root: its folder.
        layout: ``camvid``, ``cityscapes`` or ``plain``.
        class_names: one name for each class id after mapping.
        palette: one (red, green, blue) for each class id.
        ignore_id: mapped mask value that never counts; None where all 256 ids are classes.
        id_map: 256 entries: mask value in the file -> class id, ``ignore_id``, or -1 for a value that is not allowed.
        mask_colors: (red, green, blue) of each mask value from 0 on, for masks that are coloured; empty: none may be.
        splits: samples of each split, in the order of their names.
        unpaired: for each split, a sentence for each file without its partner and each folder of images inside it.
        holdout: sequence of ``train`` that stands in for ``val``; empty: none, ``val`` is the folder's own.
        has_own_colors: whether ``mask_colors`` were given for these masks, so that a palette in a mask is held to them.
    """

    root: Path
    layout: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_id: int | None
    id_map: tuple[int, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    unpaired: Mapping[str, tuple[str, ...]]
    holdout: str = ""
    mask_colors: tuple[tuple[int, int, int], ...] = ()
    has_own_colors: bool = False

    def samples(self, split: str) -> tuple[Sample, ...]:
        """The samples of a split.

        Raises:
            UsageError: if there is no such split, or it is empty.
        """
        if not self.splits.get(split):
            known = ", ".join(name for name, found in self.splits.items() if found) or "none"
            why = f" ({self.unpaired[split][0]})" if self.unpaired.get(split) else ""
            raise UsageError(f"{self.root} has no images in split '{split}'{why}; the splits with images are: {known}")
        return self.splits[split]


def complete_samples(dataset: Dataset, split: str) -> tuple[Sample, ...]:
    """The samples of a split none of whose files lacks its partner: a number over the rest would pass for its number.

    Raises:
        DataError: if an image has no mask or a mask no image; ``problems`` lists them.
        UsageError: if there is no such split, or it is empty.
    """
    unpaired = dataset.unpaired.get(split, ())
    if unpaired:
        listing = "".join(f"\n  {problem}" for problem in unpaired)
        raise DataError(f"split '{split}' of {dataset.root} is incomplete; mend these files:{listing}", unpaired)
    return dataset.samples(split)


def open_dataset(root: str | Path, classes: str | Sequence[str] = (), holdout: str = "") -> Dataset:
    """Recognise a data set by its folders and list its samples; no pixel is read.

    Layouts: CamVid (``train/ trainannot/ val/ valannot/ test/ testannot/``, or some of the pairs), Cityscapes
    (``leftImg8bit/ gtFine/``), plain (``images/<split>/``, ``masks/<split>/``, ``classes.json`` with ``{"names": [...],
    "palette": [[r, g, b], ...], "ignore_id": 255}``, the last two optional).

    Args:
        root: the folder.
        classes: keep these classes, or this one, in this order; ``"vehicle=Car+Truck"`` merges several under a new
            name; pixels of all other classes are ignored. Empty: all classes.
        holdout: keep images whose name starts with ``HOLDOUT_`` for validation: they leave ``train`` and become
            ``val``, whose own images are left out.

    Raises:
        UsageError: if the folder has none of the layouts or cannot be read, or a class or the holdout does not exist.
    """
    if not str(root):
        raise UsageError("'' names no folder of data; is a variable empty?")
    root = Path(root)
    try:
        dataset = _open(root)
    except OSError as exc:
        place = exc.filename or root
        raise UsageError(
            f"data folder {place} cannot be read: {exc.strerror or exc}; allow it, or give another"
        ) from exc
    if holdout:
        dataset = _hold_out(dataset, holdout)
    return _choose_classes(dataset, names_in(classes)) if classes else dataset


def _open(root: Path) -> Dataset:
    """A data set by its folders, all of it."""
    if not root.is_dir():
        raise UsageError(f"data folder {root} does not exist; give the folder that holds the images and masks")
    if any((root / f"{split}annot").is_dir() for split in _SPLITS):
        return _open_camvid(root)
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return _open_cityscapes(root)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return _open_plain(root)
    found = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:8]) or "none"
    raise UsageError(
        f"{root} has no known layout (its folders: {found}); expected train/ trainannot/ val/ valannot/ (CamVid), "
        f"leftImg8bit/ gtFine/ (Cityscapes), or images/<split> masks/<split> classes.json{_way_from_splits(root)}"
    )


def open_dataset_for(
    root: str | Path, class_names: Sequence[str], classes: str | Sequence[str] = (), holdout: str = ""
) -> Dataset:
    """Open a data set with the classes asked for, or with those of a model that knows only some of its classes.

    Args:
        root: the folder.
        class_names: the model's classes.
        classes: as in :func:`open_dataset`; they go before the model's.
        holdout: as in :func:`open_dataset`.

    Returns:
        The data set; its classes are the model's only where these are among its own.

    Raises:
        UsageError: as :func:`open_dataset`.
    """
    dataset = open_dataset(root, classes, holdout)
    known = tuple(class_names)
    if not classes and known != dataset.class_names and set(known) <= set(dataset.class_names):
        return open_dataset(root, known, holdout)
    return dataset


def read_sample(dataset: Dataset, sample: Sample) -> tuple[pixels.Image, pixels.Labels]:
    """Read a sample: uint8 ``[h, w, 3]`` BGR and uint8 ``[h, w]`` class ids after the data set's mapping.

    Raises:
        DataError: if a file cannot be read, the sizes differ or the mask holds a value that is no class.
    """
    image, labels = pixels.read_image(sample.image), read_labels(dataset, sample)
    if image.shape[:2] != labels.shape:
        sizes = f"{image.shape[0]}x{image.shape[1]} and {labels.shape[0]}x{labels.shape[1]}"
        turned = ": is the photo turned by its EXIF?" if image.shape[:2] == labels.shape[::-1] else ""
        raise DataError(f"{sample.image} and its mask are {sizes}; they must be equal{turned}")
    return image, labels


def read_labels(dataset: Dataset, sample: Sample) -> pixels.Labels:
    """Read a sample's mask: uint8 ``[h, w]`` class ids after the data set's mapping.

    Raises:
        DataError: if the file cannot be read or holds a value that is no class.
    """
    raw = pixels.read_mask(sample.mask, dataset.mask_colors, is_own=dataset.has_own_colors)
    mapped = np.asarray(dataset.id_map, np.int16)[raw]
    if (mapped < 0).any():
        bad = sorted({int(value) for value in np.unique(raw) if dataset.id_map[value] < 0})
        raise DataError(
            f"{sample.mask} holds ids {bad[:8]}; expected 0 to {max(_file_ids(dataset))}"
            + (f" or {dataset.ignore_id} to ignore" if dataset.ignore_id is not None else "")
        )
    labels: pixels.Labels = mapped.astype(np.uint8)
    return labels


def check(dataset: Dataset, splits: Sequence[str], on_read: Callable[[int, int], None] | None = None) -> None:
    """Read every image and mask of the splits.

    Args:
        dataset: the data set.
        splits: names of the splits.
        on_read: called after each pair with the number of those read and of all.

    Raises:
        DataError: if there are problems; ``problems`` lists every one of them.
        UsageError: if a split has no images at all.
    """
    problems: list[str] = []
    done, total = 0, sum(len(dataset.splits.get(split, ())) for split in splits)
    for split in splits:
        problems += dataset.unpaired.get(split, ())
        for sample in dataset.splits.get(split, ()):
            try:
                read_sample(dataset, sample)
            except DataError as exc:
                problems.append(str(exc))
            done += 1
            if on_read is not None:
                on_read(done, total)
    if problems:
        listing = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(
            f"{dataset.root} has {len(problems)} problem(s); mend or remove these files:{listing}", problems
        )
    for split in splits:
        dataset.samples(split)


def _open_camvid(root: Path) -> Dataset:
    splits, unpaired = {}, {}
    for split in _SPLITS:
        splits[split], unpaired[split] = _pair_folders(root / split, root / f"{split}annot")
    id_map = (*range(len(CAMVID)), IGNORE_ID, *[-1] * (255 - len(CAMVID) - 1), IGNORE_ID)
    names, palette = tuple(CAMVID), tuple(CAMVID.values())
    colors = (*palette, CAMVID_VOID)
    return Dataset(root, "camvid", names, palette, IGNORE_ID, id_map, splits, unpaired, mask_colors=colors)


def _open_cityscapes(root: Path) -> Dataset:
    found = sorted((root / "gtFine").glob("*/*/*_gtFine_label*Ids.png"))
    ending = next((end for end in _CITYSCAPES_MASKS if any(path.name.endswith(end) for path in found)), None)
    if ending is None:
        raise UsageError(f"{root / 'gtFine'} holds no *_gtFine_labelTrainIds.png and no *_gtFine_labelIds.png masks")
    splits, unpaired = {}, {}
    for split in _SPLITS:
        chosen = [path for path in found if path.name.endswith(ending) and path.parent.parent.name == split]
        masks = [(path.name[: -len(ending)], path) for path in chosen]
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.*"))
        splits[split], unpaired[split] = _pair(images, masks, "_leftImg8bit")
    if ending == _CITYSCAPES_MASKS[0]:
        id_map = [*range(len(CITYSCAPES)), *[-1] * (255 - len(CITYSCAPES)), IGNORE_ID]
    else:
        id_map = [IGNORE_ID] * 34 + [-1] * 221 + [IGNORE_ID]
        for class_id, label_id in enumerate(_CITYSCAPES_LABEL_IDS):
            id_map[label_id] = class_id
    names, palette = tuple(CITYSCAPES), tuple(CITYSCAPES.values())
    return Dataset(root, "cityscapes", names, palette, IGNORE_ID, tuple(id_map), splits, unpaired)


def _open_plain(root: Path) -> Dataset:
    folders = _folders(root / "images")
    if not folders and _images(root / "images"):
        raise UsageError(
            f"{root / 'images'} holds images and no splits; expected a folder for each: move them to images/train and "
            "images/val, masks likewise"
        )
    classes = classes_from_json(root / "classes.json")
    splits, unpaired = {}, {}
    for folder in folders:
        splits[folder.name], unpaired[folder.name] = _pair_folders(folder, root / "masks" / folder.name)
    names, palette = classes.names, classes.palette
    return Dataset(
        root,
        "plain",
        names,
        palette,
        classes.ignore_id,
        classes.id_map,
        splits,
        unpaired,
        mask_colors=palette,
        has_own_colors=classes.has_palette,
    )


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in pixels.IMAGE_SUFFIXES


def _folders(folder: Path) -> list[Path]:
    """Folders inside it that are not hidden, as .ipynb_checkpoints is."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pair_folders(images: Path, masks: Path) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """As :func:`_pair`, of all files in two folders, and a sentence for each folder inside them that holds images."""
    samples, problems = _pair(_images(images), [(path.stem, path) for path in _images(masks)])
    inner = [path for folder in (images, masks) for path in _folders(folder) if any(map(_is_image, path.rglob("*")))]
    return samples, (
        *problems,
        *(f"{path} is a folder; images are looked for in {path.parent} itself: move them there" for path in inner),
    )


def _pair(
    images: Sequence[Path], masks: Sequence[tuple[str, Path]], suffix: str = ""
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Samples of images with masks of the same stem, and a sentence for each file that has no partner."""
    left: dict[str, Path] = {}
    taken: dict[str, Path] = {}
    samples, problems = [], []
    for stem, mask in masks:
        if stem in left:
            problems.append(f"{mask} shares its name with {left[stem].name}, and an image has one mask: remove one")
        else:
            left[stem] = mask
    for image in images:
        stem = image.stem.removesuffix(suffix)
        if stem in left:
            samples.append(Sample(image.stem, image, left.pop(stem)))
            taken[stem] = image
        elif stem in taken:
            problems.append(f"{image} has no mask of its own: it shares its name with {taken[stem].name}; rename one")
        else:
            problems.append(f"{image} has no mask")
    return tuple(samples), (*problems, *(f"{mask} has no image" for mask in left.values()))


def _way_from_splits(root: Path) -> str:
    """What to do where each split has images and masks inside it; empty where it is not so."""
    found = sorted(path.parent.name for path in root.glob("*/images") if (path.parent / "masks").is_dir())
    if not found:
        return ""
    return (
        f": move {found[0]}/images to images/{found[0]} and {found[0]}/masks to masks/{found[0]}, each split likewise"
    )


def _hold_out(dataset: Dataset, holdout: str) -> Dataset:
    train = dataset.samples("train")
    kept, held = _parted(train, holdout)
    if not held or not kept:
        known = sorted({sample.name.rpartition("_")[0] for sample in train})
        fitting = [name for name in known if name and all(_parted(train, name))]
        offer = f"sequences are: {', '.join(fitting[:12])}"
        if not fitting:
            offer = f"none can be held out: names are SEQUENCE_NUMBER, of two sequences at least, not {train[0].name}"
        raise UsageError(f"holdout '{holdout}' takes {len(held)} of {len(train)} train images; {offer}")
    unpaired = {**dataset.unpaired, "val": ()}
    return replace(dataset, splits={**dataset.splits, "train": kept, "val": held}, unpaired=unpaired, holdout=holdout)


def _parted(samples: Sequence[Sample], sequence: str) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The samples of other sequences, and those of this one."""
    held = tuple(sample for sample in samples if sample.name.startswith(f"{sequence}_"))
    return tuple(sample for sample in samples if not sample.name.startswith(f"{sequence}_")), held


def _choose_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    known = Classes(dataset.class_names, dataset.palette, dataset.ignore_id, dataset.id_map)
    kept = chosen_classes(known, classes, dataset.root)
    return replace(dataset, class_names=kept.names, palette=kept.palette, ignore_id=kept.ignore_id, id_map=kept.id_map)


def _file_ids(dataset: Dataset) -> list[int]:
    """Mask values in files that stand for a class."""
    return [value for value, mapped in enumerate(dataset.id_map) if mapped >= 0 and mapped != dataset.ignore_id] or [0]

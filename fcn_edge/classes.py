"""Classes of known data sets, those of a ``classes.json``, and a choice of them; knows nothing about images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .contract import is_printable
from .errors import UsageError

IGNORE_ID = 255

CAMVID = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}

CAMVID_VOID = (0, 0, 0)
"""Red, green, blue of what is ignored in CamVid's coloured masks; in the others it is the id behind the classes'."""

CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: one for each class id.
        palette: one (red, green, blue) for each class id.
        ignore_id: mapped mask value that never counts; None where all 256 ids are classes.
        id_map: 256 entries: mask value in the file -> class id, ``ignore_id``, or -1 for a value that is not allowed.
        has_palette: whether the palette stands in a ``classes.json``.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_id: int | None
    id_map: tuple[int, ...]
    has_palette: bool = False


class _ClassFile(msgspec.Struct, forbid_unknown_fields=True):
    """``classes.json`` of the plain layout."""

    names: list[str]
    palette: list[tuple[int, int, int]] | None = None
    ignore_id: int | None = None


def classes_from_json(path: Path) -> Classes:
    """Read ``classes.json`` of the plain layout.

    Raises:
        UsageError: if it is missing, no such JSON, or its classes, colours or ``ignore_id`` cannot be used.
    """
    try:
        info = msgspec.json.decode(path.read_text(encoding="utf-8-sig"), type=_ClassFile)  # editors put a BOM before
    except FileNotFoundError as exc:
        raise UsageError(f'{path} is missing; write one such as {{"names": ["road", "car"]}}') from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path} is not in UTF-8 ({exc.reason} at byte {exc.start}); save it as UTF-8") from exc
    except (OSError, msgspec.DecodeError) as exc:
        raise UsageError(
            f'{path} cannot be used: {exc}; expected {{"names": [...], "palette": [[r, g, b], ...]}}'
        ) from exc
    count = len(info.names)
    if not 1 <= count <= 256 or len(set(info.names)) != count:
        raise UsageError(f"{path} names {count} classes; expected 1 to 256 different names")
    for number, name in enumerate(info.names):
        if not name.strip():
            raise UsageError(f'{path} gives class {number} no name; expected one, such as "road"')
        if not is_printable(name):
            raise UsageError(
                f"{path} names a class {name!a}, which holds a character that cannot be shown; leave it out"
            )
    palette = tuple(info.palette) if info.palette else distinct_palette(count)
    if len(palette) != count or any(not 0 <= value <= 255 for color in palette for value in color):
        raise UsageError(f"{path} has {len(palette)} palette colours; expected {count} of three values from 0 to 255")
    id_map = [*range(count), *[-1] * (256 - count)]
    ignored = {IGNORE_ID} if info.ignore_id is None else {info.ignore_id, IGNORE_ID}
    for value in ignored:
        if not 0 <= value <= 255 or (value < count and info.ignore_id is not None):
            raise UsageError(f"{path} has ignore_id {value}; expected a value from {count} to 255, which is no class")
        if value >= count:
            id_map[value] = IGNORE_ID
    ignore_id = IGNORE_ID if count < 256 else None
    return Classes(tuple(info.names), palette, ignore_id, tuple(id_map), bool(info.palette))


def chosen_classes(known: Classes, choice: Sequence[str], root: Path) -> Classes:
    """Some of a data set's classes, in the order of the choice, which may merge several; all others are ignored.

    Args:
        known: the classes.
        choice: as in :func:`fcn_edge.dataset.open_dataset`.
        root: the data set's folder, for messages.

    Raises:
        UsageError: if a class does not exist, is chosen twice or has no name.
    """
    old_ids = {name: index for index, name in enumerate(known.names)}
    new_of_old: dict[int, int] = {}
    names, palette = [], []
    for new_id, entry in enumerate(choice):
        if entry in old_ids:  # as it stands, also with a + or = in its name
            name, olds = entry, [entry]
        else:
            name, _, members = entry.partition("=")
            olds = [part.strip() for part in (members or name).split("+")]
        unknown = [old for old in olds if old not in old_ids]
        if unknown or name.strip() in names:
            reason = f"'{unknown[0]}' is no class of {root}" if unknown else f"'{name.strip()}' stands there twice"
            raise UsageError(f"class choice '{entry}': {reason}; its classes are: {', '.join(known.names)}")
        if not name.strip():
            raise UsageError(
                f"class choice '{entry}' has no name before the '='; give one, such as 'vehicle=Car+Truck'"
            )
        for old in olds:
            if old_ids[old] in new_of_old:
                raise UsageError(f"class choice '{entry}': '{old}' is already part of another class; name it once")
            new_of_old[old_ids[old]] = new_id
        names.append(name.strip())
        palette.append(known.palette[old_ids[olds[0]]])
    ignore_id = IGNORE_ID if len(names) < 256 else known.ignore_id
    id_map = []
    for value in known.id_map:
        if value < 0:
            id_map.append(-1)
        elif value == known.ignore_id or value not in new_of_old:
            id_map.append(IGNORE_ID)
        else:
            id_map.append(new_of_old[value])
    return Classes(tuple(names), tuple(palette), ignore_id, tuple(id_map))


def distinct_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """``count`` (red, green, blue) colours, the first 256 distinct: the bit-interleaved palette of PASCAL VOC."""
    colors = []
    for index in range(1, count + 1):
        channels, rest = [0, 0, 0], index
        for bit in range(7, -1, -1):
            for channel in range(3):
                channels[channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)

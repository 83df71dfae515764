"""The classes of the street: CamVid's eleven, with its ids and colours; knows nothing else."""

from __future__ import annotations

from ..classes import CAMVID

CLASS_NAMES = tuple(CAMVID)
"""One name for each class id."""

PALETTE = tuple(CAMVID.values())
"""One (red, green, blue) for each class id."""

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PERSON, CYCLIST = range(len(CLASS_NAMES))

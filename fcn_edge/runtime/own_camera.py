"""Which names are cameras on this machine; knows nothing about how one is opened."""

from __future__ import annotations

import os
import re

_DEVICE = r"/dev/video\d+"
_OWN_CAMERA = rf"\d+|{_DEVICE}|/dev/v4l/.+|(?i:csi)://.*"


def is_own_camera(text: str) -> bool:
    """Whether it is a camera on this machine: by number, device, sensor, or a link that udev has made to a device."""
    if re.fullmatch(_OWN_CAMERA, text):
        return True
    return "\0" not in text and re.fullmatch(_DEVICE, os.path.realpath(text)) is not None

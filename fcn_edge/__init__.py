"""Semantic segmentation on edge devices: train a lightweight FCN, export it, stream video through it."""

from __future__ import annotations

__version__ = "0.2.0"

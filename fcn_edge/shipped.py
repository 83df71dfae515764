"""The models that ship with the package, by name; knows nothing about what is in their files."""

from __future__ import annotations

from pathlib import Path

_MODELS = Path(__file__).parent / "models"


def shipped_models() -> dict[str, Path]:
    """The models that ship with the package: name -> ``.onnx`` file."""
    return {path.stem: path for path in sorted(_MODELS.glob("*.onnx"))}


def model_file(model: str | Path) -> Path:
    """The file behind a shipped model's name, or behind a path."""
    return shipped_models().get(str(model)) or Path(model)

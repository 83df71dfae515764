"""What several tests share: where the real data lies, and a virtual environment as a device would have it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid's folder, from FCN_EDGE_CAMVID or beside the checkout; the data may not travel with the project."""
    root = Path(os.environ.get("FCN_EDGE_CAMVID", ROOT.parent / "shared" / "camvid"))
    if not (root / "valannot").is_dir():
        pytest.skip("CamVid is not here; set FCN_EDGE_CAMVID to a folder with train/ trainannot/ val/ valannot/")
    return root


@pytest.fixture(scope="session")
def device_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh virtual environment with this project's wheel and its extra ``cpu``: a device without torch."""
    home = tmp_path_factory.mktemp("device")
    wheels = home / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([*build, "-C", f"build-dir={home / 'build'}", str(ROOT)], check=True, env=environment)
    (wheel,) = wheels.glob("fcn_edge-*.whl")
    venv.create(home / "venv", with_pip=True)
    python = home / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheel}[cpu]"]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"packages for a second virtual environment cannot be installed: {result.stderr.strip()[-200:]}")
    return python

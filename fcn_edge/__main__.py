"""``python -m fcn_edge`` is the command ``fcn-edge``."""

import sys

from .cli import main

sys.exit(main())

"""``python -m polychron``: the command line without an installed script."""

from __future__ import annotations

import sys

from polychron.cli import main

sys.exit(main())

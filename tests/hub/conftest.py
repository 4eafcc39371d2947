"""The hub is not asked for anything: what these tests load is on the disk."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

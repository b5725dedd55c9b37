"""Lets the tests of the models import what they share (``model_doubles``)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

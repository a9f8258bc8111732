"""The modules of a chaos run lie beside its tests, and the gateway's client beside those of the gateway."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "gateway"))

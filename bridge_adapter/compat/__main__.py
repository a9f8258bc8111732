"""`python -m bridge_adapter.compat`: the folder to put first in PYTHONPATH."""

from bridge_adapter.compat import FOLDER

print(FOLDER)

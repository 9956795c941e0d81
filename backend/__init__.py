"""Splatsmith's PyTorch backend: text, pictures or posed views to Gaussians to a textured mesh. Never imports bpy."""

import os

__version__ = "0.1.0"

# After each of torch's operations its threads wait busily for the next one (under Linux's libgomp for milliseconds), on
# the cores that the rasteriser's threads need by then. So many turns, some 0.05 ms, serve the networks as well. Read
# when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

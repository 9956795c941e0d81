"""Splatsmith's PyTorch backend: text, pictures or posed views to Gaussians to a textured mesh. Never imports bpy."""

__version__ = "0.1.0"

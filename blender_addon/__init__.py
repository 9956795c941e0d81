"""Splatsmith: a sentence or a picture becomes a textured mesh in the scene, made on this machine.

Importing the package needs no Blender, so that its parts without bpy can be used and tested outside; `register` and
`unregister` are what Blender calls.
"""

from __future__ import annotations


def register() -> None:
    """Adds the panel, the operators, the preferences and the command; undone to the last piece if one of them fails."""
    from . import registration

    registration.register()


def unregister() -> None:
    """Takes all of it away again, the backend's process included."""
    from . import registration

    registration.unregister()

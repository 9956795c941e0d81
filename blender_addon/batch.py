"""Makes objects from a checkout, without installing the add-on:

blender --background --python-exit-code 1 --python blender_addon/batch.py -- --prompts file.txt --out DIR

With the bpy wheel: python blender_addon/batch.py -- --prompt "a red mushroom" --out DIR. See --help for the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    checkout = str(Path(__file__).resolve().parent.parent)
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    import bpy  # noqa: F401  (the wheel has to be imported before anything of it is used)

    from blender_addon import command_line, session

    # The session alone, without panel and operators: the same add-on may be installed and enabled beside the checkout.
    session.register()
    try:
        return command_line.run(command_line.arguments_after_dashes())
    finally:
        session.unregister()


if __name__ == "__main__":
    sys.exit(main())

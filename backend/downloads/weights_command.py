"""`python -m backend weights`: what weights there are, and getting more. Licence and size are shown before anything is
fetched, and nothing is fetched without a yes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from backend.errors import BadInput, Cancelled
from backend.packs import PACKS, PUBLISHED, Published, find_published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `weights`."""
    actions = parser.add_subparsers(metavar="list | download | import", required=True, dest="action")
    listing = actions.add_parser("list", help="what there is, licences and sizes")
    listing.set_defaults(weights=_list)
    download = actions.add_parser("download", help="fetch published weights from the hub, after consent")
    download.add_argument("name", nargs="?", help="which weights, as the list calls them")
    download.add_argument("--yes", action="store_true", help="agree to the licence without being asked")
    download.set_defaults(weights=_download)
    bring = actions.add_parser("import", help="take published weights from a file or folder on this machine")
    bring.add_argument("name", help="which weights, as the list calls them")
    bring.add_argument("source", type=Path, metavar="PATH", help="the file, or a folder it lies in or below")
    bring.set_defaults(weights=_import)
    for part in (listing, download, bring):
        part.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the action that was asked for."""
    return int(options.weights(options))


def licence_text(pack: Published) -> str:
    """What a user should know before getting a pack."""
    size = f"about {pack.bytes / 1e9:.2f} GB" if pack.bytes else "size not known here"
    lines = [
        f"{pack.title}",
        f"  from      {pack.page} ({size})",
        f"  licence   {pack.licence}",
        f"  forbids   {pack.forbids}",
    ]
    if pack.gated:
        lines.append("  gated     accept the licence on that page and log in with 'hf auth login' first")
    if pack.unconfirmed:
        lines.append(f"  not confirmed here: {', '.join(pack.unconfirmed)}; the page above is what counts")
    return "\n".join(lines)


def _list(options: argparse.Namespace) -> int:
    packs, published = ([pack.describe() for pack in table.values()] for table in (PACKS, PUBLISHED))
    if options.json:
        print(json.dumps({"packs": packs, "published": published}))
        return 0
    for pack in packs:
        size = f"{pack['bytes'] / 1e6:.1f} MB" if pack["present"] else "missing"
        print(f"{pack['name']:17} {size:>10}  {pack['licence']:24} {pack['title']}")
    print("\nPublished by others, to be downloaded or imported:")
    for pack in published:
        licence = pack["licence"] if len(pack["licence"]) <= 24 else pack["licence"][:21] + "..."
        print(f"{pack['name']:17} {_size(pack):>10}  {licence:24} {pack['title']}")
    print("\nA size with ~ or ? is not there yet; 'weights download NAME' shows licence and source, and asks.")
    return 0


def _size(pack: dict[str, Any]) -> str:
    if not pack["bytes"]:
        return "?"
    return f"{'' if pack['present'] else '~'}{pack['bytes'] / 1e6:,.0f} MB"


def _download(options: argparse.Namespace) -> int:
    from backend.downloads.download import check_online, download

    pack = find_published(options.name)
    if pack.present:
        return _tell(options, pack, pack.path)
    check_online()
    print(licence_text(pack), file=sys.stderr)
    if not options.yes:
        _ask(pack)
    return _tell(options, pack, download(pack, _say))


def _ask(pack: Published) -> None:
    """Raises Cancelled for a no, BadInput where nobody can be asked."""
    if not sys.stdin.isatty():
        raise BadInput("Nobody is there to agree to the licence.", "Read the above, and add --yes.")
    print(f"Download {pack.name} under this licence? Type yes to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Cancelled("Nothing was downloaded.")


def _import(options: argparse.Namespace) -> int:
    from backend.downloads.download import import_from

    pack = find_published(options.name)
    print(licence_text(pack), file=sys.stderr)
    return _tell(options, pack, import_from(pack, options.source, _say))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _tell(options: argparse.Namespace, pack: Published, path: Path) -> int:
    print(json.dumps(pack.describe()) if options.json else path)
    return 0

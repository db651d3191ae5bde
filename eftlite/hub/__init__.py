"""Models of the hub by reference: where they are, what their headers say, and having them here.

reference (names) · web (HTTP) · cache, stores (what is on this machine) · listing · headers · download · families.
huggingface_hub is imported only when something of the hub is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eftlite.hub.download import check_room as check_room
    from eftlite.hub.download import fetch as fetch
    from eftlite.hub.families import header_of as header_of
    from eftlite.hub.families import local_path as local_path
    from eftlite.hub.families import localize as localize
    from eftlite.hub.families import preview as preview
    from eftlite.hub.families import references as references
    from eftlite.hub.headers import header as header
    from eftlite.hub.listing import File as File
    from eftlite.hub.listing import Remote as Remote
    from eftlite.hub.listing import find as find
    from eftlite.hub.listing import locate as locate
    from eftlite.hub.reference import Reference as Reference
    from eftlite.hub.reference import parse as parse
    from eftlite.hub.reference import title as title

_PLACES = {
    "check_room": "download",
    "fetch": "download",
    "header_of": "families",
    "local_path": "families",
    "localize": "families",
    "preview": "families",
    "references": "families",
    "header": "headers",
    "File": "listing",
    "Remote": "listing",
    "find": "listing",
    "locate": "listing",
    "Reference": "reference",
    "parse": "reference",
    "title": "reference",
}


def __getattr__(name: str) -> Any:
    """Import on first use: reading a family file takes references, not numpy."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'eftlite.hub' has no attribute {name!r}")
    return getattr(import_module(f"eftlite.hub.{_PLACES[name]}"), name)

"""Where model files come from: what a reference means, and which file on this machine it is.

It knows nothing of engines and does not look inside the files.
"""

from __future__ import annotations

from tektra.hub.catalog import Catalog, CatalogEntry, load_catalog
from tektra.hub.references import (
    AliasReference,
    HttpReference,
    HubReference,
    OllamaReference,
    PathReference,
    Reference,
    parse_reference,
)
from tektra.hub.resolve import ResolvedModel, resolve

__all__ = [
    "AliasReference",
    "Catalog",
    "CatalogEntry",
    "HttpReference",
    "HubReference",
    "OllamaReference",
    "PathReference",
    "Reference",
    "ResolvedModel",
    "load_catalog",
    "parse_reference",
    "resolve",
]

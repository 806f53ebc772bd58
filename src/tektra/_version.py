"""The version, in the one place it is written; the build reads it from this line.

It knows nothing else, so that it can be read without importing the package.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"

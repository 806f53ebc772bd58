"""The command line: one file a command. It knows the public API and how to talk to a person."""

from __future__ import annotations

__all__: list[str] = []

"""Backends: each compiles graphs for one kind of device and runs steps of them."""

from __future__ import annotations

__all__: list[str] = []

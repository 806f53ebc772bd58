"""The engine: scheduling, sampling and delivery of requests on a compiled model.

It knows steps and tokens; it knows neither architectures nor how a backend computes.
"""

from __future__ import annotations

__all__: list[str] = []

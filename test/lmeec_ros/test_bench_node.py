"""`lmeec bench --node`: the ROS edge, measured on the installed node over DDS."""

from __future__ import annotations

import pytest
from rich.console import Console

from lmeec_ros.tools.bench import measure_node


@pytest.mark.slow
def test_the_edge_is_the_latency_without_the_step() -> None:
    result = measure_node(Console(quiet=True), pairs=10)
    assert result["pairs"] == 10 and result["rate_hz"] <= 30.5
    latency, step, edge = (result[name] for name in ("latency_ms", "step_ms", "edge_ms"))
    assert 0 < step["median"] < latency["median"]
    assert 0 < edge["median"] <= edge["p95"] < latency["p95"]

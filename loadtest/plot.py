"""A sweep as a picture: throughput against concurrency, latency against offered load."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from loadtest.sweep import Curve

_STYLES = {0.5: "-", 0.95: "--", 0.99: ":"}


def draw(curves: Sequence[Curve], title: str, file: Path) -> None:
    """Write a PNG with both panels.

    Raises:
        SystemExit: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only plots need it
    except ImportError:
        raise SystemExit("a plot needs matplotlib: pip install 'assay-rm[loadtest]'") from None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    throughput, latency = figure.subplots(1, 2)
    _throughput(throughput, curves)
    _latency(latency, curves)
    figure.savefig(file, dpi=120)


def _throughput(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        known = [(point.x, rate) for point in curve.closed if (rate := point.reading.tokens_per_s)]
        axes.plot([x for x, _ in known], [rate for _, rate in known], "o-", label=curve.server)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="requests at once", ylabel="tokens/s")
    axes.legend()


def _latency(axes: Axes, curves: Sequence[Curve]) -> None:
    for place, curve in enumerate(curves):
        for share, style in _STYLES.items():
            known = [
                (point.x, 1e3 * latency)
                for point in curve.open
                if (latency := point.reading.latency_s(share)) is not None
            ]
            label = f"{curve.server} p{100 * share:g}"
            xs, ys = [x for x, _ in known], [y for _, y in known]
            axes.plot(xs, ys, style, marker=".", color=f"C{place}", label=label)
    axes.set_yscale("log")
    axes.set(xlabel="offered requests/s", ylabel="latency, ms")
    axes.legend()

"""Small charts as SVG, whose colors follow the page: bars by class, curves, and spectra."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from ._numbers import value_and_error

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 30, 48


def bars(edges: np.ndarray, counts: Mapping[str, np.ndarray], *, x: str, y: str, label: str) -> str:
    """Return stacked bars as SVG.

    Parameters
    ----------
    edges
        Edges of the bins, ``[N + 1]``.
    counts
        Numbers ``[N]`` by name of the class; CSS colors them by ``k-NAME``.
    x, y
        Titles of the axes.
    label
        What is seen, in words.
    """
    total = np.sum(list(counts.values()), axis=0)
    place = _Axes(edges[0], edges[-1], 0.0, max(float(total.max(initial=0)), 1.0) * 1.05)
    parts, below = [place.frame(x, y)], np.zeros(len(total))
    for name, values in counts.items():
        for low, high, start, value in zip(edges[:-1], edges[1:], below, values):
            if value:
                top, bottom = place.y(start + value), place.y(start)
                left, right = place.x(low) + 0.5, place.x(high) - 0.5
                parts.append(
                    f'<rect class="k-{escape(name)}" x="{left:.1f}" y="{top:.1f}" '
                    f'width="{right - left:.1f}" height="{bottom - top:.1f}"><title>'
                    f"{escape(name)}, {low:g} to {high:g}: {int(value):,}</title></rect>"
                )
        below = below + values
    return _svg([*parts, _legend(list(counts))], label)


def curves(
    at: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    errors: Mapping[str, np.ndarray] | None = None,
    x: str,
    y: str,
    label: str,
) -> str:
    """Return curves of shares between 0 and 1 as SVG; NaN leaves gaps.

    Parameters
    ----------
    at
        Places along the axis, ``[N]``, rising.
    values
        Shares ``[N]`` by name.
    errors
        Their standard deviations ``[N]`` by name, of those that have any.
    x, y, label
        As for `bars`.
    """
    pad = 0.04 * max(float(at[-1] - at[0]), 0.5)
    place = _Axes(at[0] - pad, at[-1] + pad, 0.0, 1.05)
    parts = [place.frame(x, y)]
    for number, (name, shares) in enumerate(values.items()):
        points, spread = [], (errors or {}).get(name, np.zeros(len(at)))
        for where, share, error in zip(at, shares, spread):
            if not np.isfinite(share):
                continue
            px, py = place.x(where), place.y(share)
            points.append(f"{px:.1f},{py:.1f}")
            if error > 0:
                ends = (place.y(min(share + error, 1.0)), place.y(max(share - error, 0.0)))
                parts.append(
                    f'<line class="c-{number}" x1="{px:.1f}" x2="{px:.1f}" y1="{ends[0]:.1f}" '
                    f'y2="{ends[1]:.1f}"/>'
                )
            parts.append(
                f'<circle class="c-{number}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"><title>'
                f"{escape(name)} at {where:g}: {share:.3f}</title></circle>"
            )
        parts.append(f'<polyline class="c-{number}" points="{" ".join(points)}"/>')
    return _svg([*parts, _legend(list(values), prefix="c-", numbered=True)], label)


def spectrum(
    bands: Sequence[str],
    flux: np.ndarray,
    error: np.ndarray,
    other: np.ndarray,
    *,
    y: str,
    label: str,
) -> str:
    """Return fluxes by band with errors, and those of another fit as squares, as SVG.

    Parameters
    ----------
    bands
        Names of the bands.
    flux, error
        Fluxes and their standard deviations, ``[B]``; NaN leaves gaps.
    other
        Fluxes of the other fit, ``[B]``.
    y, label
        As for `bars`.
    """
    ends = [flux - error, flux + error, other, np.zeros(1)]
    known = np.concatenate(ends)
    known = known[np.isfinite(known)]
    low, high = float(known.min()), float(known.max())
    pad = 0.05 * (high - low) or 1.0
    place = _Axes(-0.5, len(bands) - 0.5, low - (pad if low < 0 else 0.0), high + pad)
    # A name for each band, as far as they have room.
    step = -(-len(bands) // 12)
    names = [(k, band) for k, band in enumerate(bands) if k % step == 0]
    parts, points = [place.frame("", y, names)], []
    for k, (value, spread, mode) in enumerate(zip(flux, error, other)):
        x = place.x(k)
        if np.isfinite(mode):
            parts.append(
                f'<rect class="mode" x="{x - 6:.1f}" y="{place.y(mode) - 6:.1f}" width="12" '
                f'height="12"><title>{escape(bands[k])}, profile: {mode:.4g}</title></rect>'
            )
        if not np.isfinite(value):
            continue
        points.append(f"{x:.1f},{place.y(value):.1f}")
        if np.isfinite(spread):
            parts.append(
                f'<line class="c-0" x1="{x:.1f}" x2="{x:.1f}" y1="{place.y(value + spread):.1f}" '
                f'y2="{place.y(value - spread):.1f}"/>'
            )
        parts.append(
            f'<circle class="c-0" cx="{x:.1f}" cy="{place.y(value):.1f}" r="4"><title>'
            f"{escape(bands[k])}: {escape(value_and_error(value, spread))}</title></circle>"
        )
    parts.append(f'<polyline class="c-0" points="{" ".join(points)}"/>')
    return _svg(parts, label)


class _Axes:
    """Where numbers are drawn."""

    def __init__(self, left: float, right: float, low: float, high: float):
        self.left, self.low, self.high = float(left), low, high
        self.right = float(right) if right > left else float(left) + 1.0

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, x: str, y: str, names: Sequence[tuple[float, str]] | None = None) -> str:
        """Return lines, numbers (or names at places) and titles of the axes."""
        parts, bottom = [], self.y(self.low)
        for value in _ticks(self.low, self.high, 5):
            at = self.y(value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" '
                f'y2="{at:.1f}"/><text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
                f"{value:,g}</text>"
            )
        if names is None:
            names = [(value, f"{value:g}") for value in _ticks(self.left, self.right, 10)]
        for value, name in names:
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{bottom + 22:.1f}" text-anchor="middle">'
                f"{escape(name)}</text>"
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(
            f'<text x="{middle:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>'
            f'<text x="{_LEFT}" y="16">{escape(y)}</text>'
        )
        return "".join(parts)


def _ticks(low: float, high: float, number: int) -> Sequence[float]:
    """Return round numbers between two."""
    step = (high - low) / number
    unit = 10.0 ** np.floor(np.log10(step))
    step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= 0.999 * step)
    return [round(float(v), 10) for v in np.arange(np.ceil(low / step) * step, high, step)]


def _legend(names: Sequence[str], *, prefix: str = "k-", numbered: bool = False) -> str:
    parts, at = [], float(_WIDTH - _RIGHT)
    for number, name in reversed(list(enumerate(names))):
        at -= 10.0 * len(name) + 4
        key = number if numbered else escape(name)
        parts.append(
            f'<rect class="{prefix}{key}" x="{at - 14:.1f}" y="6" width="10" height="10"/>'
            f'<text x="{at:.1f}" y="16">{escape(name)}</text>'
        )
        at -= 24
    return "".join(parts)


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )

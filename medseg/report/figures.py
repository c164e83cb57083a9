"""Plots as SVG text that stands in an HTML file: box plots, and Bland and Altman's plot of volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

_INK, _SOFT, _LINE, _FILL, _MARK = "#1a1d21", "#565d66", "#d5d9de", "#cfe3f5", "#0072b2"
_WIDTH = 360


def box_plot(title: str, groups: Sequence[tuple[str, Sequence[float]]], unit: str) -> str:
    """One box a label: quartiles, whiskers to the furthest value within 1.5 of their distance, and every case a dot."""
    known = [(name, [value for value in values if math.isfinite(value)]) for name, values in groups]
    everything = [value for _, values in known for value in values]
    if not everything:
        return ""
    low, high = _span(everything, ratio=unit == "1")
    row, top, left = 34, 24, 140  # a name of 17 wide letters fits
    height = top + row * len(known) + 30

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (_WIDTH - left - 16), 1)

    parts = [_axis(x, (low, high), (top - 6, height - 26), unit)]
    for number, (name, values) in enumerate(known):
        y = top + row * number + row / 2
        parts.append(_text(left - 8, y + 4, _short(name), "end"))
        if not values:
            parts.append(_text(left + 4, y + 4, "undefined in all cases", "start", _SOFT))
            continue
        first, middle, third = np.percentile(values, (25, 50, 75))
        reach = 1.5 * (third - first)
        inside = [value for value in values if first - reach <= value <= third + reach]
        parts += [
            f'<line x1="{x(min(inside))}" x2="{x(max(inside))}" y1="{y}" y2="{y}" stroke="{_INK}"/>',
            f'<rect x="{x(first)}" y="{y - 9}" width="{max(1.0, x(third) - x(first)):.1f}" height="18" '
            f'fill="{_FILL}" stroke="{_INK}"/>',
            f'<line x1="{x(middle)}" x2="{x(middle)}" y1="{y - 9}" y2="{y + 9}" stroke="{_INK}" stroke-width="2.5"/>',
        ]
        # A fixed scatter keeps dots of equal values apart, and the file the same in every run.
        shifts = np.random.default_rng(number).uniform(-6, 6, len(values))
        parts += [
            f'<circle cx="{x(value)}" cy="{y + shift:.1f}" r="2.2" fill="{_MARK}" fill-opacity=".6"/>'
            for value, shift in zip(values, shifts, strict=True)
        ]
    medians = "; ".join(f"{name}: median {np.median(values):.3g}" for name, values in known if values)
    return _svg(height, f"{title}. {medians}", parts)


def bland_altman(title: str, reference_ml: Sequence[float], prediction_ml: Sequence[float]) -> str:
    """Difference of two volumes against their mean, with the bias and the limits of agreement (1.96 sd)."""
    if not reference_ml:
        return ""
    means = (np.array(reference_ml) + prediction_ml) / 2
    differences = np.array(prediction_ml) - reference_ml
    bias = float(differences.mean())
    spread = 1.96 * float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    low, high = _span([*differences.tolist(), bias - spread, bias + spread, 0.0])
    first, last = _span(means.tolist())
    height, left, top = 220, 56, 16

    def x(value: float) -> float:
        return round(left + (value - first) / (last - first) * (_WIDTH - left - 12), 1)

    def y(value: float) -> float:
        return round(height - 36 - (value - low) / (high - low) * (height - 36 - top), 1)

    parts = [_axis(x, (first, last), (top, height - 32), "mean of both, ml")]
    parts += [_text(left - 6, y(tick) + 4, f"{tick:g}", "end", _SOFT) for tick in _ticks(low, high)]
    limits = ((bias, "", "bias"), (bias - spread, "5 4", "−1.96 sd"), (bias + spread, "5 4", "+1.96 sd"))
    for value, dash, name in limits if spread else limits[:1]:
        parts.append(
            f'<line x1="{left}" x2="{_WIDTH - 12}" y1="{y(value)}" y2="{y(value)}" stroke="{_INK}" '
            f'stroke-dasharray="{dash}"/>'
        )
        parts.append(_text(_WIDTH - 12, y(value) - 4, f"{name} {value:.3g}", "end"))
    parts += [
        f'<circle cx="{x(mean)}" cy="{y(difference)}" r="3" fill="{_MARK}" fill-opacity=".6"/>'
        for mean, difference in zip(means.tolist(), differences.tolist(), strict=True)
    ]
    about = f"{title}. Bias {bias:.3g} ml, limits of agreement {bias - spread:.3g} to {bias + spread:.3g} ml."
    return _svg(height, about, parts)


def _svg(height: float, about: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" height="{height:g}" role="img" '
        f'aria-label="{escape(about)}" font-family="system-ui, sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _axis(x: Callable[[float], float], span: tuple[float, float], sides: tuple[float, float], unit: str) -> str:
    """Grid lines between the upper and the lower side, with their numbers below."""
    top, bottom = sides
    lines = []
    for tick in _ticks(*span):
        place = x(tick)
        lines.append(f'<line x1="{place}" x2="{place}" y1="{top}" y2="{bottom}" stroke="{_LINE}"/>')
        lines.append(_text(place, bottom + 13, f"{tick:g}", "middle", _SOFT))
    if unit != "1":
        lines.append(_text(_WIDTH - 4, bottom + 26, unit, "end", _SOFT))
    return "".join(lines)


def _text(x: float, y: float, text: str, anchor: str, colour: str = _INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 17 else f"{name[:8]}…{name[-8:]}"


def _span(values: Sequence[float], *, ratio: bool = False) -> tuple[float, float]:
    low, high = min(values), max(values)
    if ratio and low >= 0 and high <= 1:
        return min(low, math.floor(low * 10) / 10), 1.0 if low < 1 else 1.05
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Four or five round numbers in between."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]

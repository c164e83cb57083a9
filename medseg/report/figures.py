"""Plots as SVG text that stands in an HTML file: box plots, Bland and Altman's plot of volumes, values by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_INK, _SOFT, _LINE, _FILL, _MARK = "#1a1d21", "#565d66", "#d5d9de", "#cfe3f5", "#0072b2"
_LINES = ("#0072b2", "#a84300", "#00745a", "#8a3b75", "#5a5a5a", "#7a6a00")  # readable on white
_WIDTH = 380


def box_plot(title: str, groups: Sequence[tuple[str, Sequence[float]]], unit: str) -> str:
    """One box a label: quartiles, whiskers to the furthest value within 1.5 of their distance, and every case a dot.

    A label without a value has none.
    """
    everywhere = [(name, [value for value in values if math.isfinite(value)]) for name, values in groups]
    known = [(name, values) for name, values in everywhere if values]
    if not known:
        return ""
    low, high = _span([value for _, values in known for value in values], ratio=unit == "1")
    row, top, left = 48, 4, 14
    height = top + row * len(known) + 34

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (_WIDTH - left - 16), 1)

    parts = [_axis(x, (low, high), (top, height - 30), unit)]
    for number, (name, values) in enumerate(known):
        y = top + row * number + 32
        parts.append(_text(left, y - 17, _short(name), "start"))
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
    medians = "; ".join(f"{name}: median {np.median(values):.3g}" for name, values in known)
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
    height, left, top, right = 230, 50, 20, _WIDTH - 86  # names of the lines stand at the right of the plot

    def x(value: float) -> float:
        return round(left + (value - first) / (last - first) * (right - left), 1)

    def y(value: float) -> float:
        return round(height - 40 - (value - low) / (high - low) * (height - 40 - top), 1)

    parts = [_axis(x, (first, last), (top, height - 36), "", right), _text(4, 11, "difference, ml", "start", _SOFT)]
    parts.append(_text(right, height - 6, "mean of both, ml", "end", _SOFT))
    parts += [_text(left - 6, y(tick) + 4, f"{tick:g}", "end", _SOFT) for tick in _ticks(low, high)]
    parts.append(_level(y(0), (left, right), _LINE))
    limits = ((bias, "", "bias"), (bias - spread, "5 4", "−1.96 sd"), (bias + spread, "5 4", "+1.96 sd"))
    for value, dash, name in limits if spread else limits[:1]:
        parts.append(_level(y(value), (left, right), _INK, dash))
        parts.append(_text(right + 6, y(value) - 2, name, "start"))
        parts.append(_text(right + 6, y(value) + 11, f"{value:+.3g}".replace("-", "−"), "start"))
    parts += [
        f'<circle cx="{x(mean)}" cy="{y(difference)}" r="3" fill="{_MARK}" fill-opacity=".6"/>'
        for mean, difference in zip(means.tolist(), differences.tolist(), strict=True)
    ]
    about = f"{title}. Bias {bias:.3g} ml, limits of agreement {bias - spread:.3g} to {bias + spread:.3g} ml."
    return _svg(height, about, parts)


def slice_plot(title: str, lines: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    """A line a label: a ratio from 0 to 1 by slice; slices without the label interrupt it."""
    shown = [(name, values) for name, values in lines if np.isfinite(values).any()][: len(_LINES)]
    if not shown:
        return ""
    last = max(1, max(len(values) for _, values in shown) - 1)
    left, top, bottom = 30, 10, 140
    height = bottom + 34 + 16 * len(shown)

    def x(place: float) -> float:
        return round(left + place / last * (_WIDTH - left - 10), 1)

    def y(value: float) -> float:
        return round(bottom - value * (bottom - top), 1)

    parts = [_axis(x, (0, last), (top, bottom), "slice")]
    parts += [_text(left - 6, y(tick) + 4, f"{tick:g}", "end", _SOFT) for tick in (0, 0.5, 1)]
    parts += [_level(y(tick), (left, _WIDTH - 10), _LINE) for tick in (0, 0.5, 1)]
    for number, (name, values) in enumerate(shown):
        pen_down, path = False, []
        for place, value in enumerate(values.tolist()):
            if math.isfinite(value):
                path.append(f"{'L' if pen_down else 'M'}{x(place)} {y(value)}")
            pen_down = math.isfinite(value)
        colour, line = _LINES[number], bottom + 46 + 16 * number
        drawn = "".join(path)
        parts.append(f'<path d="{drawn}" fill="none" stroke="{colour}" stroke-width="2" stroke-linecap="round"/>')
        parts.append(_level(line - 4, (left, left + 16), colour))
        parts.append(_text(left + 22, line, _short(name), "start"))
    return _svg(height, title, parts)


def _svg(height: float, about: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" height="{height:g}" role="img" '
        f'aria-label="{escape(about)}" font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def _axis(
    x: Callable[[float], float], span: tuple[float, float], sides: tuple[float, float], unit: str, right: float = _WIDTH
) -> str:
    """Grid lines between the upper and the lower side, with their numbers below."""
    top, bottom = sides
    lines = []
    for tick in _ticks(*span):
        place = x(tick)
        lines.append(f'<line x1="{place}" x2="{place}" y1="{top}" y2="{bottom}" stroke="{_LINE}"/>')
        lines.append(_text(place, bottom + 14, f"{tick:g}", "middle", _SOFT))
    if unit not in ("", "1"):
        lines.append(_text(right - 4, bottom + 28, unit, "end", _SOFT))
    return "".join(lines)


def _level(y: float, sides: tuple[float, float], colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{sides[0]}" x2="{sides[1]}" y1="{y}" y2="{y}" stroke="{colour}"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = _INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 46 else f"{name[:22]}…{name[-22:]}"


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

"""A scan and its masks as they lie in an HTML file for NiiVue to show."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.report.picture import intensity_window, readable_rgb
from medseg.report.reduced import reduced
from medseg.volume import Segmentation, Volume

MOST_BYTES = 12_000_000  # of all volumes in a page, compressed: what a phone still opens
_MOST_VOXELS = 12_000_000  # of one volume, which a browser holds as a texture

RGB: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """One volume of a case.

    Attributes:
        title: For people.
        content: A compressed NIfTI file.
        colours: Colour by value, 0 is clear; the scan, which is grey, has none.
        names: Of the values.
    """

    title: str
    content: bytes
    colours: Mapping[int, RGB] | None = None
    names: Mapping[int, str] | None = None


@dataclass(frozen=True)
class ViewerCase:
    """What the viewer shows of one case.

    Attributes:
        title: For people.
        layers: The scan, if there is one, and its masks.
        focus_mm: Where to look first, in world space.
        note: What is to be known about it, such as that it was made coarser.
    """

    title: str
    layers: tuple[Layer, ...]
    focus_mm: tuple[float, float, float]
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(len(layer.content) for layer in self.layers)


def viewer_case(
    title: str,
    volume: Volume | None,
    masks: Sequence[tuple[str, Segmentation, LabelSet]],
    *,
    interesting: Sequence[int] = (),
) -> ViewerCase:
    """Pack a scan and its masks; what is too large for a browser is cut to the labels, and made coarser.

    Args:
        title: For people.
        volume: On the masks' grid; without it the first mask is the picture that the others lie on.
        masks: Title, labels, and what they mean; the first is shown, the others on demand.
        interesting: Labels of the first mask to look at first, where there are any.
    """
    small = reduced([one for _, one, _ in masks], volume, most_voxels=_MOST_VOXELS)
    layers = [] if small.scan is None else [_scan(small.scan, small.geometry)]
    for (name, _, labels), array in zip(masks, small.masks, strict=True):
        present = [label for label in labels if (array == label.index).any()]
        colours = {label.index: readable_rgb(label.rgb) for label in present}
        names = {label.index: label.name for label in present}
        layers.append(Layer(name, _nifti(array, small.geometry), colours, names))
    return ViewerCase(title, tuple(layers), _focus(small.masks[0], interesting, small.geometry), small.note)


def viewer_html(cases: Sequence[ViewerCase]) -> str:
    """The program and all that it shows; empty without cases."""
    if not cases:
        return ""
    blobs, entries = [], []
    for number, case in enumerate(cases):
        layers = []
        for place, layer in enumerate(case.layers):
            name = f"volume-{number}-{place}"
            blobs.append(_blob(name, layer.content))
            colours, names = layer.colours, layer.names or {}
            legend = None if colours is None else [{"index": n, "name": names[n], "rgb": c} for n, c in colours.items()]
            shown = colours is None or place <= 1  # of several masks the first
            layers.append({"id": name, "title": layer.title, "legend": legend, "shown": shown})
        entries.append({"title": case.title, "layers": layers, "focus": case.focus_mm, "note": case.note})
    program = resources.files("medseg.report").joinpath("assets", "niivue.umd.js.gz").read_bytes()
    choices = "".join(f'<option value="{n}">{escape(case.title)}</option>' for n, case in enumerate(cases))
    single = " hidden" if len(cases) == 1 else ""  # nothing to choose
    # "<" would end the script element early.
    listed = json.dumps(entries).replace("<", "\\u003c")
    return f"""<div class="viewer">
<p class="controls"><label{single}>Case <select class="case">{choices}</select></label>
<label>View <select class="view"><option value="3">all planes</option><option value="0">axial</option>
<option value="1">coronal</option><option value="2">sagittal</option><option value="4">3D</option></select></label>
<button type="button" class="open">Open viewer</button></p>
<div class="screen"><canvas tabindex="0" width="640" height="420" role="img" aria-label="The viewer is not open yet">
</canvas></div>
<p class="layers"></p>
<p class="legend"></p>
<p role="status" class="soft">The viewer opens on demand; it needs WebGL 2. Click or drag to move, scroll to change the
slice; on the keyboard, arrows and Page Up and Down.</p>
<script type="application/json" id="viewer-cases">{listed}</script>
{_blob("niivue-program", program)}
{"".join(blobs)}
</div>"""


def _focus(mask: NDArray[Any], interesting: Sequence[int], geometry: Geometry) -> tuple[float, float, float]:
    """A place where slices in all three planes show much of what is interesting; else of what is labelled."""
    seen = np.isin(mask, interesting)
    for fallback in (mask > 0, np.ones_like(mask, dtype=bool)):
        if not seen.any():
            seen = fallback
    place = [float(np.argmax(np.count_nonzero(seen, axis=tuple(b for b in range(3) if b != a)))) for a in range(3)]
    i, j, k = geometry.to_world(place).tolist()
    return i, j, k


def _scan(array: NDArray[Any], geometry: Geometry) -> Layer:
    """256 levels between the percentiles that a preview shows."""
    low, high = intensity_window([array])
    levels = np.nan_to_num(np.clip((array.astype(np.float32) - low) / (high - low), 0, 1)) * 255
    return Layer("scan", _nifti(levels.astype(np.uint8), geometry))


def _nifti(array: NDArray[Any], geometry: Geometry) -> bytes:
    if array.dtype.itemsize > 4:
        array = array.astype(np.int32)
    import nibabel  # noqa: PLC0415 - takes longer to load than a small scan to segment

    image: Any = nibabel.Nifti1Image(array, geometry.affine)
    return gzip.compress(image.to_bytes(), mtime=0)


def _blob(name: str, content: bytes) -> str:
    return f'<script type="application/octet-stream" id="{name}">{base64.b64encode(content).decode()}</script>\n'

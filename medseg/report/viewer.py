"""A scan and its masks as they lie in an HTML file for NiiVue to show."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry
from medseg.report.picture import intensity_window
from medseg.volume import Segmentation, Volume

MOST_BYTES = 12_000_000  # of all volumes in a page, compressed: what a phone still opens
_MOST_VOXELS = 40_000_000  # of one volume, which a browser holds as a texture


@dataclass(frozen=True)
class Layer:
    """One volume of a case: a compressed NIfTI file and how it is shown."""

    title: str
    content: bytes
    colormap: str
    opacity: float
    low: float
    high: float


@dataclass(frozen=True)
class ViewerCase:
    """What the viewer shows of one case."""

    title: str
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(len(layer.content) for layer in self.layers)


def viewer_case(title: str, volume: Volume | None, masks: Sequence[tuple[str, Segmentation]]) -> ViewerCase | None:
    """Pack a scan and one or two masks on its grid; None if they are too large for a browser.

    Without a scan, the first mask is the picture that the others lie on.
    """
    geometry = masks[0][1].geometry
    if np.prod(geometry.shape) > _MOST_VOXELS:
        return None
    layers = [_scan(volume)] if volume is not None else []
    # Two masks lie over each other: single colours tell which is which, where many colours tell the labels.
    colours = ("blue", "red") if len(masks) > 1 else ("actc",)
    for (name, mask), colour in zip(masks, colours, strict=True):
        # One colour for all labels of a mask, or a colour for each.
        array = (mask.array > 0).astype(np.uint8) if len(masks) > 1 else mask.array
        highest = float(max(1, int(array.max(initial=0))))
        low = 0.5 if len(masks) > 1 else 0.0
        layers.append(Layer(f"{name} ({_COLOURS[colour]})", _nifti(array, geometry), colour, 0.5, low, highest))
    return ViewerCase(title, tuple(layers))


def viewer_html(cases: Sequence[ViewerCase]) -> str:
    """The section of the page with the program and all that it shows; empty without cases."""
    if not cases:
        return ""
    blobs, entries = [], []
    for number, case in enumerate(cases):
        layers = []
        for place, layer in enumerate(case.layers):
            name = f"volume-{number}-{place}"
            blobs.append(_blob(name, layer.content))
            layers.append(
                {
                    "id": name,
                    "name": name,
                    "title": layer.title,
                    "colormap": layer.colormap,
                    "opacity": layer.opacity,
                    "low": layer.low,
                    "high": layer.high,
                }
            )
        entries.append({"title": case.title, "layers": layers})
    program = resources.files("medseg.report").joinpath("assets", "niivue.umd.js.gz").read_bytes()
    choices = "".join(f'<option value="{n}">{escape(case.title)}</option>' for n, case in enumerate(cases))
    # "<" would end the script element early.
    listed = json.dumps(entries).replace("<", "\\u003c")
    return f"""<section class="viewer" id="viewer" aria-labelledby="viewer-title">
<h2 id="viewer-title">Viewer</h2>
<p><label>Case <select>{choices}</select></label>
<button type="button" class="open">Open viewer</button>
<button type="button" class="masks">Show or hide masks</button></p>
<div class="screen">
<canvas tabindex="0" width="640" height="420" aria-label="The viewer is not open yet"></canvas>
</div>
<p role="status" class="soft">The viewer needs WebGL 2 and opens on demand.</p>
<script type="application/json" id="viewer-cases">{listed}</script>
{_blob("niivue-program", program)}
{"".join(blobs)}
</section>"""


_COLOURS = {"blue": "blue", "red": "red", "actc": "one colour a label"}


def _scan(volume: Volume) -> Layer:
    """The first channel at 256 levels between the percentiles that a preview shows."""
    low, high = intensity_window([volume.array[0]])
    levels = np.nan_to_num(np.clip((volume.array[0].astype(np.float32) - low) / (high - low), 0, 1)) * 255
    return Layer("scan", _nifti(levels.astype(np.uint8), volume.geometry), "gray", 1.0, 0.0, 255.0)


def _nifti(array: NDArray[Any], geometry: Geometry) -> bytes:
    if array.dtype.itemsize > 4:
        array = array.astype(np.int32)
    image: Any = nibabel.Nifti1Image(array, geometry.affine)
    return gzip.compress(image.to_bytes(), mtime=0)


def _blob(name: str, content: bytes) -> str:
    return f'<script type="application/octet-stream" id="{name}">{base64.b64encode(content).decode()}</script>\n'

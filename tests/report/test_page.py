import re

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from medseg.cli import main
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.report import preview, study_page
from medseg.volume import Segmentation, Volume
from tests.browser import in_browser

EMBEDDED_FORMATS = ("data:", "#")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 2.0, 1])), path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of four cases, each worse than the last; one of them has a name that tries to be markup."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("b", "a", "d", "c & <b>x")):
        reference = np.zeros((24, 20, 12), dtype=np.uint8)
        reference[6:14, 6:14, 3:9] = 1
        reference[16:20, 6:10, 3:9] = 2
        save(folder / "reference" / f"{name}.nii.gz", reference)
        save(folder / "prediction" / f"{name}_seg.nii.gz", np.roll(reference, number, 0))
        save(folder / "second" / f"{name}.nii.gz", reference)
        save(folder / "images" / f"{name}_0000.nii.gz", rng.normal(100 * (reference + 1), 10).astype(np.float32))
    command = ["evaluate", "reference", "prediction", "--images", "images", "--versus", "second", "-o", "out"]
    words = [str(folder / word) if word.isalpha() and word != "evaluate" else word for word in command]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return folder / "out" / "report.html"


def test_page_is_whole_in_itself_and_asks_the_network_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    for target in re.findall(r'(?:src|href)="([^"]*)"', markup):
        assert target.startswith(EMBEDDED_FORMATS), target
    assert "default-src 'none'" in text
    assert "url(" not in markup


def test_names_from_files_are_text_and_never_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "<b>x" not in text
    assert "c &amp; &lt;b&gt;x" in text


def test_worst_case_comes_first(page):
    headings = re.findall(r"<h3>(.*?), mean Dice", page.read_text(encoding="utf-8"))
    assert headings == ["c &amp; &lt;b&gt;x", "d", "a", "b"]


def test_table_sorts_by_value_and_back_and_says_so(page, tmp_path):
    found = in_browser(
        page,
        """
        const table = [...document.querySelectorAll("table.sortable")].at(-1);
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
        const header = table.tHead.rows[0].cells[1];
        header.querySelector("button").click();
        const up = names(), said = header.getAttribute("aria-sort");
        header.querySelector("button").click();
        return {up, down: names(), said, then: header.getAttribute("aria-sort")};
        """,
        tmp_path,
    )
    assert found["problems"] == []
    assert found["up"] == ["c & <b>x", "d", "a", "b"]
    assert found["down"] == found["up"][::-1]
    assert (found["said"], found["then"]) == ("ascending", "descending")


def test_viewer_draws_the_scan_and_both_masks_without_an_error(page, tmp_path):
    found = in_browser(
        page,
        """
        const section = document.querySelector(".viewer");
        await openViewer(section);
        const viewer = section.viewer, gl = viewer.gl;
        viewer.drawScene();
        const pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
        gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
        let grey = 0, blue = 0, red = 0;
        for (let n = 0; n < pixels.length; n += 4) {
          const [r, g, b] = pixels.slice(n, n + 3);
          if (r > 40 && r === g && g === b) grey++;
          if (b > r + 40) blue++;
          if (r > b + 40) red++;
        }
        return {state: section.dataset.state, volumes: viewer.volumes.length, grey, blue, red,
                behind: getComputedStyle(section).backgroundColor,
                said: section.querySelector("[role=status]").textContent};
        """,
        tmp_path,
    )
    assert found["problems"] == []
    assert (found["state"], found["volumes"]) == ("drawn", 3)
    assert found["behind"] == "rgba(0, 0, 0, 0)"  # the page's own, on which its text can be read
    assert min(found["grey"], found["blue"], found["red"]) > 100, found


@pytest.mark.parametrize("width", [500, 1200])
def test_page_fits_the_screen_and_every_control_and_picture_has_a_name(page, tmp_path, width):
    found = in_browser(
        page,
        """
        const named = e => (e.getAttribute("aria-label") || e.alt || e.textContent || "").trim() !== ""
          || e.closest("label") !== null;
        const unnamed = [...document.querySelectorAll("button, select, canvas, img, svg, [role=region]")]
          .filter(e => !named(e)).map(e => e.outerHTML.slice(0, 80));
        const luminance = colour => {
          const [r, g, b] = colour.match(/\\d+/g).map(Number).map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
          return .2126 * r + .7152 * g + .0722 * b;
        };
        const faint = [...document.querySelectorAll("p, td, th, caption, figcaption, summary, button")]
          .filter(e => 1.05 / (luminance(getComputedStyle(e).color) + .05) < 4.5).map(e => e.outerHTML.slice(0, 80));
        return {unnamed, faint, overflow: document.documentElement.scrollWidth - innerWidth,
                lang: document.documentElement.lang, headings: document.querySelectorAll("h1").length};
        """,
        tmp_path,
        width=width,
    )
    assert found["problems"] == []
    assert found["unnamed"] == found["faint"] == []
    assert found["overflow"] <= 0
    assert (found["lang"], found["headings"]) == ("en", 1)


def test_page_of_one_scan_draws_its_labels_without_an_error(tmp_path):
    array = np.random.default_rng(0).normal(100, 10, (1, 20, 18, 12)).astype(np.float32)
    numbers = np.zeros(array.shape[1:], dtype=np.uint8)
    numbers[5:12, 5:12, 3:9] = 1
    geometry = Geometry(numbers.shape, np.eye(4))
    labels = LabelSet.from_names({1: "<i>kidney", 2: "never there"})
    volume, segmentation = Volume(array, geometry), Segmentation(numbers, geometry, labels)
    page = tmp_path / "report.html"
    text = study_page(volume, segmentation, labels, picture=preview(volume, segmentation, labels))
    page.write_text(text, encoding="utf-8")
    assert "&lt;i&gt;kidney" in text
    assert "<i>" not in text
    script = """
        const section = document.querySelector(".viewer");
        await openViewer(section);
        return {state: section.dataset.state, volumes: section.viewer.volumes.length};
    """
    assert in_browser(page, script, tmp_path) == {"state": "drawn", "volumes": 2, "problems": []}

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

EMBEDDED_FORMATS = ("data:", "#")
WORST_FIRST = ["c & <b>x", "d", "a", "b"]

COLOURS_OF_THE_CANVAS = """
    const viewer = document.querySelector(".viewer").viewer, gl = viewer.gl;
    viewer.drawScene();
    const pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
    gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const found = {grey: 0, blue: 0, orange: 0, green: 0};
    for (let n = 0; n < pixels.length; n += 4) {
      const [r, g, b] = pixels.slice(n, n + 3);
      if (r > 40 && r === g && g === b) found.grey++;
      else if (b > r + 30 && b > g) found.blue++;
      else if (r > g + 15 && g > b + 15) found.orange++;
      else if (g > r + 25 && g > b + 5) found.green++;
    }
    return found;
"""


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


def test_every_link_leads_to_a_place_on_the_page_and_no_place_is_named_twice(page):
    markup = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    places = re.findall(r' id="([^"]+)"', markup)
    assert len(places) == len(set(places))
    assert set(re.findall(r'href="#([^"]+)"', markup)) <= set(places)


def test_names_from_files_are_text_and_never_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "<b>x" not in text
    assert "c &amp; &lt;b&gt;x" in text


def test_table_sorts_by_value_and_back_and_says_so(browser, page):
    browser.open(page)
    found = browser.run("""
        const table = document.querySelector("#cases table.sortable");
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
        const header = table.tHead.rows[0].cells[1];
        header.querySelector("button").click();
        const up = names(), said = header.getAttribute("aria-sort");
        header.querySelector("button").click();
        return {up, down: names(), said, then: header.getAttribute("aria-sort")};
    """)
    assert browser.problems == []
    assert found["up"] == WORST_FIRST
    assert found["down"] == WORST_FIRST[::-1]
    assert (found["said"], found["then"]) == ("ascending", "descending")


def test_worst_case_comes_first_and_every_case_shows_three_slices(browser, page):
    browser.open(page)
    found = browser.run("""
        const images = [...document.querySelectorAll("#worst img")];
        images.forEach(image => { image.loading = "eager"; });
        await Promise.all(images.map(image => image.decode()));
        return {names: [...document.querySelectorAll("#worst h3")].map(h => h.firstChild.textContent.trim()),
                drawn: images.filter(image => image.naturalWidth > 0).length};
    """)
    assert found == {"names": WORST_FIRST, "drawn": 12}


def test_viewer_draws_the_scan_and_where_two_masks_differ_without_an_error(browser, page):
    browser.open(page)
    found = browser.run("""
        const section = document.querySelector(".viewer");
        await openViewer(section);
        return {state: section.dataset.state, volumes: section.viewer.volumes.length,
                behind: getComputedStyle(section).backgroundColor,
                layers: [...section.querySelectorAll(".layers label")].map(label => label.textContent),
                legend: [...section.querySelectorAll(".legend span")].map(name => name.textContent)};
    """)
    assert (found["state"], found["volumes"]) == ("drawn", 3)
    assert found["behind"] == "rgba(0, 0, 0, 0)"  # the page's own, on which its text can be read
    assert found["layers"] == ["scan", "prediction", "second prediction"]
    assert found["legend"] == ["agree", "reference alone", "prediction alone", "other label"]
    seen = browser.run(COLOURS_OF_THE_CANVAS)
    assert min(seen.values()) > 100, seen
    browser.run("document.querySelectorAll('.layers input')[1].click()")
    hidden = browser.run(COLOURS_OF_THE_CANVAS)
    assert hidden["orange"] == 0
    assert hidden["grey"] > seen["grey"]
    assert browser.problems == []


def test_everything_can_be_reached_and_worked_by_keyboard_in_the_order_of_the_page(browser, page):
    browser.open(page)
    reached = []
    for _ in range(200):
        browser.press("Tab")
        here = browser.run("""
            const all = [...document.querySelectorAll("a[href], button, select, summary, canvas, [tabindex='0']")]
              .filter(e => e.checkVisibility());
            const outline = getComputedStyle(document.activeElement).outlineStyle;
            return [all.indexOf(document.activeElement), all.length, outline !== "none"];
        """)
        if reached and here[0] <= reached[-1][0]:
            break
        reached.append(here)
    places, count = [place for place, _, _ in reached], reached[0][1]
    assert places == list(range(count))  # each once, from the first to the last
    assert all(visible for _, _, visible in reached)
    browser.run("document.querySelector('#cases thead th:nth-child(2) button').focus()")
    browser.press("Enter")
    assert browser.run("return document.querySelector('#cases tbody th').textContent") == WORST_FIRST[0]
    browser.run("document.querySelector('.viewer .open').focus()")
    browser.press("Enter")
    browser.run("while (!document.querySelector('.viewer').dataset.state) await new Promise(f => setTimeout(f, 50));")
    browser.run("document.querySelector('canvas').focus()")
    where = "return [...document.querySelector('.viewer').viewer.scene.crosshairPos]"
    before = browser.run(where)
    browser.press("PageUp")
    browser.press("ArrowRight")
    after = browser.run(where)
    assert after[2] > before[2]
    assert after[0] > before[0]
    assert browser.problems == []


@pytest.mark.parametrize(("width", "phone"), [(360, True), (1200, False)])
def test_page_fits_the_screen_and_every_control_and_picture_has_a_name(browser, page, width, phone):
    browser.open(page, width=width, phone=phone)
    found = browser.run("""
        const named = e => (e.getAttribute("aria-label") || e.alt || e.textContent || "").trim() !== ""
          || e.closest("label") !== null;
        const unnamed = [...document.querySelectorAll("button, select, canvas, img, svg, [role=region]")]
          .filter(e => !named(e)).map(e => e.outerHTML.slice(0, 80));
        const luminance = colour => {
          const [r, g, b] = colour.match(/\\d+/g).map(Number).map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
          return .2126 * r + .7152 * g + .0722 * b;
        };
        const behind = e => {
          for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
          }
          return "rgb(255, 255, 255)";
        };
        const bar = "rgb(211, 230, 247)";
        const faint = [...document.querySelectorAll("p, td, th, small, dt, dd, dd span, a, li, h3 span, caption, "
          + "figcaption, summary, button")].filter(e => {
            const page = luminance(e.matches("td.bar") ? bar : behind(e));
            return (page + .05) / (luminance(getComputedStyle(e).color) + .05) < 4.5;
          }).map(e => e.outerHTML.slice(0, 80));
        const low = [...document.querySelectorAll("button, select, summary")]
          .filter(e => e.getBoundingClientRect().height < 40).map(e => e.outerHTML.slice(0, 80));
        const levels = [...document.querySelectorAll("h1, h2, h3")].map(h => Number(h.tagName[1]));
        return {unnamed, faint, low, overflow: document.documentElement.scrollWidth - innerWidth,
                lang: document.documentElement.lang, levels};
    """)
    assert browser.problems == []
    assert found["unnamed"] == found["faint"] == found["low"] == []
    assert found["overflow"] <= 0
    assert (found["lang"], found["levels"].count(1)) == ("en", 1)
    assert all(next_ <= level + 1 for level, next_ in zip(found["levels"], found["levels"][1:], strict=False))


def test_printed_page_has_all_numbers_and_no_viewer(browser, page):
    browser.open(page)
    assert browser.pdf().startswith(b"%PDF")
    found = browser.run("""
        window.dispatchEvent(new Event("beforeprint"));
        return [...document.querySelectorAll("details")].every(details => details.open);
    """)
    assert found
    assert re.search(r"@media print \{.*#viewer \{ display: none", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def study(tmp_path, shape=(20, 18, 12)):
    array = np.random.default_rng(0).normal(100, 10, (1, *shape)).astype(np.float32)
    numbers = np.zeros(shape, dtype=np.uint8)
    numbers[5:12, 5:12, 3:9] = 1
    geometry = Geometry(shape, np.eye(4))
    labels = LabelSet.from_names({1: "<i>kidney", 2: "never there"})
    volume, segmentation = Volume(array, geometry), Segmentation(numbers, geometry, labels)
    page = tmp_path / "report.html"
    text = study_page(volume, segmentation, labels, picture=preview(volume, segmentation, labels))
    page.write_text(text, encoding="utf-8")
    return page


OPENED = """
    const section = document.querySelector(".viewer");
    await openViewer(section);
    const text = name => section.querySelector(name).textContent;
    return {state: section.dataset.state, volumes: section.viewer.volumes.length,
            legend: text(".legend"), said: text("[role=status]")};
"""


def test_page_of_one_scan_draws_its_labels_without_an_error(browser, tmp_path):
    page = study(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "&lt;i&gt;kidney" in text
    assert "<i>kidney" not in text
    browser.open(page)
    said = "Showing scan."
    assert browser.run(OPENED) == {"state": "drawn", "volumes": 2, "legend": "<i>kidney", "said": said}
    assert browser.problems == []


def test_large_scan_is_shown_around_its_labels_and_coarser_and_says_so(browser, tmp_path, monkeypatch):
    whole = study(tmp_path, shape=(90, 80, 70)).stat().st_size
    monkeypatch.setattr("medseg.report.viewer._MOST_VOXELS", 10_000)
    page = study(tmp_path, shape=(90, 80, 70))
    assert page.stat().st_size < whole - 400_000
    browser.open(page)
    found = browser.run(OPENED)
    assert found["state"] == "drawn"
    assert "cut to the surroundings of the labels, shown at every 2 × 2 × 2th voxel" in found["said"]
    assert browser.problems == []

"use strict";
// Sorting: a click on a header sorts its table; numbers by value, names by the alphabet, what is undefined last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    headers.forEach(other => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column] ? row.cells[column].dataset.value ?? "" : "";
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));

// The viewer: its program and the volumes lie in this page, compressed; nothing is fetched.
const bytesOf = id => Uint8Array.from(atob(document.getElementById(id).textContent.trim()), c => c.charCodeAt(0));
const inflate = async bytes => new Response(
  new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
async function openViewer(section) {
  const status = section.querySelector("[role=status]");
  const canvas = section.querySelector("canvas");
  status.textContent = "Loading …";
  try {
    if (!window.niivue) {
      const script = document.createElement("script");
      script.textContent = await inflate(bytesOf("niivue-program"));
      document.head.append(script);
    }
    const viewer = section.viewer ?? new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true,  // as the pictures
      crosshairWidth: 0.3, crosshairColor: [1, 1, 0, 0.8], multiplanarShowRender: 1,
      isColorbar: false, loadingText: "", backColor: [0, 0, 0, 1], logLevel: "silent"});
    if (!section.viewer) {
      await viewer.attachToCanvas(canvas);
      section.viewer = viewer;
    }
    const entry = JSON.parse(document.getElementById("viewer-cases").textContent)[section.querySelector("select").value];
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    for (const [number, layer] of entry.layers.entries()) {
      const buffer = bytesOf(layer.id).buffer;
      const image = await niivue.NVImage.loadFromUrl({url: buffer, name: layer.name + ".nii.gz",
        colormap: layer.colormap, opacity: layer.opacity, cal_min: layer.low, cal_max: layer.high});
      viewer.addVolume(image);
      viewer.setInterpolation(number > 0);
    }
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    viewer.drawScene();
    const legend = entry.layers.map(layer => layer.title).join("; ");
    canvas.setAttribute("aria-label", `Slices and 3D view of ${entry.title}: ${legend}. Arrow keys move the slice.`);
    section.dataset.state = "drawn";
    status.textContent = legend;
  } catch (error) {
    section.dataset.state = "failed";
    status.textContent = `This browser cannot show the viewer (${error.message}); the pictures hold the same slices.`;
  }
}
for (const section of document.querySelectorAll(".viewer")) {
  section.querySelector(".open").addEventListener("click", () => openViewer(section));
  section.querySelector("select").addEventListener("change", () => section.viewer && openViewer(section));
  section.querySelector(".masks").addEventListener("click", () => {
    const viewer = section.viewer;
    if (!viewer) return;
    const shown = viewer.volumes.slice(1).some(volume => volume.opacity > 0);
    viewer.volumes.slice(1).forEach((_, n) => viewer.setOpacity(n + 1, shown ? 0 : 0.5));
  });
}
if (location.hash === "#viewer" && document.querySelector(".viewer")) openViewer(document.querySelector(".viewer"));

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
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(details => { details.open = true; });
  document.querySelectorAll("img").forEach(image => { image.loading = "eager"; });
});

// The viewer: its program and the volumes lie in this page, compressed; nothing is fetched.
const bytesOf = id => Uint8Array.from(atob(document.getElementById(id).textContent.trim()), c => c.charCodeAt(0));
const inflate = async bytes => new Response(
  new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
const MASK_OPACITY = 0.45;

async function programOf(section) {
  if (!window.niivue) {
    const script = document.createElement("script");
    script.textContent = await inflate(bytesOf("niivue-program"));
    document.head.append(script);
  }
  if (!section.viewer) {
    section.viewer = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true,  // as the pictures
      crosshairWidth: 0.3, crosshairColor: [1, 1, 1, 0.8], multiplanarShowRender: 1, fontMinPx: 13,
      isColorbar: false, loadingText: "", backColor: [0, 0, 0, 1], logLevel: "silent"});
    await section.viewer.attachToCanvas(section.querySelector("canvas"));
  }
  return section.viewer;
}

const opacityOf = (shown, number) => shown ? (number ? MASK_OPACITY : 1) : 0;

async function addLayer(viewer, layer, number) {
  const isMask = layer.legend !== null;
  const image = await niivue.NVImage.loadFromUrl({url: bytesOf(layer.id).buffer, name: layer.id + ".nii.gz",
    colormap: "gray", opacity: opacityOf(layer.shown, number), ...(isMask ? {} : {cal_min: 0, cal_max: 255})});
  viewer.addVolume(image);
  if (isMask) {
    // Every value has its own colour; 0 and what has no name are clear.
    const values = [{index: 0, name: "", rgb: [0, 0, 0]}, ...layer.legend];
    image.setColormapLabel({R: values.map(v => v.rgb[0]), G: values.map(v => v.rgb[1]), B: values.map(v => v.rgb[2]),
      A: values.map(v => v.index ? 255 : 0), I: values.map(v => v.index), labels: values.map(v => v.name)});
  }
}

function offerLayers(section, viewer, entry) {
  section.querySelector(".layers").replaceChildren(...entry.layers.map((layer, number) => {
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, {type: "checkbox", checked: layer.shown});
    box.addEventListener("change", () => viewer.setOpacity(number, opacityOf(box.checked, number)));
    label.append(box, layer.title);
    return label;
  }));
  const legend = new Map(entry.layers.flatMap(layer => (layer.legend ?? []).map(one => [one.name, one])));
  section.querySelector(".legend").replaceChildren(...[...legend.values()].map(one => {
    const swatch = document.createElement("i"), name = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${one.rgb.join(",")})`;
    name.append(swatch, one.name);
    return name;
  }));
}

async function openViewer(section) {
  const status = section.querySelector("[role=status]");
  const canvas = section.querySelector("canvas");
  status.textContent = "Loading …";
  try {
    const viewer = await programOf(section);
    const entry = JSON.parse(document.getElementById("viewer-cases").textContent)[section.querySelector(".case").value];
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    for (const [number, layer] of entry.layers.entries()) await addLayer(viewer, layer, number);
    viewer.setInterpolation(true);  // labels are not mixed, and voxels are seen as they are
    viewer.updateGLVolume();
    offerLayers(section, viewer, entry);
    viewer.setSliceType(Number(section.querySelector(".view").value));
    viewer.scene.crosshairPos = viewer.mm2frac(entry.focus);
    viewer.drawScene();
    const shown = entry.layers.map(layer => layer.title).join(", ");
    canvas.setAttribute("aria-label", `Slices and 3D view of ${entry.title}: ${shown}. Arrow keys move in the plane, `
      + "Page Up and Down change the slice.");
    section.dataset.state = "drawn";
    section.querySelector(".open").textContent = "Reset";
    status.textContent = [`Showing ${entry.title}`, entry.note].filter(Boolean).join("; ") + ".";
  } catch (error) {
    section.dataset.state = "failed";
    status.textContent = `This browser cannot show the viewer (${error.message}); the pictures hold the same slices.`;
  }
}

// Steps in voxels right, forwards and up; what is shown is turned to the patient, whatever the file's axes.
const STEPS = {ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1], PageDown: [0, 0, -1]};
for (const section of document.querySelectorAll(".viewer")) {
  section.querySelector(".open").addEventListener("click", () => openViewer(section));
  section.querySelector(".case").addEventListener("change", () => section.viewer && openViewer(section));
  section.querySelector(".view").addEventListener("change", event =>
    section.viewer && section.viewer.setSliceType(Number(event.target.value)));
  section.querySelector("canvas").addEventListener("keydown", event => {
    if (!section.viewer || !STEPS[event.key]) return;
    section.viewer.moveCrosshairInVox(...STEPS[event.key]);
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
}
if (location.hash === "#viewer" && document.querySelector(".viewer")) openViewer(document.querySelector(".viewer"));

// Taken against drift as a picture (picture.js): what is on the page, drawn anew as one SVG. Runs after scatter.js.

const SVG_NS = "http://www.w3.org/2000/svg", EDGE = 16;

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG_NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** `color` of any notation, as other programs read it. */
function ink(color, kind) {
  const dot = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
  dot.fillStyle = color;
  dot.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = dot.getImageData(0, 0, 1, 1).data;
  return { [kind]: `rgb(${red},${green},${blue})`, [`${kind}-opacity`]: (alpha / 255).toFixed(3) };
}

function planePicture() {
  const card = body.getBoundingClientRect(), plane = body.querySelector(".sc-plane"), area = plane.getBoundingClientRect();
  const box = (node) => node.getBoundingClientRect();
  const left = (x) => x - card.left + EDGE, top = (y) => y - card.top + EDGE;
  const words = (node, anchor = "start", aside = 0) => {
    const { left: from, right: to, top: above, height } = box(node), look = getComputedStyle(node);
    const x = { start: from + aside, middle: (from + to) / 2, end: to - aside }[anchor];
    return shape("text", { x: left(x), y: top(above + height / 2), "dominant-baseline": "central", "text-anchor": anchor,
      "font-size": look.fontSize, "font-weight": look.fontWeight, "font-family": look.fontFamily, ...ink(look.color, "fill") },
    node.textContent);
  };
  const line = (x1, y1, x2, y2, color, rest = {}) =>
    shape("line", { x1: left(x1), y1: top(y1), x2: left(x2), y2: top(y2), ...ink(color, "stroke"), ...rest });
  const look = getComputedStyle(document.body), colour = (name) => look.getPropertyValue(name).trim();
  const paper = ink(colour("--block-background-fill") || "#fff", "fill"), accent = getComputedStyle(plane.querySelector(".sc-good span")).color;
  const width = card.width + 2 * EDGE, height = top(box(body.querySelector(".sc-x")).bottom) + EDGE;
  const whole = shape("svg", { xmlns: SVG_NS, viewBox: `0 0 ${width} ${height}`, width, height },
    shape("rect", { width, height, ...paper }), ...[...body.querySelectorAll(".oc-head h2, .oc-head span")].map((one) => words(one)));
  const good = plane.querySelector(".sc-good"), corner = box(good);
  whole.append(shape("rect", { x: left(corner.left), y: top(corner.top), width: corner.width, height: corner.height, rx: 4,
    ...ink(getComputedStyle(good).backgroundColor, "fill") }), words(good.querySelector("span")));
  const edge = getComputedStyle(plane).borderLeftColor;
  for (const row of plane.querySelectorAll(".sc-row")) {
    whole.append(line(area.left, box(row).top, area.right, box(row).top, edge), words(row.querySelector("span"), "end"));
  }
  for (const column of plane.querySelectorAll(".sc-column")) {
    const at = box(column);
    whole.append(line(at.left, at.top, at.left, at.bottom, edge, { "stroke-dasharray": "3 3" }), words(column.querySelector("span"), "middle"));
  }
  whole.append(line(area.left, area.top, area.left, area.bottom, edge), words(body.querySelector(".sc-x"), "middle"));
  for (const dot of plane.querySelectorAll(".sc-dot")) {
    const at = box(dot), place = { cx: left((at.left + at.right) / 2), cy: top((at.top + at.bottom) / 2) };
    const kept = !dot.classList.contains("sc-gone"), chosen = dot.getAttribute("aria-pressed") === "true";
    const inner = shape("circle", { ...place, r: 4, "stroke-width": 2, ...ink(accent, "stroke"), ...(kept ? ink(accent, "fill") : paper) },
      shape("title", {}, dot.getAttribute("aria-label")));
    whole.append(inner);
    if (chosen) {
      whole.append(shape("circle", { ...place, r: 9, fill: "none", "stroke-width": 2, ...ink(accent, "stroke") }),
        words(dot.querySelector("i"), dot.classList.contains("sc-left") ? "end" : "start", 3));
    }
  }
  return new XMLSerializer().serializeToString(whole);
}

element.addEventListener("click", (event) => {
  const kind = event.target.closest("[data-save]")?.dataset.save;
  if (kind) savePicture(planePicture(), `drift-${run || "run"}`, kind);
});

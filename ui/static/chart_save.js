// The loss chart as a file: the legend and the plot in one SVG that needs no style sheet, or as a PNG of twice its size.
// Runs after loss_chart.js, whose scope it shares.

const LOOKS = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap",
  "stroke-linejoin", "opacity", "display", "font-family", "font-size", "font-weight", "font-variant-numeric", "text-anchor"];

/** A copy that looks the same without the page's style sheets. */
function drawn(node) {
  const copy = node.cloneNode(true);
  const all = [copy, ...copy.querySelectorAll("*")];
  [node, ...node.querySelectorAll("*")].forEach((one, i) => {
    const look = getComputedStyle(one);
    all[i].setAttribute("style", LOOKS.map((name) => `${name}:${look.getPropertyValue(name)}`).join(";"));
    all[i].removeAttribute("class");
  });
  return copy;
}

function picture() {
  const [hovered, room] = [hover, 14];
  hover = null;
  drawHover();                          // the crosshair is the reader's, not the picture's
  const origin = bar.getBoundingClientRect(), top = bar.offsetHeight + room + 6;
  const width = plot.clientWidth + 2 * room, height = top + plot.clientHeight + room;
  const paper = getComputedStyle(document.body).getPropertyValue("--block-background-fill").trim() || "#fff";
  const whole = s("svg", { xmlns: SVG, viewBox: `0 0 ${width} ${height}`, width, height },
    s("rect", { width, height, fill: paper }));
  for (const key of bar.querySelectorAll(".lc-key")) {
    const box = key.getBoundingClientRect(), sign = key.querySelector("svg").getBoundingClientRect(), look = getComputedStyle(key);
    if (!box.width) continue;
    const y = sign.top - origin.top + room, x = room - origin.left;
    const marks = [...key.querySelector("svg").children].map(drawn);
    whole.append(s("g", { transform: `translate(${sign.left + x} ${y}) scale(${sign.width / 18})` }, ...marks));
    whole.append(s("text", { x: sign.right + x + 5, y: y + sign.height / 2 + 4, fill: look.color, "font-size": look.fontSize,
      "font-family": look.fontFamily }, key.textContent));
  }
  const inner = drawn(plot);
  place(inner, { x: room, y: top, width: plot.clientWidth, height: plot.clientHeight });
  inner.removeAttribute("tabindex");
  whole.append(inner);
  hover = hovered;
  drawHover();
  return new XMLSerializer().serializeToString(whole);
}

function hand(blob, kind) {
  const link = h("a", { href: URL.createObjectURL(blob), download: `loss-${run || "run"}.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 30000);
}

async function savePng(svg) {
  const image = new Image(), address = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml;charset=utf-8" }));
  image.src = address;
  await image.decode();
  const canvas = h("canvas", { width: image.naturalWidth * 2, height: image.naturalHeight * 2 });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(address);
  canvas.toBlob((blob) => hand(blob, "png"), "image/png");
}

for (const [kind, label, save] of [
  ["SVG", text.svg, (svg) => hand(new Blob([svg], { type: "image/svg+xml;charset=utf-8" }), "svg")],
  ["PNG", text.png, savePng],
]) {
  const button = h("button", { type: "button", class: "lc-button", title: label, "aria-label": label }, kind);
  button.addEventListener("click", () => { if (!empty.hidden) return; save(picture()); });
  bar.append(button);
}

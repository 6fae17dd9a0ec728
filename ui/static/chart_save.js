// The loss chart as a picture (picture.js): the legend and the plot in one SVG. Runs after loss_chart.js, whose scope it
// shares.

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

for (const [kind, label] of [["SVG", text.svg], ["PNG", text.png]]) {
  const button = h("button", { type: "button", class: "lc-button", title: label, "aria-label": label }, kind);
  button.addEventListener("click", () => { if (empty.hidden) savePicture(picture(), `loss-${run || "run"}`, kind.toLowerCase()); });
  bar.append(button);
}

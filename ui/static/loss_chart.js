// The live loss chart: one SVG that asks the server for news once a second. Runs once per page as the body of a
// function with (element, trigger, props, server, upload, watch).
//
// The cursor lives here, not on the server: a page that was reloaded, or that opened late, starts from 0 and misses
// nothing. props.value is the run to show; "" leaves the choice to the server. `text` holds the labels.

const POLL = 1000, SLOWEST_POLL = 8000, SMOOTHING = 0.75, MOST_POINTS = 600;
const MARGIN = { left: 46, right: 14, top: 10, bottom: 26 };
const DRIFT_MARGIN = 48;                // on the right, for the second axis

// What is known of the run.
let run = null, cursor = 0, totalSteps = 0;
let points = [];                        // [step, raw, smooth], raw finite
let evaluations = new Map();            // step -> loss
let probes = new Set();
let drifts = new Map();                 // step -> [how far other answers have moved, in words]
let broken = 0;                         // the step whose numbers were none; 0 for none
let ruler = [];                         // [how far, what moves a model so far]

// What the person chose; it outlives every poll, and zoom ends with the run.
let zoom = null;                        // [first step, last step] or null
let logarithmic = false;
let hover = null;                       // index into points, or null

// ---- the frame: built once -------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function place(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  place(node, attributes);
  node.append(...children);
  return node;
}

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  place(node, attributes);
  node.append(...children);
  return node;
}

function legend(label, ...marks) {
  return h("span", { class: "lc-key" }, s("svg", { viewBox: "0 0 18 10", "aria-hidden": "true" }, ...marks), label);
}

const logButton = h("button", { type: "button", class: "lc-button", "aria-pressed": "false" }, text.log);
const resetButton = h("button", { type: "button", class: "lc-button", hidden: "" }, text.reset);
const trouble = h("span", { class: "lc-trouble", role: "status" });
const brokenKey = legend(text.broken, s("path", { class: "lc-broken", d: "M9 0v10M6 2l6 6M12 2l-6 6" }));
brokenKey.hidden = true;
const bar = h("div", { class: "lc-bar" },
  legend(text.smooth, s("path", { class: "lc-smooth", d: "M1 5h16" })),
  legend(text.raw, s("path", { class: "lc-raw", d: "M1 5h16" })),
  legend(text.evaluated, s("rect", { class: "lc-eval", x: 5.5, y: 1.5, width: 7, height: 7 })),
  legend(text.probed, s("path", { class: "lc-probe", d: "M9 0v10" })),
  legend(text.drift, s("path", { class: "lc-drift", d: "M1 5h16" }), s("path", { class: "lc-moved", d: diamond(9, 5) })),
  brokenKey, h("span", { class: "lc-space" }), trouble, resetButton, logButton);

const clipId = `lc${Math.random().toString(36).slice(2, 8)}`;
const clip = s("rect");
const grid = s("g", { class: "lc-grid" });
const probeLines = s("path", { class: "lc-probe" });
const rawLine = s("path", { class: "lc-raw" });
const smoothLine = s("path", { class: "lc-smooth" });
const driftLine = s("path", { class: "lc-drift" });
const diamonds = s("g");
const squares = s("g");
const brokenLine = s("path", { class: "lc-broken" });
const now = s("circle", { class: "lc-now", r: 4 });
const cross = s("line", { class: "lc-cross" });
const dot = s("circle", { class: "lc-dot", r: 4 });
const band = s("rect", { class: "lc-zoom" });
const plot = s("svg", { class: "lc-plot", role: "img", tabindex: "0", "aria-label": text.title },
  s("defs", {}, s("clipPath", { id: clipId }, clip)), grid,
  s("g", { "clip-path": `url(#${clipId})` }, probeLines, driftLine, rawLine, smoothLine, diamonds, squares,
    now, brokenLine), cross, dot, band);
const tip = h("div", { class: "lc-tip", hidden: "" });
const empty = h("div", { class: "lc-empty" }, text.empty);
element.replaceChildren(h("div", { class: "lc" }, bar, plot, tip, empty));

// ---- data ------------------------------------------------------------------------------------------------------

function startOver(next) {
  run = next;
  cursor = totalSteps = 0;
  points = [];
  evaluations = new Map();
  probes = new Set();
  drifts = new Map();
  zoom = hover = null;
}

function take(news) {
  const id = news.run ?? "";
  if (id !== run) startOver(id);
  if (news.from === 0) {
    points = [];
    evaluations = new Map();
    probes = new Set();
    drifts = new Map();
  } else if (news.from !== cursor) {    // something was missed: ask for everything again
    cursor = 0;
    return;
  }
  cursor = news.cursor;
  totalSteps = news.total_steps || 0;
  ruler = news.ruler ?? [];
  broken = news.broken ?? 0;
  for (const [step, loss, smooth] of news.points ?? []) {
    if (!Number.isFinite(loss)) continue;
    const last = points.at(-1);
    points.push([step, loss, smooth ?? (last ? last[2] * SMOOTHING + loss * (1 - SMOOTHING) : loss)]);
  }
  for (const [step, loss] of news.eval ?? []) if (Number.isFinite(loss)) evaluations.set(step, loss);
  for (const step of news.probes ?? []) probes.add(step);
  for (const [step, value, words] of news.drift ?? []) if (Number.isFinite(value)) drifts.set(step, [value, words]);
}

/** At most `MOST_POINTS` of `rows` for column `column`: the lowest and highest of each bucket, first and last kept. */
function thin(rows, column) {
  if (rows.length <= MOST_POINTS) return rows;
  const inner = rows.length - 2, buckets = (MOST_POINTS - 2) / 2;
  const kept = [rows[0]];
  for (let b = 0; b < buckets; b++) {
    const from = 1 + Math.floor((inner * b) / buckets), to = 1 + Math.floor((inner * (b + 1)) / buckets);
    let low = from, high = from;
    for (let i = from; i < to; i++) {
      if (rows[i][column] < rows[low][column]) low = i;
      if (rows[i][column] > rows[high][column]) high = i;
    }
    if (from < to) kept.push(rows[Math.min(low, high)]);
    if (low !== high) kept.push(rows[Math.max(low, high)]);
  }
  kept.push(rows.at(-1));
  return kept;
}

// ---- scales ----------------------------------------------------------------------------------------------------

let view = null;                        // {x, y, stepAt, visible}: the scales of the last drawing

/** A round distance between marks for about `parts` of them in `span`, and the decimals it needs. */
function niceStep(span, parts) {
  const rough = span / parts, exponent = Math.floor(Math.log10(rough)), power = 10 ** exponent;
  const times = [1, 2, 2.5, 5, 10].find((k) => k * power >= rough - 1e-12) ?? 10;
  return { step: times * power, decimals: Math.max(0, -exponent + (times === 2.5 ? 1 : 0) - (times === 10 ? 1 : 0)) };
}

function xRange() {
  const last = points.at(-1)?.[0] ?? 1;
  return zoom ?? [0, Math.max(totalSteps, last, 1)];
}

/** Lowest and highest value on the y axis, and its marks. */
function yScale(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (logarithmic) {
    low = Math.max(low, 1e-6);
    high = Math.max(high, low * 1.2);
    const marks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const k of [1, 2, 5]) marks.push(k * 10 ** power);
    }
    const from = Math.max(...marks.filter((m) => m <= low), low / 10), to = Math.min(...marks.filter((m) => m >= high));
    return { low: from, high: to, marks: marks.filter((m) => m >= from && m <= to) };
  }
  if (!zoom || low < (high - low) * 0.5) low = Math.min(0, low);
  if (high - low < 1e-9) high = low + (Math.abs(low) || 1);
  const { step, decimals } = niceStep(high - low, 4);
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  const marks = [];
  for (let i = 0; low + i * step <= high + step / 2; i++) marks.push(low + i * step);
  return { low, high, marks, decimals };
}

/** The drift's own axis, by powers of ten: wide enough for what was read and for three changes that people know. */
function driftScale() {
  const values = [...drifts.values()].map(([value]) => value);
  const least = Math.max(1e-5, Math.min(0.0008, ...values));
  const known = ruler.map(([value]) => value).filter((value) => value <= least && value > least / 10);
  const low = Math.log10(Math.min(least, ...known) * 0.8);
  const high = Math.log10(Math.max(0.045, ...values) * 1.25);
  const share = (value) => Math.max(0, (Math.log10(Math.max(value, 1e-9)) - low) / (high - low));
  return { share, marks: ruler.filter(([value]) => share(value) > 0 && share(value) <= 1) };
}

function diamond(x, y) {
  return `M${x} ${y - 4.5}L${x + 4.5} ${y}L${x} ${y + 4.5}L${x - 4.5} ${y}Z`;
}

function show(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 1e5) return value.toExponential(1);
  return size < 0.1 ? value.toFixed(4) : size < 10 ? value.toFixed(3) : value.toFixed(1);
}

/** A number beside the y axis. */
function mark(value, decimals) {
  return logarithmic ? String(Number(value.toPrecision(2))) : value.toFixed(decimals);
}

// ---- drawing ---------------------------------------------------------------------------------------------------

function draw() {
  const width = plot.clientWidth, height = plot.clientHeight;
  const bare = !points.length && !evaluations.size;
  empty.hidden = !bare;
  resetButton.hidden = !zoom;
  if (!width) return;                   // in a closed tab: drawn when it opens
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [first, last] = xRange();
  const right = width - (drifts.size ? DRIFT_MARGIN : MARGIN.right), bottom = height - MARGIN.bottom;
  const visible = points.filter((p) => p[0] >= first && p[0] <= last);
  const evals = [...evaluations].filter(([step]) => step >= first && step <= last);
  const values = visible.flatMap((p) => [p[1], p[2]]).concat(evals.map((e) => e[1]));
  const scale = yScale(values.length ? values : [0, 1]);
  const x = (step) => MARGIN.left + ((step - first) / (last - first)) * (right - MARGIN.left);
  const bend = logarithmic ? (v) => Math.log10(Math.max(v, scale.low)) : (v) => v;
  const share = (v) => (bend(v) - bend(scale.low)) / (bend(scale.high) - bend(scale.low));
  const y = (v) => bottom - share(v) * (bottom - MARGIN.top);
  const stepAt = (px) => first + ((px - MARGIN.left) / (right - MARGIN.left)) * (last - first);
  view = { x, y, stepAt, first, last, right, bottom, width };
  // 6 px beyond the axis for the dot at the end of the curve.
  place(clip, { x: MARGIN.left, y: 0, width: right - MARGIN.left + (zoom ? 0 : 6), height: bottom + 1 });
  drawGrid(scale, first, last, width);
  const pair = (p, column) => `${x(p[0]).toFixed(1)} ${y(p[column]).toFixed(1)}`;
  const path = (rows, column) => rows.map((p, i) => (i ? "L" : "M") + pair(p, column)).join("");
  rawLine.setAttribute("d", path(thin(around(first, last), 1), 1));
  smoothLine.setAttribute("d", path(thin(around(first, last), 2), 2));
  probeLines.setAttribute("d", [...probes].filter((p) => p >= first && p <= last)
    .map((p) => `M${x(p).toFixed(1)} ${MARGIN.top}V${bottom}`).join(""));
  squares.replaceChildren(...evals.map(([step, loss]) =>
    s("rect", { class: "lc-eval", x: x(step) - 3.5, y: y(loss) - 3.5, width: 7, height: 7 })));
  brokenKey.hidden = !broken;
  const at = x(broken).toFixed(1), head = MARGIN.top + 6;
  brokenLine.setAttribute("d", !broken || broken < first || broken > last ? "" :
    `M${at} ${MARGIN.top}V${bottom}M${at - 5} ${head - 5}l10 10M${+at + 5} ${head - 5}l-10 10`);
  drawDrift(first, last);
  const end = points.at(-1);
  now.style.display = end && end[0] >= first && end[0] <= last ? "" : "none";
  if (end) place(now, { cx: x(end[0]), cy: y(end[2]) });
  const summary = end ? phrase(text.summary, { step: end[0], total: totalSteps, loss: show(end[1]) }) : text.title;
  plot.setAttribute("aria-label", summary);
  drawHover();
}

/** How far other answers have moved, on the axis at the right. */
function drawDrift(first, last) {
  const { x, right, bottom } = view, { share, marks } = driftScale();
  const y = (value) => bottom - share(value) * (bottom - MARGIN.top);
  const seen = [...drifts].sort((a, b) => a[0] - b[0]).filter(([step]) => step >= first && step <= last);
  driftLine.setAttribute("d", seen.map(([step, [value]], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join(""));
  diamonds.replaceChildren(...seen.map(([step, [value]]) =>
    s("path", { class: "lc-moved", d: diamond(+x(step).toFixed(1), +y(value).toFixed(1)) })));
  if (!drifts.size) return;
  grid.append(...marks.flatMap(([value, label]) => [
    s("line", { class: "lc-tick", x1: right, x2: right + 4, y1: Math.round(y(value)), y2: Math.round(y(value)) }),
    s("text", { class: "lc-ruler", x: right + 7, y: y(value) + 4 }, label),
  ]));
}

/** The points in the range and one beyond each end, so that zoomed lines run to the edge. */
function around(first, last) {
  if (!zoom) return points;
  const from = Math.max(0, indexOf(first) - 1);
  return points.slice(from, Math.min(points.length, indexOf(last) + 2));
}

function drawGrid(scale, first, last, width) {
  const { x, y, right, bottom } = view;
  const nodes = bareMarks(scale).flatMap((value) => [
    s("line", { x1: MARGIN.left, x2: right, y1: Math.round(y(value)), y2: Math.round(y(value)) }),
    s("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, mark(value, scale.decimals)),
  ]);
  const { step } = niceStep(last - first, Math.max(2, Math.min(6, width / 90)));
  const whole = Math.max(1, step === 2.5 ? 5 : step);       // steps are whole numbers
  for (let value = Math.ceil(first / whole) * whole; value <= last + 1e-9; value += whole) {
    if (x(value) > right + 1) break;
    nodes.push(s("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, String(Math.round(value))));
  }
  // Before there is anything to measure, lines without numbers.
  grid.replaceChildren(...nodes.filter((node) => empty.hidden || node.tagName === "line"));
}

function bareMarks(scale) {
  const most = 7, every = Math.ceil(scale.marks.length / most);
  return scale.marks.filter((_, i) => i % every === 0);
}

const phrase = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, key) => values[key]);

// ---- crosshair -------------------------------------------------------------------------------------------------

/** Index of the point whose step is nearest to `step`. */
function indexOf(step) {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - points[low - 1][0] < points[low][0] - step ? low - 1 : low;
}

function drawHover() {
  const point = hover === null ? null : points[hover];
  const on = Boolean(point && view && point[0] >= view.first && point[0] <= view.last && !pull);
  cross.style.display = dot.style.display = on ? "" : "none";
  tip.hidden = !on;
  if (!on) return;
  const [step, raw, smooth] = point, px = view.x(step);
  place(cross, { x1: px, x2: px, y1: MARGIN.top, y2: view.bottom });
  place(dot, { cx: px, cy: view.y(smooth) });
  const cells = [h("b", {}, phrase(text.step, { n: step })),
    h("span", {}, text.raw), h("span", {}, show(raw)), h("span", {}, text.smooth), h("span", {}, show(smooth))];
  const near = [...evaluations].sort((a, b) => Math.abs(a[0] - step) - Math.abs(b[0] - step))[0];
  if (near) {
    const label = near[0] === step ? text.evaluated : `${text.evaluated} @ ${near[0]}`;
    cells.push(h("span", {}, label), h("span", {}, show(near[1])));
  }
  const moved = [...drifts].sort((a, b) => Math.abs(a[0] - step) - Math.abs(b[0] - step))[0];
  if (moved) {
    const label = moved[0] === step ? text.moved : `${text.moved} @ ${moved[0]}`;
    cells.push(h("span", {}, label), h("span", {}, show(moved[1][0])), h("em", {}, moved[1][1]));
  }
  tip.replaceChildren(...cells);
  const left = px + 14 + tip.offsetWidth < view.width ? px + 14 : px - 14 - tip.offsetWidth;
  tip.style.transform = `translate(${Math.round(Math.max(0, left))}px, ${bar.offsetHeight + MARGIN.top}px)`;
}

// ---- pointer and keys ------------------------------------------------------------------------------------------

let pull = null;                        // pixel where a drag began; it zooms once it is long enough

const pixel = (event) => event.clientX - plot.getBoundingClientRect().left;
const inPlot = (px) => Math.min(Math.max(px, MARGIN.left), view.right);

plot.addEventListener("pointerdown", (event) => {
  if (event.button || !points.length || !view) return;
  pull = { from: inPlot(pixel(event)), to: null };
  plot.setPointerCapture(event.pointerId);
});

plot.addEventListener("pointermove", (event) => {
  if (!points.length || !view) return;
  if (pull && Math.abs(inPlot(pixel(event)) - pull.from) > 6) pull.to = inPlot(pixel(event));
  if (pull?.to) {
    const width = Math.abs(pull.to - pull.from), height = view.bottom - MARGIN.top;
    place(band, { x: Math.min(pull.from, pull.to), y: MARGIN.top, width, height });
    band.style.display = "";
  } else {
    hover = indexOf(view.stepAt(pixel(event)));
  }
  drawHover();
});

function release(event) {
  const chosen = event.type === "pointerup" && pull?.to ? [pull.from, pull.to].sort((a, b) => a - b) : null;
  pull = null;
  band.style.display = "none";
  if (!chosen) return;
  const [first, last] = chosen.map(view.stepAt);
  if (last - first >= 1) zoom = [Math.max(0, first), last];
  draw();
}

plot.addEventListener("pointerup", release);
plot.addEventListener("pointercancel", release);
plot.addEventListener("pointerleave", () => { if (!pull) { hover = null; drawHover(); } });

function resetZoom() {
  zoom = null;
  draw();
}

plot.addEventListener("dblclick", resetZoom);
resetButton.addEventListener("click", resetZoom);
logButton.addEventListener("click", () => {
  logarithmic = !logarithmic;
  logButton.setAttribute("aria-pressed", String(logarithmic));
  draw();
});

plot.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") { hover = null; resetZoom(); }
  if (!by || !points.length) return;
  event.preventDefault();
  hover = Math.min(Math.max((hover ?? points.length - 1 - by) + by, 0), points.length - 1);
  drawHover();
});
plot.addEventListener("blur", () => { hover = null; drawHover(); });

// ---- polling ---------------------------------------------------------------------------------------------------

let wait = POLL, timer = 0, asking = false, heard = "";

async function poll() {
  clearTimeout(timer);
  if (!element.isConnected) return;
  if (!document.hidden && plot.clientWidth && !asking) {
    asking = true;
    try {
      const wanted = props.value || "";
      const news = await server.metrics({ run: wanted, cursor: wanted && wanted !== run ? 0 : cursor });
      const told = JSON.stringify(news);
      if (wanted === (props.value || "") && told !== heard) {
        heard = told;                   // what brings nothing new is not drawn
        take(news);
        draw();
      }
      wait = POLL;
      trouble.textContent = "";
    } catch {                           // server gone or busy: ask less often until it answers
      wait = Math.min(wait * 2, SLOWEST_POLL);
      if (wait > 2 * POLL) trouble.textContent = text.trouble;
    }
    asking = false;
  }
  const pause = Math.max(wait, window.onecardPause || 0);
  timer = setTimeout(poll, pause - performance.now() % pause);  // when all others ask (ui/live.py)
}

band.style.display = cross.style.display = dot.style.display = now.style.display = "none";
draw();
poll();
watch("value", () => { startOver(null); heard = ""; draw(); poll(); });
new ResizeObserver(() => { draw(); if (!points.length) poll(); }).observe(plot);
document.addEventListener("visibilitychange", () => { if (!document.hidden && element.isConnected) poll(); });

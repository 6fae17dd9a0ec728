// The row editor: a table of questions and answers in plain DOM. Runs once per page as the body of a function with
// (element, trigger, props, server, upload, watch). The row_*.js files make that one body: row_text (pure functions),
// this one (the frame, the rows on the page), row_send (the way to the server), row_open (the way to a row's panel) and
// row_actions (what a person does).
//
// props.value     see row_send.js
// text            labels; props.identity, props.saved: set by the page (see row_editor.py)
// A row is never changed in place, so an undo step is an array of references and "same object" means "same row".

const FIELDS = ["instruction", "input", "output"];
const UNDO_STEPS = 100, EAGER_ROWS = 200, MAX_ROWS = 60000, MANY_ROWS = 3000, CHUNK_ROWS = 100;

let lines = [];                         // one per row, in order: {row, node, number, parts, wantsInput, hidden}
let past = [], future = [];             // undo and redo: arrays of rows
let session = null;                     // the textarea whose typing already has its undo step
let query = "";
const lineOfNode = new WeakMap();

// ---- small tools -----------------------------------------------------------------------------------------------

const ICONS = {
  add: "M8 3v10M3 8h10",
  undo: "M5.5 3 2.5 6l3 3M2.5 6h7a3.75 3.75 0 0 1 0 7.5H6",
  redo: "m10.5 3 3 3-3 3M13.5 6h-7a3.75 3.75 0 0 0 0 7.5H10",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10ZM10.7 10.7 14 14",
  shortcuts: "M1.5 4h13v8.5h-13ZM4.2 6.7h.01M6.8 6.7h.01M9.3 6.7h.01M11.8 6.7h.01M5 9.8h6",
  clear: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.6 9h6.8l.6-9",
  input: "M2.5 4h11M2.5 8h5M2.5 12h4M11 8v6M8 11h6",
  up: "M8 13V3.5M4 7.5l4-4 4 4",
  down: "M8 3v9.5M4 8.5l4 4 4-4",
  duplicate: "M5.5 5.5h8v8h-8ZM10.5 5.5v-3h-8v8h3",
  remove: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.6 9h6.8l.6-9M6.7 7.2v3.6M9.3 7.2v3.6",
};

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS(svg.namespaceURI, "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that runs commands[name]; `title` is its accessible name and tooltip unless it shows a label. */
function button(name, title, label = "") {
  const look = label ? "re-button" : "re-icon";
  const node = h("button", { type: "button", class: look, "data-do": name, title }, icon(name));
  if (label) node.append(h("span", {}, label)); else node.setAttribute("aria-label", title);
  return node;
}

const phrase = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, key) => values[key]);
const rowsNow = () => lines.map((line) => line.row);
const lineAt = (node) => lineOfNode.get(node?.closest?.(".re-row")) ?? null;

// ---- the frame: built once -------------------------------------------------------------------------------------

const search = h("input", { type: "search", class: "re-search", placeholder: text.search, "aria-label": text.search });
const found = h("span", { class: "re-found", "aria-live": "polite" });
const undoButton = button("undo", text.undo);
const redoButton = button("redo", text.redo);
const keysButton = button("shortcuts", text.keys_title);
const keysPanel = h("div", { class: "re-keys", hidden: "" }, h("b", {}, text.keys_title));
for (const [keys, what] of text.keys) keysPanel.append(h("kbd", {}, keys), h("span", {}, what));
keysButton.setAttribute("aria-expanded", "false");

const bar = h("div", { class: "re-bar" },
  button("add", text.add_title, text.add),
  h("span", { class: "re-group" }, undoButton, redoButton),
  h("label", { class: "re-find" }, icon("search"), search, found),
  h("span", { class: "re-hint" }, text.hint),
  h("span", { class: "re-group" }, keysButton, button("clear", text.clear)), keysPanel);

const id = `re${Math.random().toString(36).slice(2, 8)}`;   // for aria-labelledby: "Question 12"
const head = h("div", { class: "re-head", "aria-hidden": "true" },
  h("span", {}, "#"), h("span", { id: `${id}-instruction` }, text.question),
  h("span", { id: `${id}-output` }, text.answer), h("span", { id: `${id}-input`, hidden: "" }, text.input));
const body = h("div", { class: "re-body", role: "list", tabindex: "-1", "aria-label": text.rows_label });
const empty = h("div", { class: "re-empty" }, h("b", {}), h("span", {}));
const count = h("span", { class: "re-count" });
const incomplete = h("span", { class: "re-todo" });
const state = h("span", { class: "re-state" });
const note = h("span", { class: "re-note", role: "status" });
const foot = h("div", { class: "re-foot" }, count, incomplete, state, note);
const root = h("div", { class: "re" }, bar, head, body, empty, foot);
element.replaceChildren(root);

// One set of row buttons for the whole table; it moves to the row under the pointer or with the caret.
const tools = h("div", { class: "re-tools", role: "group", "aria-label": text.row_tools });
for (const name of ["up", "down", "duplicate", "remove"]) tools.append(button(name, text[name]));
const addInput = button("input", text.add_input);
for (const node of [...tools.children, addInput]) node.tabIndex = -1;    // Tab goes from cell to cell; keys do the same

// ---- one row: built when it comes near the screen --------------------------------------------------------------

const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) build(lineOfNode.get(entry.target));
}, { root: body, rootMargin: "800px 0px" });

const newLine = (row) => ({ row, node: null, number: 0, parts: null, wantsInput: false, hidden: false });

function nodeOf(line) {
  if (line.node) return line.node;
  line.node = h("div", { class: "re-row", role: "listitem" });
  line.node.hidden = line.hidden;
  lineOfNode.set(line.node, line);
  nearby.observe(line.node);
  return line.node;
}

function textarea(line, field) {
  const node = h("textarea", {
    rows: "1", "data-field": field, spellcheck: "false",
    "aria-labelledby": `${id}-${field} ${line.parts.number.id}`,
    placeholder: { instruction: text.question_missing, input: text.input_missing, output: text.answer_missing }[field],
  });
  return node;
}

let serial = 0;

function build(line) {
  if (!line || line.parts) return;
  nodeOf(line);
  nearby.unobserve(line.node);
  const parts = line.parts = {
    number: h("span", { class: "re-number", id: `${id}-n${serial++}`, title: text.drag }, String(line.number)),
    question: h("div", { class: "re-cell" }),
    answer: h("div", { class: "re-cell re-answer" }),
  };
  parts.question.append(parts.instruction = textarea(line, "instruction"));
  parts.answer.append(parts.output = textarea(line, "output"));
  line.node.append(parts.number, parts.question, parts.answer);
  paint(line);
}

/** Bring the row's cells to what the row says. A cell that already says it is left alone: its caret stays. */
function paint(line) {
  if (!line.parts) return;
  const { parts, row } = line;
  if (row.input) line.wantsInput = true;
  if (line.wantsInput && !parts.input) parts.instruction.after(parts.input = textarea(line, "input"));
  if (!line.wantsInput && parts.input) { parts.input.remove(); delete parts.input; }
  for (const field of FIELDS) {
    const cell = parts[field];
    if (cell && cell.value !== row[field]) { cell.value = row[field]; fit(cell); }
  }
  mark(line);
}

/** Everything around the cells: the amber edge, the badges and the text with its placeholders resolved. */
function mark(line) {
  if (!line.parts) return;
  const { parts, row, node } = line;
  const todo = missing(row);
  node.classList.toggle("is-incomplete", todo.length > 0);
  for (const field of ["instruction", "output"]) parts[field].classList.toggle("is-missing", todo.includes(field));
  if (Boolean(parts.badges) !== hasBadges(row)) badges(line);
  preview(line, "question", questionOf(row));
  preview(line, "answer", row.output);
}

const hasBadges = (row) => Boolean(row.system || row.history?.length || row.provenance || controlIn(row).length);

function badges(line) {
  const { parts, row } = line;
  parts.badges?.remove();
  parts.badges = null;
  if (!hasBadges(row)) return;
  parts.badges = h("div", { class: "re-badges", "data-do": "details" });
  const tip = (words) => words.length > 600 ? `${words.slice(0, 600)}…` : words;
  if (row.system) parts.badges.append(h("span", { title: tip(String(row.system)) }, text.system));
  if (row.history?.length) {
    const turns = row.history.map((turn) => `${turn.role}: ${turn.content}`).join("\n");
    parts.badges.append(h("span", { title: tip(turns) }, text.multi_turn));
  }
  if (row.provenance) {
    const { adapter, answer } = row.provenance;
    const words = phrase(text.fixed_by, { adapter: adapter || text.base, answer });
    parts.badges.append(h("span", { title: tip(words) }, text.fixed));
  }
  const typed = controlIn(row);
  if (typed.length) {
    const title = phrase(text.control_typed, { strings: typed.join("  ") });
    parts.badges.append(h("span", { class: "is-control", title }, text.control));
  }
  parts.question.append(parts.badges);
}

function preview(line, cell, words) {
  const key = `${cell}Preview`;
  if (!hasPlaceholder(words)) {
    line.parts[key]?.remove();
    delete line.parts[key];
    return;
  }
  const node = line.parts[key] ??= line.parts[cell].appendChild(h("div", { class: "re-preview" }));
  const pieces = resolvePieces(words, languageOf(line.row), props.identity);
  node.replaceChildren(...pieces.map(([kind, piece]) => {
    if (kind === "plain") return piece;
    return h("span", { class: `re-${kind}` }, kind === "missing" ? `${piece} ${text.unresolved}` : piece);
  }));
}

// Textareas grow by themselves where the browser knows field-sizing; elsewhere by their scroll height.
const growsByItself = CSS.supports("field-sizing", "content");

function fit(cell) {
  if (growsByItself) return;
  cell.style.height = "auto";
  cell.style.height = `${cell.scrollHeight}px`;
}

if (!growsByItself) {
  let width = 0;
  new ResizeObserver(() => {
    if (width === (width = body.clientWidth)) return;
    body.querySelectorAll("textarea").forEach(fit);
  }).observe(body);
}

// ---- from rows to page: only what differs is touched -----------------------------------------------------------

function show(rows) {
  const spare = new Map(lines.map((line) => [line.row, line]));
  const next = rows.map((row) => {
    const line = spare.get(row);
    spare.delete(row);
    return line;
  });
  rows.forEach((row, i) => {
    if (next[i]) return;
    const old = lines[i];                                   // a changed row keeps its place and its DOM
    if (old && spare.get(old.row) === old) {
      spare.delete(old.row);
      old.row = row;
      old.wantsInput = Boolean(row.input);
      paint(old);
      if (old.parts) badges(old);
      next[i] = old;
    } else {
      next[i] = newLine(row);
    }
  });
  for (const { node } of spare.values()) {
    if (!node) continue;
    if (node.contains(tools)) hideTools();
    nearby.unobserve(node);
    node.remove();
  }
  lines = next;
  lines.forEach((line, i) => {
    if (line.number !== i + 1 && line.parts) line.parts.number.textContent = String(i + 1);
    line.number = i + 1;
  });
  arrange();
  lines.slice(0, EAGER_ROWS).forEach(build);
  incompleteCount = lines.reduce((sum, line) => sum + isIncomplete(line.row), 0);
  if (query) filter();
  showTotals();
}

// ---- a large table: its rows in chunks, each of which gets its rows when it comes near the screen

let chunks = [];                        // {node, lines, mounted}; a table that is not large is one chunk, the body itself
let rowHeight = 39;                     // what a row is taken to need before it is there
const chunkOfNode = new WeakMap();
const nearChunks = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) mount(chunkOfNode.get(entry.target));
}, { root: body, rootMargin: "1200px 0px" });

function arrange() {
  const size = lines.length > MANY_ROWS ? CHUNK_ROWS : Infinity;
  const many = size !== Infinity, wanted = many ? Math.ceil(lines.length / size) : 1;
  if (chunks.length && many !== (chunks[0].node !== body)) {
    chunks.forEach(({ node }) => nearChunks.unobserve(node));
    chunks = [];
    body.replaceChildren();
  }
  while (chunks.length > wanted) {
    const { node } = chunks.pop();
    nearChunks.unobserve(node);
    node.remove();
  }
  while (chunks.length < wanted) {
    const chunk = { node: many ? h("div", { class: "re-chunk", role: "none" }) : body, lines: [], mounted: !many };
    chunks.push(chunk);
    if (!many) continue;
    chunkOfNode.set(chunk.node, chunk);
    body.append(chunk.node);
    nearChunks.observe(chunk.node);
  }
  chunks.forEach((chunk, k) => {
    chunk.lines = many ? lines.slice(k * size, (k + 1) * size) : lines;
    if (chunk.mounted) place(chunk); else measure(chunk);
  });
  if (many) mount(chunks[0]);
}

function mount(chunk) {
  if (!chunk || chunk.mounted) return;
  chunk.mounted = true;
  chunk.node.style.height = "";
  place(chunk);
}

/** Give a chunk whose rows are not on the page yet the room that they will take, about. */
function measure(chunk) {
  const count = chunk.lines.reduce((sum, line) => sum + !line.hidden, 0);
  chunk.node.hidden = !count;
  if (!chunk.mounted) chunk.node.style.height = `${count * rowHeight}px`;
}

/** Have a row on the page, wherever it is. */
function ensure(line) {
  if (chunks[0].node !== body) mount(chunks[Math.floor((line.number - 1) / CHUNK_ROWS)]);
  build(line);
}

/** Put a chunk's nodes in order. A node that has moved away is lifted out, so one move costs one insertion. */
function place(chunk) {
  let at = chunk.node.firstChild;
  for (const line of chunk.lines) {
    const node = nodeOf(line);
    if (node === at) {
      at = at.nextSibling;
    } else if (at && node === at.nextSibling) {
      const lifted = at;
      at = node.nextSibling;
      lifted.remove();
    } else {
      chunk.node.insertBefore(node, at);
    }
  }
  while (at) {                                              // these went to another chunk
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

const incompleteRows = new WeakMap();   // a row never changes, so what was found of it stays true
let incompleteCount = 0;

function isIncomplete(row) {
  if (!incompleteRows.has(row)) incompleteRows.set(row, missing(row).length > 0);
  return incompleteRows.get(row);
}

function showTotals() {
  count.textContent = phrase(lines.length === 1 ? text.count_one : text.count, { n: lines.length });
  incomplete.textContent = incompleteCount ? phrase(text.todo, { n: incompleteCount }) : "";
  undoButton.disabled = !past.length;
  redoButton.disabled = !future.length;
  const hits = query ? lines.filter((line) => !line.hidden).length : lines.length;
  root.classList.toggle("is-waiting", text.waiting && !dataset);
  empty.hidden = hits > 0;
  empty.children[0].textContent = lines.length ? text.nothing_found : text.empty;
  empty.children[1].textContent = lines.length ? text.nothing_found_hint : text.empty_hint;
  follow();
}

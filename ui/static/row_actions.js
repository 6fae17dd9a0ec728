// What a person does to the rows: edits with undo, paste, search, row buttons, dragging, keys. The last of the row
// editor's files; it shares the scope of row_editor.js and starts the whole.

// ---- edits -----------------------------------------------------------------------------------------------------

function remember() {
  past.push(rowsNow());
  if (past.length > UNDO_STEPS) past.shift();
  future = [];
}

/** One structural edit: one undo step, the least DOM work, the caret kept in its row. */
function edit(rows) {
  const caret = caretNow();
  remember();
  session = null;
  show(rows);
  putCaret(caret);
  push();
}

function travel(from, to) {
  if (!from.length) return;
  const before = rowsNow(), after = from.pop(), caret = caretNow();
  to.push(before);
  session = null;
  note.textContent = "";  // what it said of the last change is no longer so
  show(after);
  const at = after.findIndex((row, i) => row !== before[i]);
  if (lines.length) reveal(lines[Math.min(at < 0 ? lines.length : at, lines.length - 1)], at >= 0);
  putCaret(caret);
  push();
}

function caretNow() {
  const cell = document.activeElement;
  const line = root.contains(cell) ? lineAt(cell) : null;
  return line && cell.dataset.field ? { line, cell, start: cell.selectionStart, end: cell.selectionEnd } : null;
}

/** Give the caret back to the cell it was in; where that row is gone, keep the focus in the table for Ctrl+Z. */
function putCaret(caret) {
  if (caret?.cell.isConnected) {
    if (document.activeElement === caret.cell) return;
    caret.cell.focus({ preventScroll: true });
    caret.cell.setSelectionRange(caret.start, caret.end);
  } else if (!root.contains(document.activeElement) || document.activeElement === document.body) {
    body.focus({ preventScroll: true });
  }
}

function reveal(line, flash = true) {
  ensure(line);
  line.node.scrollIntoView({ block: "nearest" });
  if (!flash) return;
  line.node.classList.remove("is-new");
  requestAnimationFrame(() => line.node.classList.add("is-new"));
}

function enter(index, field = "instruction") {
  const line = lines[index];
  reveal(line, false);
  line.parts[field].focus({ preventScroll: true });
}

function clearSearch() {
  search.value = "";
  filter();
}

function insertBelow(index, row, field) {
  clearSearch();
  const rows = rowsNow();
  rows.splice(index + 1, 0, row);
  edit(rows);
  enter(index + 1, field);
}

/** The next row on screen in `direction`; rows hidden by the search are passed over. */
function neighbour(line, direction) {
  let at = line.number - 1 + direction;
  while (lines[at]?.hidden) at += direction;
  return lines[at] ?? null;
}

function moveTo(line, index) {
  if (index === line.number - 1) return;
  const rows = rowsNow();
  rows.splice(index, 0, ...rows.splice(line.number - 1, 1));
  const top = line.node.offsetTop;
  const held = tools.parentNode === line.node;
  edit(rows);
  ensure(line);
  if (held) {                                               // keep the button under the pointer that pressed it
    body.scrollTop += line.node.offsetTop - top;
    showTools(line);
    toolsHeld = true;
  }
  reveal(line);
}

function nudge(line, direction) {
  const other = neighbour(line, direction);
  if (other) moveTo(line, other.number - 1);
}

const commands = {
  undo: () => travel(past, future),
  redo: () => travel(future, past),
  add: () => insertBelow(lines.length - 1, { ...BLANK }, "instruction"),
  up: (line) => nudge(line, -1),
  down: (line) => nudge(line, 1),
  duplicate(line) {
    const rows = rowsNow();
    rows.splice(line.number, 0, structuredClone(line.row));
    edit(rows);
    reveal(lines[line.number]);
  },
  remove(line) {
    const index = line.number - 1, held = tools.parentNode === line.node;
    const inside = line.node.contains(document.activeElement);
    edit(rowsNow().filter((_, i) => i !== index));
    if (inside && document.activeElement !== body) body.focus({ preventScroll: true });
    if (held && lines.length) showTools(lines[Math.min(index, lines.length - 1)]);
    say(phrase(text.removed, { n: 1 }));
  },
  clear() {
    if (!lines.length) return;
    const n = lines.length;
    edit([]);
    clearSearch();
    body.focus({ preventScroll: true });
    say(phrase(text.removed, { n }));
  },
  input(line) {
    line.wantsInput = true;
    paint(line);
    line.parts.input.focus();
    showTools(line);
  },
  details: (line) => openDetails(line),
  shortcuts() {
    keysPanel.hidden = !keysPanel.hidden;
    keysButton.setAttribute("aria-expanded", String(!keysPanel.hidden));
  },
};

let noteTimer = 0;

function say(sentence) {
  note.textContent = sentence;
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => { note.textContent = ""; }, 8000);
}

// ---- paste from a spreadsheet ----------------------------------------------------------------------------------

/** Which cells the pasted columns go to, from the cell with the caret on; three columns are alpaca's three. */
function columns(field, width) {
  if (field === "output") return ["output"];
  if (field === "input") return ["input", "output"];
  return width > 2 ? FIELDS : ["instruction", "output"];
}

function pasted(event) {
  const cell = event.target.closest?.("textarea[data-field]");
  if (event.target === search) return;
  const records = parseSheet(event.clipboardData.getData("text/plain"));
  const hasTable = /<table[\s>]/i.test(event.clipboardData.getData("text/html"));
  if (!looksLikeSheet(records, hasTable)) return;           // text: the browser puts it at the caret
  event.preventDefault();
  const width = records.reduce((most, cells) => Math.max(most, cells.length), 0);
  const fields = columns(cell?.dataset.field ?? "instruction", width);
  const rows = rowsNow();
  const first = cell ? lineAt(cell).number - 1 : rows.length;
  const targets = [];                                       // under a search, only rows that can be seen are written
  for (let i = first; i < lines.length; i++) if (!lines[i].hidden) targets.push(i);
  const added = Math.max(0, records.length - targets.length);
  if (rows.length + added > MAX_ROWS) return say(phrase(text.too_many, { n: MAX_ROWS }));
  records.forEach((cells, k) => {
    const at = targets[k] ?? rows.length;
    const row = { ...(rows[at] ?? BLANK) };
    fields.forEach((field, column) => { if (column < cells.length) row[field] = cells[column]; });
    rows[at] = row;
  });
  edit(rows);
  const dropped = width - fields.length;
  say(phrase(text.pasted, { n: records.length }) + (dropped > 0 ? phrase(text.dropped, { n: dropped }) : ""));
}

// ---- search ----------------------------------------------------------------------------------------------------

function filter() {
  query = search.value.trim().toLowerCase();
  let hits = 0;
  for (const line of lines) {
    const hit = !query || haystack(line.row, props.identity).includes(query);
    if (line.hidden === hit) {
      line.hidden = !hit;
      if (line.node) line.node.hidden = !hit;
    }
    hits += hit;
  }
  if (chunks[0]?.node !== body) chunks.forEach(measure);
  found.textContent = query ? `${hits}/${lines.length}` : "";
  showTotals();
}

// ---- row buttons and dragging ----------------------------------------------------------------------------------

let filterTimer = 0;
let toolsHeld = false;                  // after a move, until the pointer really moves

function showTools(line) {
  if (!line || toolsHeld) return;
  build(line);
  if (tools.parentNode !== line.node) line.node.append(tools);
  if (line.parts.input) addInput.remove();
  else if (addInput.parentNode !== line.parts.question) line.parts.question.append(addInput);
  tools.querySelector('[data-do="up"]').disabled = !neighbour(line, -1);
  tools.querySelector('[data-do="down"]').disabled = !neighbour(line, 1);
}

function hideTools() {
  toolsHeld = false;
  tools.remove();
  addInput.remove();
}

body.addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse" && !drag) showTools(lineAt(event.target));
});
body.addEventListener("pointermove", (event) => {
  if (!toolsHeld || !(event.movementX || event.movementY)) return;
  toolsHeld = false;
  showTools(lineAt(event.target));
});
body.addEventListener("pointerleave", () => {
  const line = lineAt(document.activeElement);
  toolsHeld = false;
  if (line) showTools(line); else hideTools();
});

let drag = null;                        // {line, target, after, y, moved}

function dropAt(y) {
  const box = body.getBoundingClientRect();
  const inside = Math.min(Math.max(y, box.top + 4), box.bottom - 4);
  const target = lineAt(document.elementFromPoint(box.left + 20, inside)) ?? (y > box.top ? lines.at(-1) : lines[0]);
  ensure(target);
  const rect = target.node.getBoundingClientRect();
  showDrop(target, inside > rect.top + rect.height / 2);
}

function showDrop(target, after) {
  if (drag.target) drag.target.node.classList.remove("is-drop-before", "is-drop-after");
  drag.target = target;
  drag.after = after;
  if (target !== drag.line) target.node.classList.add(after ? "is-drop-after" : "is-drop-before");
}

function scrollWhileDragging() {
  if (!drag) return;
  const box = body.getBoundingClientRect();
  const over = drag.y < box.top + 32 ? drag.y - box.top - 32 : Math.max(0, drag.y - box.bottom + 32);
  if (drag.moved && over) {
    body.scrollTop += Math.max(-24, Math.min(24, over / 2));
    dropAt(drag.y);
  }
  requestAnimationFrame(scrollWhileDragging);
}

function endDrag(keep) {
  const { line, target, after, moved } = drag;
  target?.node.classList.remove("is-drop-before", "is-drop-after");
  line.node.classList.remove("is-dragged");
  drag = null;
  if (!keep || !moved || !target || target === line) return;
  const from = line.number - 1;
  let to = target.number - 1 + (after ? 1 : 0);
  if (to > from) to -= 1;
  moveTo(line, to);
}

body.addEventListener("pointerdown", (event) => {
  const handle = event.target.closest(".re-number");
  if (!handle || event.button) return;
  event.preventDefault();
  handle.setPointerCapture(event.pointerId);
  drag = { line: lineAt(handle), target: null, after: false, y: event.clientY, from: event.clientY, moved: false };
  requestAnimationFrame(scrollWhileDragging);
});
body.addEventListener("pointermove", (event) => {
  if (!drag) return;
  drag.y = event.clientY;
  if (Math.abs(drag.y - drag.from) > 4) drag.moved = true;
  if (!drag.moved) return;
  drag.line.node.classList.add("is-dragged");
  dropAt(drag.y);
});
body.addEventListener("pointerup", () => { if (drag) endDrag(true); });
body.addEventListener("pointercancel", () => { if (drag) endDrag(false); });

// ---- keys and other events -------------------------------------------------------------------------------------

function command(event, line) {
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (control && key === "z" && event.target !== search) return event.shiftKey ? commands.redo : commands.undo;
  if (control && key === "y" && event.target !== search) return commands.redo;
  if (control && key === "d" && line) return commands.duplicate;
  if (control && event.shiftKey && (key === "delete" || key === "backspace") && line) return commands.remove;
  if (control && key === "enter") return line ? () => insertBelow(line.number - 1, { ...BLANK }) : commands.add;
  if (event.altKey && key === "arrowup" && line) return commands.up;
  if (event.altKey && key === "arrowdown" && line) return commands.down;
  if (key === "escape" && event.target === search && search.value) return clearSearch;
  if (key === "escape" && !keysPanel.hidden) return commands.shortcuts;
  return null;
}

root.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229) return;   // the key belongs to the input method
  if (drag && event.key === "Escape") return endDrag(false);
  const line = event.target.dataset?.field ? lineAt(event.target) : null;
  const run = command(event, line);
  if (!run) return;
  event.preventDefault();
  event.stopPropagation();
  run(line);
});

root.addEventListener("input", (event) => {
  const cell = event.target, line = lineAt(cell);
  if (cell === search) {
    clearTimeout(filterTimer);
    if (lines.length <= MANY_ROWS) return filter();
    filterTimer = setTimeout(filter, 200);
    return;
  }
  if (!line || !cell.dataset.field) return;
  if (session !== cell) { remember(); session = cell; }
  incompleteCount -= isIncomplete(line.row);
  line.row = { ...line.row, [cell.dataset.field]: cell.value };
  incompleteCount += isIncomplete(line.row);
  fit(cell);
  mark(line);
  push(event.isComposing);
});

root.addEventListener("beforeinput", (event) => {           // Undo of the context menu, or of a shaken phone
  if (!event.inputType.startsWith("history") || event.target === search) return;
  event.preventDefault();
  commands[event.inputType === "historyUndo" ? "undo" : "redo"]();
});

root.addEventListener("compositionend", (event) => { if (event.target !== search && unsent) push(); });
root.addEventListener("paste", pasted);

root.addEventListener("click", (event) => {
  const control = event.target.closest("[data-do]");
  if (control) commands[control.dataset.do](lineAt(control));
});

root.addEventListener("focusin", (event) => {
  if (event.target !== session) session = null;
  const line = lineAt(event.target);
  if (line) showTools(line);
});

root.addEventListener("focusout", (event) => {
  const line = lineAt(event.target);
  flush();
  if (event.target.dataset?.field === "input" && line && !line.row.input && event.target.isConnected) {
    line.wantsInput = false;                                // an extra input left empty folds away again
    queueMicrotask(() => paint(line));
  }
  if (!root.contains(event.relatedTarget) && !body.matches(":hover")) hideTools();
});

const life = new AbortController();
const whileAlive = (run) => (event) => { if (element.isConnected) run(event); else life.abort(); };
const listen = (target, name, run) => target.addEventListener(name, whileAlive(run), { signal: life.signal });
listen(document, "visibilitychange", () => { if (document.hidden) flush(); });
listen(window, "pagehide", flush);
listen(window, "beforeunload", (event) => {
  flush();
  if (unsaved) event.preventDefault();                      // the browser asks before it drops what is not saved
});
listen(document, "pointerdown", (event) => {
  if (keysPanel.hidden || keysPanel.contains(event.target) || keysButton.contains(event.target)) return;
  commands.shortcuts();
});

// ---- start -----------------------------------------------------------------------------------------------------

/** Show the row that the page asks for, once its table is there and can be seen: both may still be on their way. */
function jump(tries = 0) {
  let wanted = null;
  try { wanted = JSON.parse(props.reveal || "null"); } catch { /* nothing to show */ }
  if (!wanted || document.body.dataset.revealed === wanted.at || tries > 100) return;
  if (dataset !== wanted.dataset || !body.offsetParent || !lines[wanted.row]) {
    setTimeout(() => element.isConnected && jump(tries + 1), 50);
    return;
  }
  document.body.dataset.revealed = wanted.at;
  clearSearch();
  window.scrollTo({ top: 0 });
  const line = lines[wanted.row];
  ensure(line);
  const above = line.node.getBoundingClientRect().top - body.getBoundingClientRect().top;
  body.scrollTop += above - body.clientHeight / 2;
  enter(wanted.row, "output");
  reveal(line);
}

load();
showTotals();
showState();
jump();
watch("reveal", () => jump());
watch("value", load);
watch("saved", confirmed);
watch("identity", () => {
  lines.forEach(mark);
  if (query) filter();
});

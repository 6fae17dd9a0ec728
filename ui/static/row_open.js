// The way from a row to its side panel (row_panel.js): which row is open there, its edits, and the badge of rows in
// which control strings were typed. One of the row editor's files; shares the scope of row_editor.js.

ICONS.details = "M2.5 3h11v10h-11zM9.5 3v10";
const detailsButton = button("details", text.details);
detailsButton.tabIndex = -1;
tools.prepend(detailsButton);

let shownLine = null;                   // the line that the panel shows, and in which table, and what it was told
let shownIn = null, shownRow = null, shownNumber = 0;

/** What the panel gets: the row as it is, and what may be done to it. */
function handleOf(line) {
  return {
    dataset, number: line.number, count: lines.length, row: line.row, identity: props.identity,
    change: (row, field) => changeRow(line, row, field),
    step: (direction) => { const other = neighbour(line, direction); if (other) openDetails(other); },
    undo: () => commands.undo(),
    redo: () => commands.redo(),
    closed: () => {
      tellPanel(null);
      if (lines[line.number - 1] === line) enter(line.number - 1);
    },
  };
}

function openDetails(line) {
  if (!line) return;
  ensure(line);
  reveal(line, false);
  tellPanel(line);
}

function tellPanel(line) {
  shownLine?.node?.classList.remove("is-open");
  shownLine = line;
  shownIn = dataset;
  shownRow = line?.row ?? null;
  shownNumber = line?.number ?? 0;
  line?.node?.classList.add("is-open");
  document.dispatchEvent(new CustomEvent("onecard-row", { detail: line && handleOf(line) }));
}

/** After every change of the table: the panel follows its row, and closes with it. */
function follow() {
  if (!shownLine) return;
  if (shownIn !== dataset || lines[shownLine.number - 1] !== shownLine) return tellPanel(null);
  if (shownLine.row !== shownRow || shownLine.number !== shownNumber) tellPanel(shownLine);
}

/** An edit made in the panel; typing in one `field` of it is one undo step, as it is in a cell. */
function changeRow(line, row, field) {
  if (!field || session !== field) { remember(); session = field; }
  incompleteCount -= isIncomplete(line.row);
  line.row = shownRow = row;
  incompleteCount += isIncomplete(row);
  line.wantsInput = Boolean(row.input);
  paint(line);
  if (line.parts) badges(line);
  push();
  if (!field) tellPanel(line);
}

// ---- control strings that were typed: text, and said to be

let controlPattern = null;
let typedControl = new WeakMap();       // a row never changes, so what was found of it stays true

function setControl(strings) {
  const escaped = strings.map((string) => string.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  controlPattern = escaped.length ? new RegExp(escaped.sort((a, b) => b.length - a.length).join("|"), "g") : null;
  typedControl = new WeakMap();
}

function controlIn(row) {
  if (!controlPattern) return [];
  if (!typedControl.has(row)) {
    const turns = (row.history ?? []).map((turn) => turn.content);
    const cells = [row.instruction, row.input, row.output, row.system ?? "", ...turns];
    typedControl.set(row, [...new Set(cells.flatMap((cell) => cell.match(controlPattern) ?? []))]);
  }
  return typedControl.get(row);
}

setControl(window.onecard?.control ?? []);
document.addEventListener("onecard-control", (event) => {
  if (!element.isConnected) return;
  setControl(event.detail);
  for (const line of lines) if (line.parts) badges(line);
});

root.addEventListener("keydown", (event) => {
  const line = event.target.dataset?.field ? lineAt(event.target) : null;
  if (!line || !event.altKey || event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  openDetails(line);
});

// The panel goes along to the row in which a person goes on.
root.addEventListener("focusin", (event) => {
  const line = event.target.dataset?.field ? lineAt(event.target) : null;
  if (shownLine && line && line !== shownLine) tellPanel(line);
});

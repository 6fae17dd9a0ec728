// The row editor's way to the server and back: what it sends, when that is stored, and rows that the server puts in.
// Shares the scope of row_editor.js.
//
// props.value     ONE JSON string: Gradio compares props several times per edit, and strings compare fast. From the
//                 server {"dataset", "base", "rows"}; to it {"dataset", "revision", "base", "runs"}, what differs from
//                 the table of that base, or all "rows". It is assigned at once on every edit, so a click on any button
//                 sees it; only the event is delayed.

const SEND_DELAY = 120, SEND_DELAY_MANY = 500, CONFIRM_DELAY = 5000, RESENDS = 3, ECHO_AGE = 5000;
const TOLD_EDITS = 40, BASES = 4;

let bases = [];                         // tables {token, rows} that the server has, too, the newest first
let ours = null;                        // the value that this table gave itself; any other one is from the server
let dataset = null;                     // the table's name; another one in a value from the server opens that table
let revision = 0;                       // counts edits; `saved` names the one that was stored
let told = new Map();                   // the rows of each edit that may still be stored: what the next base will be
let sent = [];                          // what was sent lately: [time, rows], to know a late echo
let sendTimer = 0, confirmTimer = 0, resends = 0;
let unsent = false, unsaved = false, failed = false;

function push(composing = false) {
  const rows = rowsNow();
  revision += 1;
  told.set(revision, rows);
  if (told.size > TOLD_EDITS) told.delete(told.keys().next().value);
  seal(rows);
  unsent = unsaved = true;
  failed = false;
  resends = 0;
  showState();
  showTotals();
  clearTimeout(sendTimer);
  if (!composing) sendTimer = setTimeout(send, lines.length > MANY_ROWS ? SEND_DELAY_MANY : SEND_DELAY);
}

function seal(rows = rowsNow()) {
  const base = nearest(bases, rows);                        // after an undo, often not the newest
  const what = base
    ? `"base":${JSON.stringify(base.token)},"runs":${JSON.stringify(runsOf(base, rows))}`
    : `"rows":${JSON.stringify(rows)}`;
  ours = `{"dataset":${JSON.stringify(dataset)},"revision":${revision},${what}}`;
  props.value = ours;
}

function send() {
  clearTimeout(sendTimer);
  clearTimeout(confirmTimer);
  unsent = false;
  sent = [...sent.slice(-7), [Date.now(), rowsNow()]];
  trigger("input");
  // An event can get lost (server restarting, save refused): say it again a few times, then say so.
  confirmTimer = setTimeout(() => {
    if (!unsaved || unsent || !element.isConnected) return;
    if (resends++ < RESENDS) return send();
    failed = true;
    showState();
  }, CONFIRM_DELAY);
}

const flush = () => { if (unsent) send(); };

function showState() {
  const time = /T(\d\d:\d\d)/.exec(props.saved ?? "")?.[1];
  const saved = time ? phrase(text.saved, { time }) : (props.saved ?? "");
  state.textContent = failed ? text.failed : unsaved ? text.unsaved : saved;
  state.classList.toggle("is-failed", failed);
}

function confirmed() {
  const saved = props.saved ?? "";
  if (saved.startsWith("again#")) {                         // the server forgot the base: the whole table once more
    bases = [];
    seal();
    return send();
  }
  const [, stored, token] = /#(\d+)(?:#(\w+))?$/.exec(saved) ?? [];
  if (stored ? Number(stored) === revision : !unsent) unsaved = failed = false;
  const rows = told.get(Number(stored));
  if (token && rows) {
    based(token, rows);
    for (const edit of told.keys()) if (edit <= Number(stored)) told.delete(edit);
    seal();
  }
  showState();
}

function based(token, rows) {
  bases = token ? [{ token, rows }, ...bases.slice(0, BASES - 1)] : [];
}

/** Rows that came from the server. They can be undone, unless another dataset was opened. */
function load() {
  if (props.value === ours) return;
  const value = unseal(props.value);
  const opened = value.name !== dataset, first = ours === null;
  dataset = value.name;
  if (opened) { past = []; future = []; sent = []; bases = []; }
  const before = rowsNow(), rows = opened ? value.rows : adopted(value.rows, before);
  if (!opened && same(rows, before)) {                      // what this table says already
    based(value.base, rows);
    told.clear();
    seal(before);
    return showTotals();
  }
  if (!opened && sent.some(([at, was]) => Date.now() - at < ECHO_AGE && same(adopted(value.rows, was), was))) {
    return seal(before);                                    // an answer that was overtaken by further typing
  }
  if (!first && !opened) remember();
  clearTimeout(sendTimer);
  clearTimeout(confirmTimer);
  unsent = unsaved = failed = false;
  session = null;
  sent = [];
  told.clear();
  if (opened) search.value = query = "";
  show(rows);
  filter();
  based(value.base, rows);
  seal(rows);
  if (opened) body.scrollTop = 0;
  showState();
}

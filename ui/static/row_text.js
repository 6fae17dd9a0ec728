// Pure text functions of the row editor: the shape of a row, spreadsheet text, placeholders. They touch no page.

const BLANK = Object.freeze({ instruction: "", input: "", output: "" });

/** Rows and dataset name of a value. Rows get one fixed key order; extra keys (system, history) ride along. */
function unseal(json) {
  let value = {};
  try { value = JSON.parse(json || "{}"); } catch { /* not a table: shown as an empty one */ }
  const rows = (Array.isArray(value?.rows) ? value.rows : []).map((row) => {
    const { instruction, input, output, ...extra } = row ?? {};
    const cells = [instruction, input, output].map((cell) => String(cell ?? ""));
    return { instruction: cells[0], input: cells[1], output: cells[2], ...extra };
  });
  return { rows, name: String(value?.dataset ?? ""), base: String(value?.base ?? "") };
}

const same = (one, other) => one.length === other.length && one.every((row, i) => row === other[i]);

/** `rows` with each one that says what a row of `before` says replaced by that very row: same object, same row. */
function adopted(rows, before) {
  const known = new Map();
  for (const row of before) {
    const words = JSON.stringify(row), alike = known.get(words);
    if (alike) alike.push(row); else known.set(words, [row]);
  }
  for (const alike of known.values()) alike.reverse();
  return rows.map((row) => known.get(JSON.stringify(row))?.pop() ?? row);
}

const FEW_ROWS = 50;                    // so few are quicker sent than looked for

/** How many rows two tables begin and end with that are the very same. */
function common(known, rows) {
  const most = Math.min(known.length, rows.length);
  let head = 0, tail = 0;
  while (head < most && rows[head] === known[head]) head += 1;
  while (tail < most - head && rows[rows.length - 1 - tail] === known[known.length - 1 - tail]) tail += 1;
  return [head, tail];
}

/** The base that shares most rows with `rows`, the first of equals; undefined where there is none. */
function nearest(bases, rows) {
  let best, most = -1;
  for (const base of bases) {
    const [head, tail] = common(base.rows, rows);
    if (head + tail === rows.length) return base;
    if (head + tail > most) [best, most] = [base, head + tail];
  }
  return best;
}

/** `rows` told by the table that the server has, too: runs [first, count] of its rows, and the rows in between. */
function runsOf(base, rows) {
  const { rows: known } = base, runs = [], [head, tail] = common(known, rows);
  if (head) runs.push([0, head]);
  const middle = rows.slice(head, rows.length - tail);
  if (middle.length > FEW_ROWS) base.index ??= new Map(known.map((row, i) => [row, i]));
  for (const row of middle) {
    const at = base.index?.get(row), last = runs.at(-1);
    if (at === undefined) runs.push(row);
    else if (Array.isArray(last) && last[0] + last[1] === at) last[1] += 1;
    else runs.push([at, 1]);
  }
  if (tail) runs.push([known.length - tail, tail]);
  return runs;
}

/** What the user says in the last turn, as core.dataset.Row.question. */
function questionOf(row) {
  return row.input ? `${row.instruction}\n${row.input}` : row.instruction;
}

// White space of core (Python's, which is not JavaScript's), and the characters that core/health.py takes for invisible.
const SPACE = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
const INVISIBLE = new RegExp(
  `${SPACE.source}|[\\x00-\\x1f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180e\\u200b-\\u200f` +
  "\\u202a-\\u202e\\u2060-\\u206f\\u2800\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0]+", "g");

/** A row in which nothing at all was written; training leaves it out. As core.dataset.Row.is_blank. */
function isBlank(row) {
  return !questionOf(row).replace(SPACE, "") && !row.output.replace(SPACE, "") && !row.history?.length;
}

/** The cells that still need text: exactly where the health check names a missing question or answer. */
function missing(row) {
  if (isBlank(row)) return [];
  const fields = [];
  if (!questionOf(row).replace(INVISIBLE, "")) fields.push("instruction");
  if (!row.output.replace(INVISIBLE, "")) fields.push("output");
  return fields;
}

// ---- spreadsheet text ------------------------------------------------------------------------------------------

/** Cell and end of the quoted cell that opens at `start`, or null where the quote is only a character.
 *  Spreadsheets quote a cell only when it holds a tab, a line break or a quote, and then double its quotes. */
function quotedCell(text, start) {
  let end = start + 1;
  for (;;) {
    end = text.indexOf('"', end);
    if (end < 0) return null;
    if (text[end + 1] !== '"') break;
    end += 2;
  }
  const body = text.slice(start + 1, end);
  const closes = end + 1 === text.length || text[end + 1] === "\t" || text[end + 1] === "\n";
  return closes && /[\t\n]|""/.test(body) ? { cell: body.replaceAll('""', '"'), end: end + 1 } : null;
}

/** Records of the text that a spreadsheet puts on the clipboard. */
function parseSheet(source) {
  const text = source.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const records = [[]];
  const delimiter = /[\t\n]/g;
  let at = 0;
  for (;;) {
    let cell;
    const quoted = text[at] === '"' ? quotedCell(text, at) : null;
    if (quoted) {
      cell = quoted.cell;
      at = quoted.end;
    } else {
      delimiter.lastIndex = at;
      const end = delimiter.exec(text)?.index ?? text.length;
      cell = text.slice(at, end);
      at = end;
    }
    records.at(-1).push(cell);
    if (at >= text.length) return records;
    if (text[at] === "\n") records.push([]);
    at += 1;
  }
}

/** Whether pasted records are cells rather than text that happens to hold tabs (source code, for one). */
function looksLikeSheet(records, hasTable) {
  const width = records[0].length;
  if (hasTable) return records.length > 1 || width > 1;
  return width > 1 && records.every((cells) => cells.length === width) && records.some((cells) => cells[0] !== "");
}

// ---- placeholders: mirrors core/dataset.py ---------------------------------------------------------------------

const PLACEHOLDER = /\{\{\s*(NAME|AUTHOR|name|author)\s*\}\}|<(NAME|AUTHOR)>/g;
const HAN = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{3ffff}]/u;

function hasPlaceholder(text) {
  return text.search(PLACEHOLDER) >= 0;
}

/** The row's language: Chinese if question or answer holds a Chinese character outside a placeholder. */
function languageOf(row) {
  return HAN.test((questionOf(row) + row.output).replace(PLACEHOLDER, "")) ? "zh" : "en";
}

/** `text` in pieces, [kind, text]: "plain" as written, "value" a placeholder's value, "missing" one without a value. */
function resolvePieces(text, language, identity) {
  const other = language === "zh" ? "en" : "zh";
  const pieces = [];
  let from = 0;
  for (const match of text.matchAll(PLACEHOLDER)) {
    const kind = (match[1] ?? match[2]).toLowerCase();
    const value = identity?.[`${kind}_${language}`] || identity?.[`${kind}_${other}`];
    if (match.index > from) pieces.push(["plain", text.slice(from, match.index)]);
    pieces.push(value ? ["value", value] : ["missing", match[0]]);
    from = match.index + match[0].length;
  }
  if (from < text.length) pieces.push(["plain", text.slice(from)]);
  return pieces;
}

/** Text in which the search looks: the three cells as written and, with placeholders, as they will read. */
function haystack(row, identity) {
  const text = `${row.instruction}\n${row.input}\n${row.output}`;
  if (!hasPlaceholder(text)) return text.toLowerCase();
  const resolved = resolvePieces(text, languageOf(row), identity).map((piece) => piece[1]).join("");
  return `${text}\n${resolved}`.toLowerCase();
}

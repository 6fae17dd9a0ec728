// A row's side panel: system prompt and turns to edit, and below them what the model sees of the row. `text` holds the
// words. The row editor says which row ("onecard-row", with what may be done to it) and keeps every edit; the server
// draws the tokens.

const LOOK_DELAY = 250;
const panel = element.querySelector('.rp');
let handle = null;                      // the open row: see handleOf in row_open.js
let asked = 0, lookTimer = 0, lookedAt = '', everything = false;

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const PATHS = {
  before: 'M10 3.5 5.5 8l4.5 4.5', after: 'M6 3.5 10.5 8 6 12.5', close: 'M4 4l8 8M12 4l-8 8', add: 'M8 3v10M3 8h10',
  insert: 'M8 3v10M3 8h10', remove: 'M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.6 9h6.8l.6-9',
};
const act = (name, title, label = '') => {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const path = document.createElementNS(svg.namespaceURI, 'path');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  const node = make('button', {type: 'button', 'data-act': name, title, class: label ? 'rp-add' : 'rp-icon'}, svg);
  if (label) node.append(label); else node.setAttribute('aria-label', title);
  return node;
};

// ---- the frame

const title = make('h3', {id: `rp-title-${element.id || 'row'}`});
const [before, after, close] = ['before', 'after', 'close'].map(name => act(name, text[name]));
const system = make('textarea', {rows: '1', spellcheck: 'false', 'data-turn': 'system'});
const turns = make('div', {class: 'rp-turns'});
const seen = make('div', {class: 'rp-seen', 'aria-live': 'off'});
const body = make('div', {class: 'rp-body'},
  make('label', {class: 'rp-turn system'}, make('span', {class: 'rp-who'}, text.system), system),
  turns, act('add', text.add, text.add), make('h4', {}, text.seen), seen);
panel.append(make('header', {}, title, before, after, close), body);
panel.setAttribute('role', 'dialog');
panel.setAttribute('aria-labelledby', title.id);
system.placeholder = text['system.none'];

// ---- a row as a list of turns: those before, the question, the answer

const turnsOf = row => [
  ...(row.history ?? []),
  {role: 'user', content: row.instruction, input: row.input},
  {role: 'assistant', content: row.output},
];
const asked_ = turn => ({role: turn.role, content: turn.input ? `${turn.content}\n${turn.input}` : turn.content});

/** The row that such a list makes: its last answer and the question before it are the table's cells. */
const rowOf = (row, list) => {
  const left = [...list];
  const answer = left.at(-1)?.role === 'assistant' ? left.pop() : {content: ''};
  const question = left.at(-1)?.role === 'user' ? left.pop() : {content: ''};
  const {history, ...rest} = row;
  const made = {...rest, instruction: question.content, input: question.input ?? '', output: answer.content};
  return left.length ? {...made, history: left.map(asked_)} : made;
};

// ---- drawing the turns: what has the caret is left alone

const grow = area => { area.style.height = 'auto'; area.style.height = `${area.scrollHeight + 2}px`; };

const turnNode = (list, i) => {
  const {role} = list[i], last = list.length - 1, fixed = i >= last - 1;
  const who = fixed ? make('span', {class: 'rp-who'}, text[role]) : make('select', {'data-role': i, 'aria-label': text.role});
  if (!fixed) for (const name of ['user', 'assistant', 'system']) who.append(make('option', {value: name}, text[name]));
  const tools = make('span', {class: 'rp-acts'});
  if (!fixed) tools.append(act('insert', text.insert), act('remove', text.remove));
  if (i === last - 1 && last > 1) tools.append(act('remove', text['remove.last']));
  const area = make('textarea', {rows: '1', spellcheck: 'false', 'data-turn': i, 'aria-label': text[role], placeholder: text.content});
  const node = make('div', {class: `rp-turn ${role}`, 'data-at': i}, make('div', {class: 'rp-line'}, who, tools), area);
  if (list[i].input) node.append(make('textarea', {rows: '1', spellcheck: 'false', 'data-turn': i, 'data-input': '', 'aria-label': text.input}));
  return node;
};

const set = (area, words) => { if (area.value !== words) { area.value = words; } };

function draw() {
  const list = turnsOf(handle.row);
  const shape = list.map(turn => turn.role + (turn.input ? '+' : '')).join();
  if (turns.dataset.shape !== shape) {
    turns.dataset.shape = shape;
    turns.replaceChildren(...list.map((_, i) => turnNode(list, i)));
  }
  title.textContent = text.title.replace('{row}', handle.number);
  before.disabled = handle.number <= 1;
  after.disabled = handle.number >= handle.count;
  set(system, handle.row.system ?? '');
  for (const area of turns.querySelectorAll('textarea')) {
    const turn = list[area.dataset.turn];
    set(area, 'input' in area.dataset ? turn.input : turn.content);
  }
  for (const select of turns.querySelectorAll('select')) select.value = list[select.dataset.role].role;
  panel.querySelectorAll('textarea').forEach(grow);
}

// ---- what the model sees

function look(delay = LOOK_DELAY) {
  clearTimeout(lookTimer);
  lookTimer = setTimeout(() => {
    if (!handle) return;
    asked += 1;
    if (!seen.firstChild) seen.textContent = text.waiting;
    trigger('look', {at: asked, row: handle.row, all: everything});
  }, delay);
}

function answered() {
  let value = {};
  try { value = JSON.parse(props.value || '{}'); } catch { return; }
  if (value.control && JSON.stringify(value.control) !== lookedAt) {
    lookedAt = JSON.stringify(value.control);
    onecard.control = value.control;
    document.dispatchEvent(new CustomEvent('onecard-control', {detail: value.control}));
  }
  if (!handle || value.at !== asked) return;
  hideCard();
  seen.innerHTML = value.html;
}

let card = null, owner = null;

function hideCard() {
  card?.remove();
  owner?.removeAttribute('aria-describedby');
  card = owner = null;
}

function showCard(span) {
  if (span === owner) return;
  hideCard();
  owner = span;
  const kind = span.classList.contains('c') ? text['key.control'] : span.classList.contains('y') ? text['key.typed'] : '';
  const loss = span.classList.contains('l') ? text['key.loss'] : text['key.context'];
  card = make('div', {class: 'oc-token-card rp-card', role: 'tooltip', id: 'rp-card'},
    make('b', {}, span.textContent.replaceAll('\n', '').replaceAll(' ', '␣').replaceAll('\t', '⇥')),
    make('span', {}, text.token.replace('{id}', span.dataset.i.replaceAll(',', ', '))),
    make('span', {}, [loss, kind].filter(Boolean).join(' · ')));
  document.body.append(card);
  span.setAttribute('aria-describedby', card.id);
  const place = span.getClientRects()[0], size = card.getBoundingClientRect();
  const below = place.bottom + 6 + size.height < innerHeight;
  card.style.left = `${Math.max(8, Math.min(place.left, innerWidth - size.width - 8))}px`;
  card.style.top = `${Math.max(8, below ? place.bottom + 6 : place.top - size.height - 6)}px`;
}

const tokenOf = node => node.closest?.('.rp-tokens .t');
seen.addEventListener('mouseover', event => { const span = tokenOf(event.target); if (span) showCard(span); else hideCard(); });
seen.addEventListener('mouseleave', hideCard);
seen.addEventListener('focusin', event => { const span = tokenOf(event.target); if (span) showCard(span); });
seen.addEventListener('focusout', hideCard);
seen.addEventListener('click', event => tokenOf(event.target)?.focus({preventScroll: true}));
body.addEventListener('scroll', hideCard);
seen.addEventListener('keydown', event => {
  const span = tokenOf(event.target);
  if (!span) return;
  if (event.key === 'Escape' && card) { hideCard(); event.stopPropagation(); return; }
  const all = [...span.parentNode.querySelectorAll('.t')], at = all.indexOf(span);
  const next = all[{ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1}[event.key]];
  if (!next) return;
  event.preventDefault();
  span.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

// ---- edits: the table's

function change(row, field) {
  handle = {...handle, row};
  handle.change(row, field);
  look();
}

const acts = {
  before: () => handle.step(-1),
  after: () => handle.step(1),
  close: () => handle.closed(),
  add: () => {
    const list = turnsOf(handle.row).map(asked_);
    change(rowOf(handle.row, [...list, {role: 'user', content: ''}, {role: 'assistant', content: ''}]));
    [...turns.querySelectorAll('textarea')].at(-2)?.focus();
  },
  insert: i => {
    const list = turnsOf(handle.row);
    list.splice(i + 1, 0, {role: list[i].role === 'user' ? 'assistant' : 'user', content: ''});
    change(rowOf(handle.row, list));
    turns.querySelector(`textarea[data-turn="${i + 1}"]`)?.focus();
  },
  remove: i => {
    const list = turnsOf(handle.row);
    if (i === list.length - 2) list.splice(i, 2); else list.splice(i, 1);
    change(rowOf(handle.row, list));
  },
  all: () => { everything = true; look(0); },
};

panel.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (button && handle) acts[button.dataset.act](Number(button.closest('[data-at]')?.dataset.at));
});
panel.addEventListener('input', event => {
  const area = event.target;
  if (!handle || area.tagName !== 'TEXTAREA') return;
  grow(area);
  if (area === system) {
    const {system: _, ...rest} = handle.row;
    return change(area.value ? {...rest, system: area.value} : rest, area);
  }
  const list = turnsOf(handle.row), i = Number(area.dataset.turn);
  list[i] = {...list[i], ['input' in area.dataset ? 'input' : 'content']: area.value};
  change(rowOf(handle.row, list), area);
});
panel.addEventListener('change', event => {
  if (!handle || event.target.tagName !== 'SELECT') return;
  const list = turnsOf(handle.row), i = Number(event.target.dataset.role);
  list[i] = {...list[i], role: event.target.value};
  change({...handle.row, history: list.slice(0, -2)});
});
panel.addEventListener('keydown', event => {
  if (event.isComposing || event.keyCode === 229 || !handle) return;
  const control = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  const redo = control && (key === 'y' || (key === 'z' && event.shiftKey));
  if (control && (key === 'z' || redo)) {
    event.preventDefault();
    const turn = event.target.dataset.turn ?? event.target.dataset.role;
    if (redo) handle.redo(); else handle.undo();
    // The table takes the focus of what it changes, and the turns may have been drawn anew.
    const again = turn && panel.querySelector(`textarea[data-turn="${turn}"]`);
    if (handle) (again || close).focus({preventScroll: true});
  } else if (key === 'escape') {
    event.preventDefault();
    event.stopPropagation();
    handle.closed();
  } else if (event.altKey && (key === 'pageup' || key === 'pagedown')) {
    event.preventDefault();
    handle.step(key === 'pageup' ? -1 : 1);
  }
});

// ---- which row is open

const life = new AbortController();
const listen = (target, name, run) => target.addEventListener(name, event => {
  if (element.isConnected) run(event); else life.abort();
}, {signal: life.signal});

listen(document, 'onecard-row', event => {
  const other = !handle || !event.detail || event.detail.number !== handle.number || event.detail.dataset !== handle.dataset;
  const opened = !handle && event.detail, typing = panel.contains(document.activeElement);
  handle = event.detail;
  panel.hidden = !handle;
  document.body.classList.toggle('rp-open', Boolean(handle));
  if (!handle) { hideCard(); clearTimeout(lookTimer); seen.replaceChildren(); delete turns.dataset.shape; return; }
  if (other) { everything = false; body.scrollTop = 0; }
  draw();
  look(other ? 0 : LOOK_DELAY);
  if (opened && !typing) close.focus({preventScroll: true});
});
// What it shows rests on the identity card and on the training settings, too.
const changed = event => { if (handle && event.target.closest?.('[id^=identity-], [id^=field-], #tab-data-button')) look(900); };
listen(document, 'input', changed);
listen(document, 'click', changed);
new ResizeObserver(() => { if (handle) panel.querySelectorAll('textarea').forEach(grow); }).observe(panel);
watch('value', answered);
answered();

// The user's own questions: rows of three fields. Whole rows go to the server as they are written; `text` holds the words.

const box = element.querySelector('.op');
const part = name => box.querySelector(`[data-is=${name}]`);
const FIELDS = ['question', 'must', 'must_not'];
let timer = null, removed = null, dirty = false, sent = 0;

const rowsOf = () => [...part('rows').children];
const read = row => Object.fromEntries(FIELDS.map(name => [name, row.querySelector(`[data-field=${name}]`).value.trim()]));
const whole = cells => cells.question && (cells.must || cells.must_not);
const empty = cells => !FIELDS.some(name => cells[name]);

const say = (words, level) => {
  part('said').textContent = words || '';
  part('said').className = level || '';
};

const mark = () => {
  let count = 0;
  for (const row of rowsOf()) {
    const cells = read(row);
    row.classList.toggle('draft', !whole(cells) && !empty(cells));
    count += whole(cells) ? 1 : 0;
  }
  part('count').textContent = count || '';
};

const make = cells => {
  const row = document.createElement('li');
  for (const name of FIELDS) {
    const field = document.createElement('input');
    field.type = 'text';
    field.maxLength = 2000;
    field.dataset.field = name;
    field.value = Array.isArray(cells[name]) ? cells[name].join(text.between) : cells[name] || '';
    field.placeholder = text[`${name}_hint`];
    const label = document.createElement('label');
    label.append(document.createElement('span'), field);
    label.firstChild.textContent = text[name];
    row.append(label);
  }
  const button = document.createElement('button');
  button.dataset.act = 'remove';
  button.type = 'button';
  button.textContent = '✕';
  button.title = text.remove;
  button.setAttribute('aria-label', text.remove);
  row.append(button);
  return row;
};

const send = () => {
  clearTimeout(timer);
  timer = null;
  if (!dirty) return;
  dirty = false;
  sent += 1;
  say(text.saving);
  trigger('input', {probes: rowsOf().map(read).filter(whole)});
};
const later = () => {
  dirty = true;
  mark();
  clearTimeout(timer);
  timer = setTimeout(send, 700);
};

async function load() {
  if (dirty || sent || rowsOf().some(row => row.contains(document.activeElement))) return;
  try {
    const found = await server.probes({});
    if (dirty || sent) return;
    const drafts = rowsOf().filter(row => !whole(read(row)) && !empty(read(row)));
    part('rows').replaceChildren(...found.map(make), ...drafts);
    mark();
  } catch (error) { say(text.failed, 'bad'); }
}

const add = (cells = {}) => {
  const row = make(cells);
  part('rows').append(row);
  return row;
};

const acts = {
  add: () => add().querySelector('input').focus(),
  remove: button => {
    const row = button.closest('li'), cells = read(row);
    const next = row.nextElementSibling || row.previousElementSibling;
    row.remove();
    (next ? next.querySelector('input') : box.querySelector('[data-act=add]')).focus();
    if (empty(cells)) return;
    removed = cells;
    box.querySelector('[data-act=undo]').hidden = false;
    later();
  },
  undo: button => {
    button.hidden = true;
    add(removed).querySelector('input').focus();
    later();
  },
};

box.addEventListener('click', event => {
  const button = event.target.closest('button[data-act]');
  if (button) acts[button.dataset.act](button);
});
box.addEventListener('input', later);
box.addEventListener('focusout', () => setTimeout(() => { if (!box.contains(document.activeElement)) send(); }, 0));
box.addEventListener('keydown', event => {
  if (event.key !== 'Enter' || event.isComposing || event.keyCode === 229 || event.target.tagName !== 'INPUT') return;
  const row = event.target.closest('li');
  (row.nextElementSibling || add()).querySelector('input').focus();
});
box.addEventListener('toggle', () => {
  if (!box.open) return;
  load().then(() => { if (!rowsOf().length) add(); });
});
document.addEventListener('visibilitychange', () => { if (document.hidden) send(); });
watch('value', () => {
  if (!props.value) return;
  const {said, level} = JSON.parse(props.value);
  sent = 0;
  const draft = rowsOf().some(row => row.classList.contains('draft'));
  if (!dirty) say(level === 'ok' && draft ? text.draft : said, level === 'ok' && draft ? '' : level);
});
load();

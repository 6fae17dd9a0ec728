// The import card: chooses, drops and sends files piece by piece, takes pasted text, shows what the server made of them
// in its dialog, and tells the server what was answered. `text` holds the words. Nothing changes the table before a
// button that says so.

const PIECE = 8_000_000, MOST_FILES = 64;
const box = element.querySelector('dialog');
const drop = element.querySelector('[data-is=drop]');
const part = name => box.querySelector(`[data-is=${name}]`);
const lay = (tag, look, ...children) => {
  const node = document.createElement(tag);
  if (look) node.className = look;
  node.append(...children);
  return node;
};
let sending = null, shown = null;
document.body.append(drop);  // over the whole page

// ---- the dialog

const open = what => {
  part('text').hidden = what !== 'text';
  part('found').hidden = what === 'text';
  if (!box.open) box.showModal();
  if (what === 'text') part('pasted').focus();
};

const way = (words, share = null, bytes = 0) => {
  const line = part('way');
  line.hidden = !words;
  box.classList.toggle('is-busy', Boolean(words));
  if (!words) return;
  line.querySelector('span').textContent = words + (share === null ? '' : onecard.pace(line.querySelector('b'), share, bytes));
  line.querySelector('b').hidden = share === null;
  line.querySelector('i').style.width = `${(share ?? 0) * 100}%`;
};

const say = words => {
  way('');
  part('found').replaceChildren(lay('p', 'im-said', words));
};

/** The table gets the focus, so that Ctrl+Z is its undo. */
const toTable = () => {
  if (!document.activeElement?.closest('.re')) document.querySelector('.re-body')?.focus({preventScroll: true});
};

const show = () => {
  if (!props.value || props.value === shown) return;
  shown = props.value;
  const {html, open: stays} = JSON.parse(props.value);
  way('');
  part('found').innerHTML = html;
  if (!stays) {
    part('pasted').value = '';
    box.close();
    return setTimeout(toTable, 300);
  }
  open('found');
  box.scrollTop = 0;
  map();
};

// ---- columns: what the first records become as the selects stand

function map() {
  const parts = part('parts');
  if (!parts) return;
  const {header, records: after} = JSON.parse(parts.dataset.table);
  const records = part('headless')?.checked ? [header, ...after] : after;
  const chosen = [...parts.querySelectorAll('select')].filter(one => one.value);
  const cut = words => words.length > 160 ? `${words.slice(0, 160)}…` : words;
  const head = lay('tr', '', ...chosen.map(one => lay('th', '', one.dataset.label)));
  const lines = records.map(record => lay('tr', '', ...chosen.map(
    one => lay('td', '', cut(String(record[header.indexOf(one.value)] ?? ''))))));
  part('mapped').replaceChildren(chosen.length ? lay('table', '', lay('thead', '', head), lay('tbody', '', ...lines)) : '');
  const has = name => chosen.some(one => one.dataset.part === name);
  box.querySelector('[data-act=map]').disabled = !(has('messages') || has('question') && has('answer'));
}

// ---- files on their way

const token = () => [...crypto.getRandomValues(new Uint8Array(16))].map(n => n.toString(16).padStart(2, '0')).join('');

const addressOf = id => `/import/file/${id}?language=${text.language}`;

async function sendOne(id, file, name, stop, told) {
  let at = 0, tries = 0;
  do {
    const headers = {'x-name': encodeURIComponent(name), 'x-offset': at, 'x-size': file.size};
    let answer;
    try {
      const piece = file.slice(at, Math.min(file.size, at + PIECE));
      answer = await (await fetch(addressOf(id), {method: 'PUT', headers, body: piece, signal: stop.signal})).json();
    } catch (error) {
      if (stop.signal.aborted || ++tries > 3) throw error;
      await new Promise(done => setTimeout(done, 500 * tries));
      continue;
    }
    if (answer.error) throw Object.assign(new Error(answer.error), {said: answer.error});
    told(answer.received - at);
    at = answer.received;
    tries = 0;
  } while (at < file.size);
}

async function send(files) {
  if (!files.length || sending) return;
  if (files.length > MOST_FILES) {
    open('found');
    return say(text.many);
  }
  const own = sending = new AbortController();
  const total = files.reduce((sum, [file]) => sum + file.size, 0) || 1;
  let done = 0;
  part('found').replaceChildren();
  open('found');
  way(text.sending, 0, total);
  const tokens = [];
  try {
    for (const [file, name] of files) {
      tokens.push(token());
      await sendOne(tokens.at(-1), file, name, own, size => way(text.sending, (done += size) / total, total));
    }
    way(text.reading);
    trigger('read', {files: tokens});
  } catch (error) {
    if (!own.signal.aborted) say(error.said ?? text.failed);
    for (const id of tokens) fetch(addressOf(id), {method: 'DELETE', keepalive: true}).catch(() => {});
  }
  if (sending === own) sending = null;
}

/** The files of a drop, those in folders too, each with its path in there. */
async function dropped(items) {
  const found = [];
  const walk = async (entry, path) => {
    if (found.length > MOST_FILES || entry.name.startsWith('.')) return;
    if (entry.isFile) {
      found.push([await new Promise((done, fail) => entry.file(done, fail)), path + entry.name]);
    } else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((done, fail) => reader.readEntries(done, fail));
        if (!some.length) return;
        for (const one of some) await walk(one, `${path}${entry.name}/`);
      }
    }
  };
  for (const entry of items) await walk(entry, '');
  return found;
}

// ---- what is pressed

const acts = {
  close: () => box.close(),
  paste: () => { part('found').replaceChildren(); open('text'); },
  read: () => {
    const pasted = part('pasted').value;
    if (!pasted.trim()) return part('pasted').focus();
    open('found');
    part('found').replaceChildren();
    way(text.reading);
    trigger('paste', {text: pasted});
  },
  decide: button => { way(text.reading); trigger('decide', {answer: JSON.parse(button.dataset.answer)}); },
  map: () => {
    const columns = {};
    for (const one of part('parts').querySelectorAll('select')) {
      // Without a header a column is known by its place; the first option is none.
      if (one.value) columns[one.dataset.part] = part('headless')?.checked ? `(${one.selectedIndex})` : one.value;
    }
    way(text.reading);
    trigger('decide', {answer: {columns}});
  },
  put: button => { way(text.putting); trigger('put', {how: button.dataset.how}); },
};

element.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button[data-act]');
  if (button && !box.classList.contains('is-busy') || button?.dataset.act === 'close') acts[button.dataset.act]?.(button);
});
element.addEventListener('change', event => {
  if (event.target.dataset.part || event.target.dataset.is === 'headless') map();
  if (event.target.dataset.is !== 'file') return;
  send([...event.target.files].map(file => [file, file.name]));
  event.target.value = '';
});
box.addEventListener('close', () => {
  sending?.abort();
  sending = null;
  way('');
  part('found').replaceChildren();
  trigger('forget');
});

const life = new AbortController();
const carries = event => event.dataTransfer?.types.includes('Files') && element.offsetParent !== null;
const listen = (name, run) => document.addEventListener(name, event => {
  if (!element.isConnected) { drop.remove(); return life.abort(); }
  if (carries(event)) run(event);
}, {signal: life.signal});
listen('dragenter', event => { event.preventDefault(); drop.hidden = false; });
listen('dragover', event => event.preventDefault());
drop.addEventListener('dragleave', () => { drop.hidden = true; });
listen('drop', async event => {
  event.preventDefault();
  drop.hidden = true;
  const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...event.dataTransfer.files];
  const all = entries.length ? await dropped(entries) : files.map(file => [file, file.name]);
  // A folder that was dropped alone: its own name says nothing about the files in it.
  const inside = entries.length === 1 && entries[0].isDirectory ? entries[0].name.length + 1 : 0;
  send(all.map(([file, name]) => [file, name.slice(inside)]));
});

watch('value', show);

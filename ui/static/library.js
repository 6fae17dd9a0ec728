// The adapter library's dialog: opens, searches, uploads a zip piece by piece, and tells the server what was pressed.
// `text` holds the words. The list is the server's html; what was unfolded or being written stays over a new one.

const PIECE = 8_000_000;
const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
const itemOf = node => node.closest('li[data-id]');
let sending = null, tab = 'compare', fresh = false;

const say = (words, level) => {
  const line = part('said');
  line.hidden = !words;
  line.textContent = words || '';
  line.className = `oc-lib-said ${level || ''}`;
};

const filter = () => {
  const wanted = part('search').value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  const items = [...box.querySelectorAll('.oc-lib > li')];
  for (const item of items) {
    item.hidden = !wanted.every(word => item.dataset.words.includes(word));
    found += item.hidden ? 0 : 1;
  }
  part('search').hidden = items.length < 6 && !wanted.length;
  part('list').dataset.empty = items.length && !found ? text.missing : '';
};

const show = () => {
  if (!props.value) return;
  const {html, said, level} = JSON.parse(props.value);
  const list = part('list');
  const unfolded = fresh ? [] : [...list.querySelectorAll('details[open]')].map(one => itemOf(one).dataset.id);
  fresh = false;
  list.innerHTML = html;
  for (const item of list.querySelectorAll('li[data-id]')) {
    if (unfolded.includes(item.dataset.id)) item.querySelector('details').open = true;
  }
  box.querySelectorAll('[data-act=bring], [data-is=folder]').forEach(one => { one.disabled = false; });
  if (level === 'ok' && part('folder').dataset.sent) part('folder').value = '';
  delete part('folder').dataset.sent;
  say(said, level);
  grow();
  filter();
};

const grow = () => box.querySelectorAll('textarea').forEach(area => {
  area.style.height = 'auto';
  if (area.scrollHeight) area.style.height = `${area.scrollHeight + 2}px`;
});

// ---- a zip on its way

const progress = (words, share) => {
  part('transfer').hidden = words === null;
  if (words === null) return;
  part('transfer').querySelector('span').textContent = words;
  const bar = part('transfer').querySelector('b');
  bar.setAttribute('aria-label', words);
  bar.setAttribute('aria-valuenow', Math.round(share * 100));
  bar.firstElementChild.style.width = `${share * 100}%`;
};

const token = () => [...crypto.getRandomValues(new Uint8Array(16))].map(n => n.toString(16).padStart(2, '0')).join('');

async function send(file) {
  const own = sending = {address: `/import/adapter/${token()}?language=${text.language}`, stop: new AbortController()};
  const megabytes = bytes => (bytes / 1e6).toFixed(1);
  say('');
  try {
    let at = 0, tries = 0;
    for (;;) {
      const end = Math.min(file.size, at + PIECE);
      const last = end === file.size;
      progress(last && at ? text.checking : `${text.uploading} ${megabytes(at)} / ${megabytes(file.size)} MB`, at / (file.size || 1));
      const headers = {'x-name': encodeURIComponent(file.name), 'x-offset': at, 'x-size': file.size};
      let answer = null;
      try {
        const response = await fetch(own.address, {method: 'PUT', headers, body: file.slice(at, end), signal: own.stop.signal});
        answer = await response.json();
      } catch (error) {
        if (own.stop.signal.aborted || ++tries > 3) throw error;
        await new Promise(done => setTimeout(done, 1000 * tries));
        continue;
      }
      if (answer.error) { say(answer.error, 'bad'); break; }
      if (answer.id) { trigger('brought', {id: answer.id}); break; }
      at = answer.received;
      tries = 0;
    }
  } catch (error) {
    if (!own.stop.signal.aborted) say(text.failed, 'bad');
    const late = await fetch(own.address, {method: 'DELETE'}).then(answer => answer.json()).catch(() => ({}));
    if (late.id) trigger('brought', {id: late.id});
  }
  if (sending === own) { sending = null; progress(null); }
}

// ---- what is pressed

const acts = {
  close: () => box.close(),
  cancel: () => sending?.stop.abort(),
  bring: () => {
    const field = part('folder');
    if (!field.value.trim()) return field.focus();
    say(text.importing);
    field.dataset.sent = 'yes';
    box.querySelectorAll('[data-act=bring], [data-is=folder]').forEach(one => { one.disabled = true; });
    trigger('bring', {folder: field.value});
  },
  use: button => { box.close(); onecard.openTab(tab); trigger('use', {id: itemOf(button).dataset.id, tab}); },
  prove: button => document.dispatchEvent(new CustomEvent('onecard-proof', {
    detail: {id: itemOf(button).dataset.id, name: button.dataset.name},
  })),
  export: button => document.dispatchEvent(new CustomEvent('onecard-export', {
    detail: {id: itemOf(button).dataset.id, name: button.dataset.name},
  })),
  rename: async button => {
    const id = itemOf(button).dataset.id;
    const name = await onecard.prompt({title: text.rename, ok: text.ok, cancel: text.cancel}, button.dataset.name);
    if (name && name.trim() && name !== button.dataset.name) trigger('rename', {id, name});
  },
  remove: async button => {
    const id = itemOf(button).dataset.id;
    if (await onecard.confirm(JSON.parse(button.dataset.ask)) !== null) trigger('remove', {id});
  },
};

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button[data-act]');
  if (button) acts[button.dataset.act]?.(button);
});
box.addEventListener('change', event => {
  const field = event.target;
  if (field.dataset.act === 'annotate') trigger('annotate', {id: itemOf(field).dataset.id, note: field.value});
  if (field.dataset.is === 'file' && field.files[0]) {
    if (!sending) send(field.files[0]);
    field.value = '';
  }
});
box.addEventListener('input', event => {
  if (event.target.dataset.is === 'search') filter();
  if (event.target.tagName === 'TEXTAREA') grow();
});
box.addEventListener('toggle', grow, true);
box.addEventListener('keydown', event => {
  if (event.isComposing || event.keyCode === 229) return;
  if (event.key === 'Enter' && event.target.dataset.is === 'folder') acts.bring();
});
document.addEventListener('onecard-library', () => {
  if (!element.isConnected) return;
  tab = location.hash === '#chat' ? 'chat' : 'compare';
  say('');
  part('search').value = '';
  fresh = true;
  trigger('open');
  if (!box.open) box.showModal();
});
// A proof may have been made meanwhile.
document.addEventListener('onecard-proved', () => { if (element.isConnected && box.open) trigger('open'); });
watch('value', show);

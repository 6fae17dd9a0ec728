// The adapter library's dialog: opens, searches, uploads a zip piece by piece, and tells the server what was pressed.
// `text` holds the words. The list is the server's html; what was unfolded or being written stays over a new one.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
const itemOf = node => node.closest('li[data-id]');
let sending = null, pulling = false, tab = 'compare';

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
  const {html, said, level, pulling: began} = JSON.parse(props.value);
  const list = part('list');
  const unfolded = [...list.querySelectorAll('details[open]')].map(one => itemOf(one).dataset.id);
  list.innerHTML = html;
  for (const item of list.querySelectorAll('li[data-id]')) {
    if (unfolded.includes(item.dataset.id)) item.querySelector('details').open = true;
  }
  box.querySelectorAll('[data-act=bring], [data-is=folder]').forEach(one => { one.disabled = false; });
  if ((level === 'ok' || began) && part('folder').dataset.sent) part('folder').value = '';
  delete part('folder').dataset.sent;
  say(said, level);
  grow();
  filter();
  if (began) follow();
};

const grow = () => box.querySelectorAll('textarea').forEach(area => {
  area.style.height = 'auto';
  if (area.scrollHeight) area.style.height = `${area.scrollHeight + 2}px`;
});

// ---- a zip on its way

const progress = (words, share, bytes) => {
  part('transfer').hidden = words === null;
  if (words === null) return;
  const bar = part('transfer').querySelector('b');
  part('transfer').querySelector('span').textContent = words + onecard.pace(bar, share, bytes);
  bar.setAttribute('aria-label', words);
  bar.setAttribute('aria-valuenow', Math.round(share * 100));
  bar.firstElementChild.style.width = `${share * 100}%`;
};

async function send(file) {
  const own = sending = new AbortController();
  const megabytes = bytes => (bytes / 1e6).toFixed(1);
  say('');
  const answer = await onecard.upload(`/import/adapter/${onecard.token()}?language=${text.language}`, file, own, (at, last) =>
    progress(last && at ? text.checking : `${text.uploading} ${megabytes(at)} / ${megabytes(file.size)} MB`, at / (file.size || 1), file.size));
  if (answer.failed) say(text.failed, 'bad');
  if (answer.error && !answer.id) say(answer.error, 'bad');
  if (answer.id) trigger('brought', {id: answer.id});
  if (sending === own) { sending = null; progress(null); }
}

// ---- an adapter on its way from a hub

async function follow() {
  if (pulling || sending) return;
  pulling = true;
  progress(text.asking, 0);
  try {
    for (;;) {
      const state = await server.pulling({});
      if (!state.active) break;
      progress(state.words, state.share, state.bytes);
      await new Promise(done => setTimeout(done, 500));
    }
    if (element.isConnected) trigger('pulled');
  } catch (error) { say(text.failed, 'bad'); }
  pulling = false;
  progress(null);
}

// ---- what is pressed

const acts = {
  close: () => box.close(),
  cancel: () => { sending?.abort(); if (pulling) server.halt({}); },
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
  restore: () => trigger('restore'),
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
  if (field.dataset.act === 'prompt') trigger('prompt', {id: itemOf(field).dataset.id, system: field.value});
  if (field.dataset.act === 'annotate') trigger('annotate', {id: itemOf(field).dataset.id, note: field.value});
  if (field.dataset.is === 'file' && field.files[0]) {
    if (!sending && !pulling) send(field.files[0]);
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
  part('list').querySelectorAll('details[open]').forEach(one => { one.open = false; });
  trigger('open');
  if (!box.open) box.showModal();
  if (!pulling) server.pulling({}).then(state => { if (state.active) follow(); }).catch(() => {});
});
// A proof may have been made meanwhile.
document.addEventListener('onecard-proved', () => { if (element.isConnected && box.open) trigger('open'); });
watch('value', show);

// The export dialog: asks what the form would give, begins and cancels, follows the export, copies commands.
// `text` holds the words. The server draws what was made; what is unfolded stays over a new drawing of it.

const box = element.querySelector('dialog');
const form = box.querySelector('form');
const part = name => box.querySelector(`[data-is=${name}]`);
const act = name => box.querySelector(`[data-act=${name}]`);
let chosen = '', seen = '', timer = null, told = '', format = 'merged', named = false, asked = 0;

const values = () => ({
  format,
  quantisation: form.quantisation.value,
  strength: Number(form.strength.value),
  name: named ? form.elements.name.value : '',
  rows: form.rows.checked,
});

let listed = null;  // the adapter whose formats are shown
const formats = list => {
  const first = list.find(one => one.id === format && one.can) || list.find(one => one.can);
  if (first) format = first.id;
  part('formats').replaceChildren(...list.map(one => {
    const label = document.createElement('label');
    const input = Object.assign(document.createElement('input'), {type: 'radio', name: 'format', value: one.id});
    input.disabled = !one.can;
    input.checked = one.id === format;
    const words = document.createElement('span');
    for (const [tag, said] of [['b', one.label], ['small', one.note]]) {
      words.append(Object.assign(document.createElement(tag), {textContent: said}));
    }
    label.append(input, words, Object.assign(document.createElement('em'), {textContent: one.size}));
    return label;
  }));
  part('quantisation').hidden = format !== 'gguf';
};

async function draft() {
  const number = ++asked, id = chosen;
  part('strength').textContent = form.strength.value;
  try {
    const found = await server.form({adapter: id, form: values()});
    if (number !== asked || id !== chosen) return;
    const before = format, held = document.activeElement?.name === 'format';
    // A name that will not do says nothing about the formats: those of this adapter stay.
    if (found.formats.length || listed !== id) formats(found.formats);
    listed = id;
    if (held) part('formats').querySelector(':checked')?.focus();
    if (before !== format) return draft();
    if (!named) form.elements.name.value = found.name || '';
    part('folder').textContent = found.folder || '';
    part('size').textContent = found.formats.find(one => one.id === format)?.size || '';
    say(found.said);
  } catch (error) { say(text.failed); }
}

const say = words => {
  part('said').hidden = !words;
  part('said').textContent = words || '';
};

const show = state => {
  if (state.who) part('who').textContent = state.who;
  say(told || state.said);
  const way = state.way;
  part('way').hidden = !way;
  act('start').hidden = Boolean(way);
  act('start').disabled = !state.free;
  if (way) {
    const bar = part('way').querySelector('b'), pace = onecard.pace(bar, way.share);
    if (!act('cancel').disabled) part('what').textContent = way.what + (way.paced ? '' : pace);
    bar.setAttribute('aria-label', way.what);
    bar.setAttribute('aria-valuenow', Math.round(100 * way.share));
    bar.firstElementChild.style.width = `${100 * way.share}%`;
  } else act('cancel').disabled = false;
  if (state.html !== undefined) {
    part('made').innerHTML = state.html;
    if (seen) draft();
  }
  seen = state.seen;
};

async function ask() {
  clearTimeout(timer);
  if (!element.isConnected || !box.open) return;
  let pause = 1500;
  const id = chosen;
  try {
    const state = await server.state({adapter: id, seen});
    if (id === chosen) { show(state); pause = state.way ? 500 : 1500; }
  } catch (error) { pause = 3000; }
  clearTimeout(timer);
  timer = setTimeout(ask, pause);
}

const acts = {
  close: () => box.close(),
  start: button => { told = ''; button.disabled = true; trigger('start', {id: chosen, form: values()}); },
  cancel: button => { button.disabled = true; part('what').textContent = text.cancelling; trigger('cancel', {id: chosen}); },
  again: button => { told = ''; trigger('again', {id: chosen, name: button.closest('[data-name]').dataset.name}); },
  publish: button => document.dispatchEvent(new CustomEvent('onecard-publish', {
    detail: {name: button.closest('[data-name]').dataset.name},
  })),
  remove: async button => {
    const name = button.closest('[data-name]').dataset.name;
    if (await onecard.confirm(JSON.parse(button.dataset.ask)) !== null) trigger('remove', {id: chosen, name});
  },
  copy: async button => {
    const code = button.parentElement.querySelector('code');
    try { await navigator.clipboard.writeText(code.textContent); }
    catch {  // not over https and not this machine: browsers then have no clipboard for pages
      getSelection().selectAllChildren(code);
      document.execCommand('copy');
    }
    const before = button.textContent;
    button.textContent = text.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
  },
};

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button[data-act]');
  if (button) acts[button.dataset.act](button);
});
form.addEventListener('submit', event => event.preventDefault());
form.addEventListener('input', event => {
  if (event.target.name === 'name') named = Boolean(event.target.value.trim());
  if (event.target.name === 'format') format = event.target.value;
  draft();
});
document.addEventListener('onecard-export', event => {
  if (!element.isConnected) return;
  [chosen, seen, told, named] = [event.detail.id, '', '', false];
  form.reset();
  part('who').textContent = event.detail.name || '';
  part('made').innerHTML = '';
  if (!box.open) box.showModal();
  draft();
  ask();
});
watch('value', () => {
  if (!props.value) return;
  const answer = JSON.parse(props.value);
  if (answer.adapter === chosen) told = answer.said;  // another one may have been opened meanwhile
  ask();
});

// The row makers' dialog: a preview that follows what is moved, rewording with its progress, ticks, and what is added.
// `text` holds the words. Rows and their html are the server's; the n-th item of the list is the n-th of `rows`.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
const act = name => box.querySelector(`[data-act=${name}]`);
const fields = mode => part(mode).elements;
const found = {card: null, model: null};
let dataset = '', mode = 'card', seed = 0, asked = 0, timer = null, working = false, adding = false, wanted = null, toDo = '';

const fill = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const wishes = () => {
  const form = fields('card');
  return {
    count: Number(form.count.value), chinese: Number(form.chinese.value), does_zh: form.does_zh.value,
    does_en: form.does_en.value, tone: form.tone.value, seed,
  };
};
const say = (words, level) => {
  part('said').hidden = !words;
  part('said').textContent = words || '';
  part('said').className = level || '';
};
const ticks = () => [...part('rows').querySelectorAll('input[type=checkbox]')];

// ---- the list

const count = () => {
  const chosen = ticks().filter(tick => tick.checked).length, add = act('add');
  add.textContent = adding ? text.adding : fill(text.add, {count: chosen});
  add.disabled = adding || working || !chosen;
  part('pick').hidden = ticks().length < 2;
  box.querySelector('.mk-foot').hidden = !found[mode];
};

const show = () => {
  const held = box.querySelector('.mk-held-list'), now = found[mode];
  held?.remove();
  act('held').setAttribute('aria-expanded', 'false');
  part('rows').innerHTML = now?.html || (mode === 'model' ? toDo : '');
  part('notes').innerHTML = now?.notes || '';
  const kept = mode === 'card' && now?.held ? now.held : 0;
  part('held').hidden = act('held').hidden = !kept;
  part('held').querySelector('span').textContent = fill(text.held, {count: kept});
  count();
};

const labels = () => {
  const card = wishes(), zh = Math.round(card.count * card.chinese / 100);
  part('count').textContent = card.count;
  part('languages').textContent = fill(text.languages, {zh, en: card.count - zh});
  part('each').textContent = fields('model').each.value;
  for (const range of box.querySelectorAll('input[type=range]')) {
    range.style.setProperty('--share', `${100 * (range.value - range.min) / (range.max - range.min)}%`);
  }
};

async function preview() {
  const mine = ++asked;
  try {
    const answer = await server.preview({dataset, ...wishes()});
    if (mine !== asked) return;
    found.card = answer.problem ? null : answer;
    if (mode !== 'card') return;
    say(answer.problem || '', 'bad');
    show();
  } catch (error) { say(text.failed, 'bad'); }
}

async function places() {
  try {
    const answer = await server.places({dataset, rows: fields('model').rows.value});
    toDo = answer.html;
    if (mode === 'model' && !found.model) show();
    part('chosen').textContent = answer.said;
    part('chosen').classList.toggle('bad', !answer.count);
    act('start').disabled = working || !answer.count;
  } catch (error) { part('chosen').textContent = text.failed; }
}

const later = work => {
  clearTimeout(timer);
  timer = setTimeout(work, 140);
};

const turn = to => {
  mode = box.dataset.mode = to;
  for (const tab of box.querySelectorAll('nav [data-mode]')) {
    tab.setAttribute('aria-selected', tab.dataset.mode === to);
    tab.tabIndex = tab.dataset.mode === to ? 0 : -1;
  }
  part('card').hidden = to !== 'card';
  part('model').hidden = to !== 'model';
  part('way').hidden = !(working && to === 'model');
  say(found[to]?.said || '', found[to]?.said ? 'plain' : '');
  show();
  labels();
  to === 'card' ? preview() : places();
};

// ---- rewording

const work = on => {
  working = on;
  act('start').hidden = on;
  act('stop').hidden = !on;
  act('stop').disabled = false;
  act('start').disabled = false;
  part('way').hidden = !(on && mode === 'model');
  count();
};

const progress = way => {
  if (!working) return;
  const bar = part('way').querySelector('b');
  const words = act('stop').disabled ? text.stopping : way.what + onecard.pace(bar, way.share);
  part('way').querySelector('span').textContent = words;
  bar.setAttribute('aria-label', words);
  bar.setAttribute('aria-valuemin', 0);
  bar.setAttribute('aria-valuemax', 100);
  bar.setAttribute('aria-valuenow', Math.round(100 * way.share));
  bar.firstElementChild.style.width = `${100 * way.share}%`;
};

const acts = {
  close: () => box.close(),
  again: () => { seed += 1; preview(); },
  all: () => { for (const tick of ticks()) tick.checked = true; count(); },
  none: () => { for (const tick of ticks()) tick.checked = false; count(); },
  start: () => {
    found.model = null;
    say('');
    show();
    work(true);
    progress({what: text.preparing, share: 0});
    const form = fields('model');
    trigger('reword', {dataset, rows: form.rows.value, each: Number(form.each.value)});
  },
  stop: button => {
    button.disabled = true;
    part('way').querySelector('span').textContent = text.stopping;
    trigger('cancel', {});
  },
  held: button => {
    const there = box.querySelector('.mk-held-list');
    button.setAttribute('aria-expanded', String(!there));
    if (there) return there.remove();
    const list = document.createElement('ul');
    list.className = 'mk-held-list';
    list.innerHTML = found.card?.held_html || '';
    box.querySelector('.mk-foot').before(list);
  },
  add: () => {
    const rows = found[mode].rows.filter((_, number) => ticks()[number].checked);
    adding = true;
    count();
    const probes = mode === 'card' && !part('held').hidden && part('held').querySelector('input').checked;
    trigger('put', {dataset, mode, rows, wishes: wishes(), probes});
  },
};

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.act) acts[button.dataset.act](button);
  else if (button.dataset.mode) turn(button.dataset.mode);
});
box.addEventListener('keydown', event => {
  const tab = event.target.closest('[role=tab]');
  if (tab && ['ArrowLeft', 'ArrowRight'].includes(event.key)) {
    turn(mode === 'card' ? 'model' : 'card');
    box.querySelector('nav [aria-selected=true]').focus();
  }
});
box.addEventListener('submit', event => event.preventDefault());
box.addEventListener('input', event => {
  if (event.target.closest('[data-is=card]')) { labels(); later(preview); }
  else if (event.target.closest('[data-is=model]')) { labels(); if (event.target.name === 'rows') later(places); }
  else count();
});
box.addEventListener('close', () => { if (working) acts.stop(act('stop')); });

document.addEventListener('onecard-makers', event => {
  if (!element.isConnected) return;
  wanted = event.detail || {};
  trigger('open', {});
});

watch('value', () => {
  if (!props.value) return;
  const told = JSON.parse(props.value);
  if (told.open !== undefined) {
    if (told.open !== dataset) found.model = null;
    dataset = told.open;
    adding = false;
    part('who').innerHTML = told.who;
    if (!box.open) box.showModal();
    if (wanted?.rows !== undefined) fields('model').rows.value = wanted.rows;
    turn(wanted?.mode === 'model' ? 'model' : wanted ? 'card' : mode);
    wanted = null;
  } else if (told.reworded) {
    found.model = told.reworded;
    work(false);
    if (mode === 'model') { say(told.reworded.said, 'plain'); show(); }
  } else if (told.way) progress(told.way);
  else if (told.done) {
    adding = false;
    found[mode] = null;
    box.close();
  } else if (told.said) {
    adding = false;
    if (working && told.way === null) work(false);
    say(told.said, told.level);
    count();
  }
});

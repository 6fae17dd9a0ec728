// The proof card: asks for its state, shows a proof on its way, unfolds the answers behind a tile, saves files.
// `text` holds the words. The server draws verdict, tiles and answers; what is unfolded stays over a new drawing of it.

const box = element.querySelector('dialog');
const card = element.querySelector('.pf');
const part = name => card.querySelector(`[data-is=${name}]`);
const act = name => card.querySelector(`[data-act=${name}]`);
const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
let chosen = '', seen = '', timer = null, asking = false, told = '';

const wanted = () => {
  if (box) return chosen;
  const value = props.value || '';
  return value.startsWith('{') ? JSON.parse(value).adapter : value;
};
const hidden = () => document.hidden || (box ? !box.open : element.offsetParent === null);

const show = state => {
  const said = told || state.said, way = state.way;
  part('said').hidden = !said;
  part('said').textContent = said;
  part('note').hidden = !state.note;
  part('note').textContent = state.note;
  const prove = act('prove');
  prove.hidden = !state.offer;
  if (state.offer) prove.textContent = text[state.offer];
  prove.classList.toggle('first', state.offer === 'now');
  prove.disabled = false;
  progress(way);
  act('export').hidden = !state.out;
  act('export').dataset.name = state.title;
  if (box && state.title) card.querySelector('.pf-head h2 + span').textContent = state.title;
  if (state.html !== undefined && state.seen !== seen) {
    const open = card.querySelector('.pf-tile[aria-expanded=true]')?.dataset.test;
    part('body').innerHTML = state.html;
    part('files').hidden = !state.html;
    const tile = open && tileOf(open);
    if (tile) unfold(tile, false);
  }
  seen = state.seen;
  card.dataset.state = way ? 'busy' : seen;
};

const progress = way => {
  const there = part('way').hidden;
  part('way').hidden = !way;
  if (!way) return;
  if (there) act('cancel').disabled = false;
  const bar = part('way').querySelector('b'), pace = onecard.pace(bar, way.share);
  if (!act('cancel').disabled) part('what').textContent = way.what + pace;
  bar.setAttribute('aria-label', way.what);
  bar.setAttribute('aria-valuenow', Math.round(100 * way.share));
  bar.firstElementChild.style.width = `${100 * way.share}%`;
};

async function ask() {
  clearTimeout(timer);
  if (!element.isConnected) return;
  let pause = 400;
  if (!hidden() && !asking) {
    asking = true;
    const adapter = wanted();
    try {
      const state = await server.state({adapter, seen});
      if (adapter === wanted()) {
        show(state);
        pause = Math.max(state.way ? 700 : 2000, window.onecardPause || 0);
      } else pause = 0;
    } catch (error) { pause = 3000; }
    asking = false;
  }
  timer = setTimeout(ask, pause);
}
const soon = () => { clearTimeout(timer); timer = setTimeout(ask, 0); };

// ---- the answers behind a tile

const tileOf = test => [...card.querySelectorAll('.pf-tile')].find(tile => tile.dataset.test === test);

const fold = () => {
  card.querySelector('.pf-answers')?.remove();
  const tile = card.querySelector('.pf-tile[aria-expanded=true]');
  tile?.setAttribute('aria-expanded', 'false');
  return tile;
};

async function unfold(tile, moved = true) {
  fold();
  const panel = document.createElement('section');
  panel.className = 'pf-answers';
  panel.tabIndex = -1;
  panel.innerHTML = '<p class="pf-note"></p>';
  panel.firstChild.textContent = text.loading;
  // After its tile: the next Tab goes into it, and on a phone it stands under what was pressed.
  tile.after(panel);
  tile.setAttribute('aria-expanded', 'true');
  try {
    const {html} = await server.answers({adapter: wanted(), test: tile.dataset.test});
    panel.innerHTML = html;
    const title = panel.querySelector('h4');
    if (title) panel.setAttribute('aria-label', title.textContent);
    panel.setAttribute('role', 'region');
    if (moved) panel.scrollIntoView({block: 'nearest', behavior: calm ? 'auto' : 'smooth'});
  } catch (error) { panel.firstChild.textContent = text.failed; }
}

const only = button => {
  const panel = button.closest('.pf-answers');
  panel.dataset.only = button.dataset.only;
  for (const one of panel.querySelectorAll('[data-only]')) one.setAttribute('aria-pressed', one === button);
};

// ---- files

const save = (name, blob) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 30000);
};

async function png(svg) {
  const image = new Image(), address = URL.createObjectURL(new Blob([svg], {type: 'image/svg+xml;charset=utf-8'}));
  image.src = address;
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth * 2, image.naturalHeight * 2];
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(address);
  return new Promise(done => canvas.toBlob(done));
}

async function file(kind) {
  try {
    const {name, type, content} = await server.file({adapter: wanted(), kind});
    if (!name) return;
    save(name, kind === 'png' ? await png(content) : new Blob([content], {type: `${type};charset=utf-8`}));
  } catch (error) {
    part('said').textContent = text.failed;
    part('said').hidden = false;
  }
}

// ---- what is pressed

const acts = {
  prove: button => {
    button.disabled = true;
    told = '';
    trigger('prove', {id: wanted()});
    show({said: '', note: '', offer: '', way: {what: text.starting, share: 0}, seen});
  },
  cancel: button => {
    button.disabled = true;
    part('what').textContent = text.stopping;
    trigger('cancel', {id: wanted()});
  },
  export: button => document.dispatchEvent(new CustomEvent('onecard-export', {
    detail: {id: wanted(), name: button.dataset.name},
  })),
  fold: () => fold()?.focus(),
  close: () => box.close(),
};

card.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  const {act: named, test, open, file: kind, only: which} = button.dataset;
  if (named) acts[named](button);
  else if (test) button.getAttribute('aria-expanded') === 'true' ? fold() : unfold(button);
  else if (open) { const tile = tileOf(open); if (tile) { tile.focus(); unfold(tile); } }
  else if (kind) file(kind);
  else if (which !== undefined) only(button);
});
card.addEventListener('keydown', event => {
  if (event.key === 'Escape' && event.target.closest('.pf-answers, .pf-tile') && card.querySelector('.pf-answers')) {
    event.preventDefault();
    event.stopPropagation();
    fold()?.focus();
  }
});

const forget = () => { seen = ''; told = ''; part('body').innerHTML = ''; part('files').hidden = true; };
let shownFor = wanted();
watch('value', () => {
  const value = props.value || '';
  const said = value.startsWith('{') ? JSON.parse(value).said : '';
  if (!box && wanted() !== shownFor) { shownFor = wanted(); forget(); }
  told = said;
  soon();
});
if (box) {
  box.addEventListener('click', event => { if (event.target === box) box.close(); });  // beside it
  box.addEventListener('close', () => document.dispatchEvent(new Event('onecard-proved')));
  document.addEventListener('onecard-proof', event => {
    if (!element.isConnected) return;
    forget();
    chosen = event.detail.id;
    card.querySelector('.pf-head h2 + span').textContent = event.detail.name;
    if (!box.open) box.showModal();
    soon();
  });
}
document.addEventListener('visibilitychange', () => { if (!document.hidden) soon(); });
ask();

// Where a person is and what was left there: the address, what a browser tab keeps over a reload, links, and the pace of
// long works. `text` holds the words. Loaded in <head> after onecard.js, to whose global it adds.

// ---- the address shows what is on the page, without a load

/** Put the values of `query` under the `names` in the address, in place of what stood there. */
const note = (names, query) => {
  const address = new URL(location), wanted = new URLSearchParams(query);
  for (const name of names) address.searchParams.delete(name);
  for (const [name, value] of wanted) address.searchParams.append(name, value);
  if (address.href !== location.href) history.replaceState(history.state, '', address);
};

// ---- what a tab keeps: of this tab alone, gone with it, never sent anywhere but to our own server

const PREFIX = 'onecard_', MOST = 2_000_000;  // browsers give a site 5 MB
const read = new Set(), waiting = new Map();
let timer = null;

const flush = () => {
  clearTimeout(timer);
  timer = null;
  for (const [name, value] of waiting) {
    try {
      const written = JSON.stringify(value);
      if (written.length > MOST) sessionStorage.removeItem(PREFIX + name);
      else sessionStorage.setItem(PREFIX + name, written);
    } catch {
      // No room: rather nothing than what was there before.
      try { sessionStorage.removeItem(PREFIX + name); } catch { /* the browser keeps nothing */ }
    }
  }
  waiting.clear();
};
const kept = name => {
  read.add(name);
  try { return sessionStorage.getItem(PREFIX + name) ?? ''; } catch { return ''; }
};
// Not before it was read: components tell what they begin with, too.
const keep = (name, value) => {
  if (!read.has(name)) return;
  waiting.set(name, value);
  timer ??= setTimeout(flush, 400);
};
addEventListener('pagehide', flush);
/** Put `value`, a text, at the end of the list under `name`; its oldest ones go where it becomes too long. */
const append = (name, value) => {
  let all = [];
  try { all = waiting.get(name) ?? JSON.parse(kept(name) || '[]'); } catch { /* no list */ }
  all = [...all, value];
  let length = all.reduce((sum, one) => sum + one.length, 0);
  while (length > MOST / 2) length -= all.shift().length;
  keep(name, all);
};

// ---- how fast a work goes: the last ten seconds of what `node`, its bar, was told

const paces = new WeakMap();
const clock = seconds => {
  const whole = Math.round(seconds), two = count => String(count).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
};
/** ' · 3.1 MB/s · 0:12 left' once that is known: `share` is done, of `bytes` where it is a transfer. */
const pace = (node, share, bytes = 0) => {
  const now = performance.now();
  let seen = paces.get(node);
  if (!seen || share < seen.at(-1)[1]) paces.set(node, seen = [[now, share]]);
  else if (share > seen.at(-1)[1]) seen.push([now, share]);
  while (seen.length > 2 && now - seen[1][0] > 10_000) seen.shift();
  const seconds = (now - seen[0][0]) / 1000, gained = share - seen[0][1];
  if (seconds < 1.5 || gained <= 0 || share >= 1) return '';
  const rate = bytes ? ` · ${(gained * bytes / seconds / 1e6).toFixed(1)} MB/s` : '';
  return `${rate} · ${text.left.replace('{time}', clock((1 - share) * seconds / gained))}`;
};

// ---- a sentence for a moment; a link to what is shown

const said = words => {
  let line = document.querySelector('.oc-said');
  if (!line) {
    line = document.createElement('div');
    line.className = 'oc-said';
    line.setAttribute('role', 'status');
    document.body.append(line);
  }
  line.textContent = words;
  clearTimeout(line.timer);
  line.timer = setTimeout(() => { line.textContent = ''; }, 2500);
};
const copyLink = async () => {
  const address = new URL(location);
  address.searchParams.delete('token');
  try {
    await navigator.clipboard.writeText(address.href);
    said(text.copied);
  } catch {  // not over https and not this machine, or refused
    onecard.prompt({title: text.by_hand, ok: text.ok, cancel: text.close}, address.href);
  }
};

// ---- buttons that lead elsewhere: data-go a tab, data-columns a comparison to open there, data-click a button to press

document.addEventListener('click', event => {
  const button = event.target.closest?.('[data-go], [data-click], [data-link]');
  if (!button) return;
  const {go, columns, click, link} = button.dataset;
  if (link !== undefined) copyLink();
  if (go) onecard.openTab(go);
  if (columns) document.dispatchEvent(new CustomEvent('onecard-columns', {detail: {query: columns}}));
  if (click) document.getElementById(click)?.click();
});

// ---- a tab whose values are on their way: nothing can be asked or started there with others than will be shown

const root = document.documentElement;
const opening = name => { root.dataset.opening = [...new Set([...(root.dataset.opening ?? '').split(' '), name])].join(' ').trim(); };
const opened = name => {
  const left = (root.dataset.opening ?? '').split(' ').filter(other => other && other !== name);
  if (left.length) root.dataset.opening = left.join(' '); else delete root.dataset.opening;
};
for (const name of ['train', 'compare', 'chat']) {
  opening(name);
  setTimeout(() => opened(name), 20000);  // a server that says nothing for so long is told of elsewhere
}

Object.assign(window.onecard, {note, keep, kept, append, pace, said, copyLink, opening, opened});

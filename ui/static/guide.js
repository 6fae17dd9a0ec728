// The guide: what to do next on the way to the first answer by the new name. `text` holds each stage's words.
// The top bar tells how the runs stand (onecard-state). The browser remembers who began with it and who wants none.

const bar = element.querySelector('.oc-guide');
const part = name => bar.querySelector(`[data-is=${name}]`);
const KEY = 'onecard_guide';
let known = null, stage = '', again = false;

const openTab = () => document.querySelector('#tabs button[role=tab][aria-selected=true]')?.id.slice(4, -7);
const pause = () => new Promise(done => setTimeout(done, 100));

function stageNow() {
  const wish = onecard.recall(KEY);
  if (wish === 'done') return '';
  if (known.run) { again = false; return 'wait'; }
  if (!again && !wish && known.learned) return '';  // somebody who knows the way, in a new browser
  if (!again && known.learned) return document.querySelector('#chat-b .bot') ? 'done' : 'ask';
  if (!again && known.failed) return 'failed';
  return openTab() === 'train' ? 'train' : 'data';
}

function show() {
  if (!known || !element.isConnected) return;
  const next = stageNow();
  if (next === stage) return;
  stage = next;
  bar.hidden = !next;
  document.documentElement.toggleAttribute('data-guide', Boolean(next));
  if (!next) return;
  if (!onecard.recall(KEY)) onecard.remember(KEY, 'on');
  const {said, do: act, place, heard} = text[next];
  part('place').textContent = place;
  part('place').title = heard;
  part('said').textContent = said;
  part('do').hidden = !act;
  part('do').textContent = act;
}

const close = () => {
  onecard.remember(KEY, 'done');
  again = false;
  show();
};

const acts = {
  data: () => onecard.openTab('train'),
  train: () => document.querySelector('#start.primary')?.click(),
  ask: async () => {
    onecard.openTab('compare');
    // The column of the new adapter follows the end of the run by itself, a moment later.
    const words = side => document.querySelector(`#pick-${side} input`)?.value;
    for (let tries = 0; tries < 100 && !(words('b') && words('a') !== words('b')); tries++) await pause();
    document.querySelector('#questions button')?.click();
  },
  done: close,
};

part('do').addEventListener('click', () => acts[stage]?.());
part('close').addEventListener('click', close);
const listen = (name, run) => document.addEventListener(name, event => { if (element.isConnected) run(event); });
listen('onecard-state', event => { known = event.detail; show(); });
listen('onecard-guide', () => {
  onecard.remember(KEY, 'on');
  again = !known?.run;
  onecard.openTab('data');
  show();
});
// A tab was opened, or an answer has begun.
listen('click', () => setTimeout(show, 60));

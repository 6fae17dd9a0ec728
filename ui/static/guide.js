// The guide: what to do next on the way to the first answer by the new name. `text` holds each stage's words.
// The top bar tells how the runs stand (onecard-state). The browser remembers who began with it and who wants none.

const bar = element.querySelector('.oc-guide');
const part = name => bar.querySelector(`[data-is=${name}]`);
const KEY = 'onecard_guide';
let known = null, stage = '', again = '';  // asked for once more: 'walk' until its run begins, 'run' until that is over

const openTab = () => document.querySelector('#tabs button[role=tab][aria-selected=true]')?.id.slice(4, -7);
const pause = () => new Promise(done => setTimeout(done, 100));

const words = side => document.querySelector(`#pick-${side} input`)?.value;
const asked = () => document.querySelector('#chat-b .bot') && words('a') !== words('b');

// What was done once stays done, whatever a later run comes to.
function stageNow() {
  const wish = onecard.recall(KEY);
  if (wish === 'done') return '';
  if (again && known.run) again = 'run';
  else if (again === 'run') again = '';
  if (!again) {
    if (wish === 'asked') return 'done';
    if (known.learned && !wish) return '';  // somebody who knows the way, in a new browser
    if (known.learned) return asked() ? 'done' : 'ask';
  }
  if (known.run) return 'wait';
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
  if (next === 'done') onecard.remember(KEY, 'asked');
  else if (!onecard.recall(KEY)) onecard.remember(KEY, 'on');
  const {said, do: act, place, heard} = text[next];
  part('place').textContent = place;
  part('place').title = heard;
  part('said').textContent = said;
  part('do').hidden = !act;
  part('do').textContent = act;
}

const close = () => {
  onecard.remember(KEY, 'done');
  again = '';
  show();
};

const acts = {
  data: () => onecard.openTab('train'),
  train: () => document.querySelector('#start.primary')?.click(),
  ask: async () => {
    onecard.openTab('compare');
    // The column of the new adapter follows the end of the run by itself, a moment later.
    for (let tries = 0; tries < 100 && !(words('b') && words('a') !== words('b')); tries++) {
      if (tries % 20 === 0) document.querySelector('#note-b .oc-who button')?.click();  // where B keeps what it answered
      await pause();
    }
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
  again = known?.run ? 'run' : 'walk';
  onecard.openTab('data');
  show();
});
// A tab was opened, or an answer has begun.
listen('click', () => setTimeout(show, 60));

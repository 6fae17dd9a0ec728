// Draws the card, keeps what is being typed, and tells the server what was asked for.
const body = element.querySelector('.mx');
let adding = false, asked = false, typed = '', timer = null, drawn = null;

// One after the other, each with what the one before has made of the settings: two that are pressed quickly both count.
const waiting = [];
let under_way = null;
function next() {
  clearTimeout(under_way);
  const deed = waiting.shift();
  under_way = deed ? setTimeout(next, 20000) : null;  // no answer at all
  if (deed) trigger('act', deed);
}
function act(deed, value, {source = '', index = -1} = {}) {
  waiting.push({deed, value, source, index: Number(index)});
  if (under_way === null) next();
}
// What fails is told of twice, as ended and as failed: that is one answer.
let answered = null;
document.addEventListener('onecard-mixed', () => {
  clearTimeout(answered);
  answered = setTimeout(() => { if (element.isConnected) next(); }, 20);
});

const key = node => node?.closest?.('[data-key]')?.dataset.key;

function draw() {
  // Most looks find nothing new; a button must not be drawn anew under the finger that presses it.
  if (props.value === drawn) return;
  drawn = props.value;
  const held = body.contains(document.activeElement) ? key(document.activeElement) : null;
  const before = body.querySelectorAll('.mx-away').length;
  body.innerHTML = props.value || '';
  // What was added is in the list now, and the line free for the next; what was refused stays to be put right.
  if (asked && body.querySelectorAll('.mx-away').length > before) {
    adding = false;
    typed = '';
  }
  asked = false;
  const form = body.querySelector('.mx-add');
  if (form) {
    open(adding);
    form.querySelector('input').value = typed;
  }
  if (held) body.querySelector(`[data-key="${held}"]`)?.focus();
  clearTimeout(timer);
  if (body.querySelector('[data-busy]')) timer = setTimeout(ask, 500);
}

function open(wanted) {
  adding = wanted;
  body.querySelector('.mx-add').hidden = !wanted;
  body.querySelector('[data-open]').setAttribute('aria-expanded', String(wanted));
}

async function ask() {
  if (!element.isConnected) return;
  const busy = body.querySelector('[data-busy]');
  if (!busy) return;
  let pause = 1000;
  if (!document.hidden) {
    try {
      const now = await server.progress({});
      if (!now.active) return trigger('look', {});
      const bar = busy.querySelector('.oc-bar');
      busy.querySelector('span').textContent = now.words + onecard.pace(bar, now.share, now.bytes);
      bar.querySelector('i').style.width = `${Math.round(100 * now.share)}%`;
    } catch (error) { pause = 3000; }
  }
  timer = setTimeout(ask, pause);
}

element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  if ('open' in button.dataset) {
    open(body.querySelector('.mx-add').hidden);
    if (adding) body.querySelector('.mx-add input').focus();
  } else if (button.dataset.deed) {
    act(button.dataset.deed, button.dataset.value || '', button.dataset);
  }
});
element.addEventListener('change', event => {
  const field = event.target;
  if (!field.dataset.deed) return;
  const value = field.dataset.deed === 'scenario' && field.value === 'none' ? '' : field.value;
  act(field.dataset.deed, value, field.dataset);
});
element.addEventListener('input', event => { if (key(event.target) === 'add') typed = event.target.value; });
element.addEventListener('submit', event => {
  event.preventDefault();
  const value = event.target.querySelector('input').value.trim();
  if (!value) return;
  asked = true;
  act('add', value);
});
element.addEventListener('keydown', event => {
  if (event.isComposing || event.key !== 'Escape' || key(event.target) !== 'add') return;
  typed = '';
  open(false);
  body.querySelector('[data-open]').focus();
});
watch('value', draw);
draw();

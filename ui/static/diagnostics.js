// The diagnostics dialog: asks for the state while it is open, restarts the server and waits for it.
// `text` holds the words. What is unfolded stays so over a new drawing.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
let timer = null, waiting = false, seen = '';

const draw = state => {
  box.toggleAttribute('data-lost', state.lost);
  part('restart').hidden = !state.restart;
  part('note').hidden = !state.restart;
  if (state.seen === seen) return;
  const open = [...box.querySelectorAll('details[open]')].map(one => one.dataset.part);
  const place = part('state').scrollTop;
  part('state').innerHTML = state.html;
  for (const name of open) box.querySelector(`details[data-part="${name}"]`)?.setAttribute('open', '');
  part('state').scrollTop = place;
  seen = state.seen;
};

const say = words => {
  part('said').textContent = words || '';
  part('said').hidden = !words;
};

async function ask() {
  clearTimeout(timer);
  if (!element.isConnected || !box.open || waiting) return;
  try { draw(await server.state({})); say(''); }
  catch (error) { if (!waiting) say(text.failed); }
  timer = setTimeout(ask, 3000);
}

// The old server answers until it has saved a run; the new one is there when it answers after a silence.
async function restart() {
  if (await onecard.confirm(text.ask) === null) return;
  waiting = true;
  part('restart').disabled = true;
  say(text.restarting);
  try { await fetch('/restart', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'}); }
  catch { /* it may be gone before it has answered */ }
  let gone = false;
  const until = Date.now() + 180000;
  while (Date.now() < until) {
    await new Promise(done => setTimeout(done, 300));
    try {
      const found = await fetch('/healthz', {cache: 'no-store'});
      if (gone && found.ok) return location.reload();
    } catch { gone = true; }
  }
  say(text.late);
  waiting = false;
  part('restart').disabled = false;
}

box.addEventListener('click', event => {
  if (event.target === box || event.target.closest('[data-act=close]')) return box.close();  // beside it
  if (event.target.closest('[data-is=restart]')) restart();
});
part('contents').addEventListener('change', event => {
  part('zip').href = event.target.checked ? '/diagnostics.zip?contents=1' : '/diagnostics.zip';
});
document.addEventListener('onecard-diagnostics', () => {
  if (!element.isConnected || box.open) return;
  seen = '';
  box.showModal();
  ask();
});

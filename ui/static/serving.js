// How an adapter runs elsewhere: stands at the end of the export dialog, starts and stops vLLM and follows its log.
// `text` holds the words. The server draws; what is unfolded or typed stays while the drawing does.

const home = element.querySelector('section');
const part = name => home.querySelector(`[data-is=${name}]`);
let chosen = '', seen = '', told = '', timer = null;

const say = words => {
  part('said').hidden = !words;
  part('said').textContent = words || '';
};

const show = state => {
  home.hidden = !(state.html || state.seen);
  if (state.html !== undefined) {
    const open = part('body').querySelector('details')?.open;
    part('body').innerHTML = state.html;
    if (open) part('body').querySelector('details')?.setAttribute('open', '');
  }
  seen = state.seen;
  say(told || state.failed);
  const log = part('log'), lines = log.querySelector('pre');
  if (state.running && log.hidden) log.open = true;
  log.hidden = !state.log;
  if (lines.textContent === state.log) return;
  const follows = lines.scrollTop + lines.clientHeight > lines.scrollHeight - 30;
  lines.textContent = state.log;
  if (follows) lines.scrollTop = lines.scrollHeight;
};

async function read() {
  clearTimeout(timer);
  if (!element.isConnected || !home.closest('dialog')?.open) return;
  let pause = 2500;
  const id = chosen;
  try {
    const state = await server.serving({adapter: id, seen});
    if (id === chosen) { show(state); pause = state.running ? 700 : 2500; }
  } catch { pause = 3000; say(text.failed); }
  clearTimeout(timer);
  timer = setTimeout(read, pause);
}

home.addEventListener('submit', event => {
  event.preventDefault();
  const form = event.target;
  told = '';
  form.querySelector('button').disabled = true;
  trigger('start', {
    id: chosen, port: Number(form.port.value), length: form.context.value ? Number(form.context.value) : null,
    companions: Boolean(form.companions?.checked),
  });
});
// The buttons that copy are the dialog's own.
home.addEventListener('click', event => {
  const button = event.target.closest('button[data-is=stop]');
  if (button) { told = ''; button.disabled = true; trigger('stop', {id: chosen}); }
});
document.addEventListener('onecard-export', event => {
  const place = document.querySelector('.ex [data-is=elsewhere]');
  if (!element.isConnected || !place) return;
  place.append(home);
  [chosen, seen, told] = [event.detail.id, '', ''];
  home.hidden = true;
  part('log').hidden = true;
  // The dialog opens on the same event, after this.
  setTimeout(read);
});
watch('value', () => {
  if (!props.value) return;
  const answer = JSON.parse(props.value);
  if (answer.adapter === chosen) told = answer.said;  // another one may have been opened meanwhile
  seen = '';
  read();
});

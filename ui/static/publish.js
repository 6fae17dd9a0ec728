// The push dialog: asks whose token is there, shows what would be sent, sends what was confirmed, follows it.
// `text` holds the words. Every answer that belongs to an older question is dropped.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
const act = name => box.querySelector(`[data-act=${name}]`);
const form = part('form');
let folder = '', seal = '', typed = false, asked = 0, timer = null, told = '', begun = false;

const values = () => ({
  export: folder, hub: form.elements.hub.value, repo: form.elements.repo.value.trim(), private: form.elements.private.value,
});

const say = words => {
  part('said').hidden = !words;
  part('said').textContent = words || '';
};

// form: what is to be said; check: what will be sent; way: it is on its way.
const stage = name => {
  form.hidden = name !== 'form';
  part('check').hidden = name !== 'check';
  part('way').hidden = name !== 'way';
};

async function question(ask, answered) {
  const number = ++asked;
  const late = setTimeout(() => { if (number === asked) part('account').textContent = text.silent; }, text.patience);
  try {
    const found = await ask();
    if (number === asked) answered(found);
  } catch (error) { if (number === asked) say(text.failed); }
  clearTimeout(late);
}

function account() {
  say('');
  act('look').disabled = true;
  part('account').textContent = text.asking;
  question(() => server.account(values()), found => {
    part('account').textContent = found.account;
    say(found.said);
    act('look').disabled = !found.account;
    if (found.repo && !typed) form.elements.repo.value = found.repo;
  });
}

function plan() {
  say('');
  act('look').disabled = true;
  part('account').dataset.before = part('account').textContent;
  part('account').textContent = text.preparing;
  question(() => server.plan(values()), found => {
    part('account').textContent = part('account').dataset.before;
    act('look').disabled = false;
    say(found.said);
    if (!found.seal) return;
    seal = found.seal;
    part('plan').innerHTML = found.html;
    act('send').textContent = found.send;
    act('send').disabled = false;
    stage('check');
    act('back').focus();
  });
}

const show = state => {
  const way = state.way;
  if (way) {
    stage('way');
    say(told);
    part('what').textContent = state.stopping ? text.cancelling : way.what;
    act('cancel').disabled = state.stopping;
    const bar = part('way').querySelector('b');
    bar.setAttribute('aria-label', way.what);
    bar.setAttribute('aria-valuenow', Math.round(100 * way.share));
    bar.firstElementChild.style.width = `${100 * way.share}%`;
    begun = true;
    return;
  }
  if (!part('way').hidden) stage('form');
  if (state.page) {
    const link = Object.assign(document.createElement('a'), {href: state.page, textContent: state.page, target: '_blank', rel: 'noopener noreferrer'});
    part('done').replaceChildren(text.done, link);
  }
  part('done').hidden = !state.page;
  const words = told || (begun && state.said) || state.busy;
  if (words) say(words);
  begun = false;
};

async function follow() {
  clearTimeout(timer);
  if (!element.isConnected || !box.open) return;
  let pause = 500;
  const which = folder;
  try {
    const state = await server.state({export: which});
    if (which !== folder) return;
    show(state);
    if (!state.active) return;
  } catch (error) { pause = 3000; }
  clearTimeout(timer);
  timer = setTimeout(follow, pause);
}

const acts = {
  close: () => box.close(),
  look: plan,
  back: () => { stage('form'); say(''); act('look').focus(); },
  send: button => {
    told = '';
    begun = true;
    say('');
    button.disabled = true;
    part('done').hidden = true;
    trigger('pressed', {...values(), seal, act: 'send'});
  },
  cancel: button => {
    button.disabled = true;
    part('what').textContent = text.cancelling;
    trigger('pressed', {...values(), act: 'cancel'});
  },
};

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button[data-act]');
  if (button) acts[button.dataset.act](button);
});
form.addEventListener('submit', event => event.preventDefault());
form.addEventListener('input', event => {
  if (event.target.name === 'repo') typed = Boolean(event.target.value.trim());
  if (event.target.name === 'hub') { if (!typed) form.elements.repo.value = ''; account(); }
});
form.addEventListener('keydown', event => {
  if (event.isComposing || event.keyCode === 229) return;
  if (event.key === 'Enter' && event.target.name === 'repo' && !act('look').disabled) plan();
});
document.addEventListener('onecard-publish', event => {
  if (!element.isConnected) return;
  [folder, seal, typed, told, begun] = [event.detail.name, '', false, '', false];
  form.reset();
  stage('form');
  part('done').hidden = true;
  part('who').textContent = folder;
  if (!box.open) box.showModal();
  account();
  follow();
});
watch('value', () => {
  if (!props.value) return;
  told = JSON.parse(props.value).said;
  if (told) { begun = false; stage('form'); say(told); }
  follow();
});

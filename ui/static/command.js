// The command dialog: a pasted command is read by the server and filled in after a yes; a run or the form is shown as
// commands to copy. `text` holds the words.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
const choice = name => box.querySelector(`[data-choice=${name}]`)?.value || '';
let run = '', kind = 'swift', timer = 0, waits = 0, read = '';

const say = (line, words) => { line.hidden = !words; line.textContent = words || ''; };
const busy = on => {
  clearTimeout(waits);
  box.classList.toggle('busy', on);
  if (on) waits = setTimeout(() => { busy(false); say(part('said'), text.failed); }, 60000);
};

// ---- which of the two is seen

const view = name => {
  for (const one of ['paste', 'show']) part(one).hidden = one !== name;
  part('acts').hidden = name !== 'paste';
  box.querySelectorAll('[data-view]').forEach(one => one.setAttribute('aria-pressed', one.dataset.view === name));
  if (name === 'show') ask();
  else part('text').focus();
};
const showKind = name => {
  kind = name;
  part('show').querySelectorAll('.cm-block').forEach(one => { one.hidden = one.dataset.is !== name; });
  part('show').querySelectorAll('[data-kind]').forEach(one => one.setAttribute('aria-pressed', one.dataset.kind === name));
};

// ---- what is asked of the server

const asked = () => ({text: part('text').value, table: choice('table'), keep: choice('keep') === 'yes'});
const ask = () => { busy(true); trigger('asked', {run}); };
const readIt = () => {
  if (!part('text').value.trim()) return part('text').focus();
  read = part('text').value;
  busy(true);
  say(part('said'), '');
  trigger('pasted', asked());
};
const acts = {
  close: () => box.close(),
  read: readIt,
  apply: () => { busy(true); trigger('agreed', asked()); },
  download: () => { busy(true); trigger('fetched', {kind, run}); },
  copy: async button => {
    const code = button.closest('.cm-code').querySelector('code');
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

// ---- what the server said

const offer = (ready, here) => {
  const button = box.querySelector('[data-act=apply]');
  button.hidden = !ready;
  button.textContent = here ? text.apply : text.applyFetch;
  box.querySelector('[data-act=read]').hidden = ready;
  part('nothing').hidden = !ready;
};
const save = (name, content) => {
  const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], {type: 'application/zip'}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
const views = {
  plan: told => {
    if (read !== part('text').value) return;  // edited meanwhile
    part('plan').innerHTML = told.html;
    say(part('said'), told.said);
    offer(told.ready, told.here);
  },
  refused: told => say(part('said'), told.said),
  done: () => { box.close(); part('text').value = ''; part('plan').innerHTML = ''; offer(false, true); },
  shown: told => {
    part('show').innerHTML = told.html || '<p class="cm-said"></p>';
    if (told.said) say(part('show').querySelector('.cm-said'), told.said);
    showKind(kind);
  },
  file: told => {
    say(part('problem'), told.said);
    if (told.content) save(told.name, told.content);
  },
};
watch('value', () => {
  if (!props.value) return;
  busy(false);
  const told = JSON.parse(props.value);
  views[told.view]?.(told);
});

// ---- what is pressed

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.view) { run = ''; view(button.dataset.view); }
  else if (button.dataset.kind) showKind(button.dataset.kind);
  else acts[button.dataset.act]?.(button);
});
part('text').addEventListener('input', event => {
  offer(false, true);
  part('plan').innerHTML = '';
  say(part('said'), '');
  clearTimeout(timer);
  if (event.inputType === 'insertFromPaste' || event.inputType === 'insertFromDrop') timer = setTimeout(readIt, 150);
});
box.addEventListener('change', event => { if (event.target.dataset.choice) readIt(); });
box.addEventListener('keydown', event => {
  if (event.isComposing || event.keyCode === 229) return;
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !part('paste').hidden) readIt();
});
document.addEventListener('onecard-command', event => {
  if (!element.isConnected) return;
  run = event.detail?.run || '';
  if (!box.open) box.showModal();
  view(run ? 'show' : 'paste');
});
document.addEventListener('click', event => {
  const button = event.target.closest?.('[data-command-run]');
  if (button && element.isConnected) {
    document.dispatchEvent(new CustomEvent('onecard-command', {detail: {run: button.dataset.commandRun}}));
  }
});

// The history dialog: asks the server for a table's versions or a run's data, and tells it what shall be restored.
// `text` holds the words. All html is the server's.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
let asked = {}, turn = 0;

async function read(question, top) {
  asked = question;
  const mine = ++turn;
  box.dataset.busy = 'yes';
  let answer = null;
  try {
    answer = await server.past(question);
  } catch { /* said below */ }
  if (mine !== turn || !box.open) return;
  delete box.dataset.busy;
  const body = part('body');
  if (!answer) { body.textContent = text.failed; return; }
  part('title').textContent = answer.title;
  part('note').textContent = answer.note;
  const list = part('list'), place = list.scrollTop, unfolded = !!list.querySelector('details[open]');
  list.innerHTML = answer.list;
  list.scrollTop = place;
  if (unfolded) list.querySelector('details')?.setAttribute('open', '');
  list.hidden = !answer.list;
  body.innerHTML = answer.body;
  if (!top) return;
  body.scrollTop = 0;
  // On a phone the rows stand below the list, and both scroll as one.
  if (list.offsetTop !== body.offsetTop) list.parentElement.scrollTop = top === 'rows' ? body.offsetTop - list.offsetTop : 0;
}

const open = question => {
  for (const name of ['title', 'note', 'list', 'body']) part(name).textContent = '';
  if (!box.open) box.showModal();
  read(question, 'list');
};

async function confirmed(button, deed) {
  const words = {...JSON.parse(button.dataset.ask), cancel: text.cancel};
  if (await onecard.confirm(words) === null) return;
  box.close();
  deed();
}

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button');
  if (!button) return;
  const {act, pick, start, back, restore: version, forget} = button.dataset;
  if (act === 'close') box.close();
  else if (pick) read({...asked, pick, other: '', start: 0}, 'rows');
  else if (start) read({...asked, start: Number(start)}, 'rows');
  else if (back) { box.close(); trigger('back', {history: back}); }
  else if (version) confirmed(button, () => trigger('restore', {version: Number(version)}));
  else if (forget) confirmed(button, () => trigger('forget', {history: forget}));
});
box.addEventListener('change', event => {
  if (event.target.dataset.is === 'other') read({...asked, other: event.target.value, start: 0}, 'rows');
});
document.addEventListener('onecard-history', event => {
  if (element.isConnected) open({...event.detail});
});

// The doctor's dialog: the rows of a finding, page by page, and what a mend would change before it is carried out.
// `text` holds the words; the rows are the server's html. Nothing changes before the button in this dialog is pressed.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
let asked = null, first = 0, latest = 0;

const close = () => { if (box.open) box.close(); };

const button = (label, act, number) => {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = label;
  made.dataset.act = act;
  made.dataset.number = number;
  return made;
};

const offer = found => {
  const made = found.acts.map((label, number) => button(label, found.mend ? 'carry-out' : 'preview', number));
  if (found.mend) made.at(-1).className = 'dr-yes';
  part('acts').replaceChildren(button(found.mend ? text.cancel : text.close, found.mend ? 'cancel' : 'close', 0), ...made);
};

const show = async () => {
  const mine = ++latest;
  const found = await server.look({ ...asked, first });
  if (mine !== latest || !asked) return;
  part('said').textContent = found.said;
  part('list').innerHTML = found.html;
  part('list').scrollTop = 0;
  part('pages').hidden = !(found.total > found.rows);
  const last = Math.min(first + found.rows, found.total);
  const place = { first: first + 1, last, total: found.total.toLocaleString() };
  part('place').textContent = text.place.replace(/\{(\w+)\}/g, (_, key) => place[key]);
  box.querySelector('[data-act=back]').disabled = first === 0;
  box.querySelector('[data-act=on]').disabled = last >= found.total;
  asked.rows = found.rows;
  offer(found);
};

const open = detail => {
  asked = { ...detail, from: detail.act };
  first = 0;
  part('list').replaceChildren();
  part('said').textContent = '';
  part('acts').replaceChildren();
  part('pages').hidden = true;
  if (!box.open) box.showModal();
  show();
};

const acts = {
  close,
  back: () => { first = Math.max(0, first - asked.rows); show(); },
  on: () => { first += asked.rows; show(); },
  preview: number => { asked.act = String(number); first = 0; show(); },
  // Back to the rows if that is where one came from.
  cancel: () => { if (asked.from) return close(); asked.act = ''; first = 0; show(); },
  'carry-out': () => {
    trigger('mend', { check: asked.check, kind: asked.kind, act: asked.act });
    close();
  },
};

box.addEventListener('click', event => {
  if (event.target === box) return close();
  const pressed = event.target.closest('button');
  if (pressed?.dataset.row) {
    close();
    trigger('row', { row: Number(pressed.dataset.row) });
  } else if (pressed?.dataset.act) {
    acts[pressed.dataset.act](pressed.dataset.number);
  }
});
box.addEventListener('close', () => { asked = null; part('list').replaceChildren(); });

// The component may be drawn anew, and then only the one on the page answers.
const listen = event => {
  if (!element.isConnected) return document.removeEventListener('onecard-doctor', listen);
  open(event.detail);
};
document.addEventListener('onecard-doctor', listen);

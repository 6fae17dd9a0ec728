// The dialog of a run's file: says what packing takes, sends a file that is opened, and tells the page which run came.
// `text` holds the words.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
const tick = box.querySelector('[name=checkpoints]');
let sending = null, address = '', turn = 0;

const say = (name, words) => { part(name).textContent = words || ''; part(name).hidden = !words; };
const show = which => { for (const name of ['pack', 'open']) part(name).hidden = name !== which; };
const aim = () => { part('whole').href = address && `${address}${tick.checked ? '?checkpoints=1' : ''}`; };

const pack = async run => {
  const mine = ++turn;
  show('pack');
  part('title').textContent = '';
  part('pack').dataset.busy = 'yes';
  let found;
  try { found = await server.inside({run}); } catch { found = {title: '', said: text.failed}; }
  if (mine !== turn) return;
  delete part('pack').dataset.busy;
  part('title').textContent = found.title;
  part('inside').textContent = found.inside || '';
  part('more').hidden = !found.more;
  part('more').querySelector('span').textContent = found.more || '';
  tick.checked = false;
  address = found.whole || '';
  aim();
  part('whole').hidden = !address;
  part('adapter').hidden = !found.adapter;
  part('adapter').href = found.adapter || '';
  say('said', found.said);
};

const progress = (words, share, bytes) => {
  part('way').hidden = words === null;
  part('choose').hidden = words !== null;
  if (words === null) return;
  const bar = part('way').querySelector('b');
  part('way').querySelector('span').textContent = words + onecard.pace(bar, share, bytes);
  bar.setAttribute('aria-label', words);
  bar.setAttribute('aria-valuenow', Math.round(share * 100));
  bar.firstElementChild.style.width = `${share * 100}%`;
};

const send = async file => {
  const own = sending = new AbortController();
  const megabytes = bytes => (bytes / 1e6).toFixed(1);
  say('problem', '');
  const found = await onecard.upload(`/import/run/${onecard.token()}?language=${text.language}`, file, own, (at, last) =>
    progress(last ? text.checking : `${text.uploading} ${megabytes(at)} / ${megabytes(file.size)} MB`, at / (file.size || 1), file.size));
  if (sending === own) { sending = null; progress(null); }
  if (found.id) {
    box.close();
    trigger('brought', {id: found.id, name: found.name, new: found.new});
  } else say('problem', found.failed ? text.failed : found.error);
};

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const act = event.target.closest('button[data-act]')?.dataset.act;
  if (act === 'close') box.close();
  if (act === 'cancel') sending?.abort();
  if (event.target.closest('a[download]')) setTimeout(() => box.close(), 200);
});
box.addEventListener('change', event => {
  if (event.target === tick) aim();
  if (event.target.type === 'file' && event.target.files[0]) {
    if (!sending) send(event.target.files[0]);
    event.target.value = '';
  }
});
document.addEventListener('onecard-run-file', event => {
  if (!element.isConnected) return;
  if (!box.open) box.showModal();
  if (event.detail.run) return pack(event.detail.run);
  turn += 1;
  part('title').textContent = text.open;
  show('open');
  if (!sending) { say('problem', ''); progress(null); }
});
progress(null);

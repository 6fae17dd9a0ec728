// Two runs side by side: asks the server for a pair, and draws their curves with plotly, which is loaded on first use.
// `text` holds the words. All html is the server's.

const box = element.querySelector('dialog');
const part = name => box.querySelector(`[data-is=${name}]`);
let asked = {}, shown = {}, turn = 0;

const plotly = () => window.onecardPlotly ??= new Promise((resolve, reject) => {
  const script = document.createElement('script');
  script.src = '/static/plotly.min.js';
  script.onload = () => resolve(window.Plotly);
  script.onerror = () => { window.onecardPlotly = null; reject(new Error(script.src)); };
  document.head.append(script);
});

async function chart(figure, mine) {
  part('chart').hidden = !figure;
  const plot = part('plot');
  if (!figure) return plot.replaceChildren();
  if (!plot.classList.contains('js-plotly-plot')) plot.textContent = text.drawing;
  try {
    const drawer = await plotly();
    if (mine !== turn || !box.open) return;
    if (!plot.classList.contains('js-plotly-plot')) plot.textContent = '';
    const layout = {...figure.layout, autosize: true};
    await drawer.react(plot, figure.data, layout, {responsive: true, displayModeBar: false});
    plot.dataset.drawn = `${asked.run} ${shown.pick}`;
  } catch {
    plot.textContent = text.nochart;
  }
}

async function read(question, top) {
  asked = question;
  const mine = ++turn;
  box.dataset.busy = 'yes';
  let answer = null;
  try {
    answer = await server.two({...question, dark: document.body.classList.contains('dark')});
  } catch { /* said below */ }
  if (mine !== turn || !box.open) return;
  delete box.dataset.busy;
  if (!answer) { part('head').textContent = text.failed; return; }
  shown = answer;
  part('title').textContent = answer.title;
  part('note').textContent = answer.note;
  const list = part('list'), place = list.scrollTop, body = part('body').parentElement;
  for (const name of ['list', 'head', 'body']) part(name).innerHTML = answer[name];
  list.scrollTop = place;
  list.hidden = !answer.list;
  if (top) body.scrollTop = 0;
  // On a phone what is shown stands below the list, and both scroll as one.
  if (list.offsetTop !== body.offsetTop) list.parentElement.scrollTop = top === 'pair' ? body.offsetTop - list.offsetTop : 0;
  await chart(answer.chart, mine);
}

const save = async kind => {
  const name = `${asked.run}-${shown.pick}`;
  if (kind !== 'csv') {
    const drawer = await plotly(), size = part('plot').getBoundingClientRect();
    return drawer.downloadImage(part('plot'), {format: kind, filename: name, width: Math.max(900, size.width), height: 480, scale: 2});
  }
  const {csv} = await server.points({run: asked.run, pick: shown.pick});
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob(['\ufeff', csv], {type: 'text/csv'}));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

box.addEventListener('click', event => {
  if (event.target === box) return box.close();  // beside it
  const button = event.target.closest('button');
  if (!button) return;
  const {act, pick, rows, pickRows, save: kind} = button.dataset;
  if (act === 'close') box.close();
  else if (pick) read({...asked, pick}, 'pair');
  else if (kind) save(kind);
  else if (rows) {
    box.close();
    document.dispatchEvent(new CustomEvent('onecard-history', {detail: {run: rows, pick: pickRows || ''}}));
  }
});
document.addEventListener('onecard-compare', event => {
  if (!element.isConnected) return;
  for (const name of ['title', 'note', 'list', 'head', 'body']) part(name).textContent = '';
  part('chart').hidden = true;
  if (!box.open) box.showModal();
  read({...event.detail}, 'list');
});

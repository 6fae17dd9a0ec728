// Keys where nobody is typing, and the list of them. With a modifier they also act while one types: Ctrl+Enter, Esc.
// A screen reader's own single keys do not arrive here; a person who dictates can switch ours off, and the browser keeps it.

const box = element.querySelector('dialog');
const single = box.querySelector('[data-is=single]');
const TABS = ['data', 'train', 'compare', 'chat'];
const OFF = 'onecard_single_keys';
single.checked = onecard.recall(OFF) !== 'off';

const seen = selector => [...document.querySelectorAll(selector)].find(one => one.offsetParent && !one.disabled && !one.closest('[inert]'));
const open = () => TABS.find(name => document.getElementById(`tab-${name}-button`)?.getAttribute('aria-selected') === 'true');
const typing = node => {
  if (!(node instanceof Element)) return false;
  if (node.isContentEditable || node.closest('textarea, select, [role=textbox], [role=combobox], [role=slider], [role=menu]')) return true;
  const input = node.closest('input');
  return Boolean(input) && !['checkbox', 'radio', 'button', 'submit'].includes(input.type);
};
const help = () => (box.open ? box.close() : box.showModal());

const plain = {
  n: () => { if (open() === 'data') seen('#rows [data-do=add]')?.click(); else return false; },
  '/': () => {
    const field = seen({data: '#rows .re-search', compare: '#compare-ask textarea', chat: '#chat-ask textarea'}[open()] ?? 'none');
    if (!field) return false;
    field.focus();
  },
  '?': help,
};
TABS.forEach((name, at) => { plain[at + 1] = () => onecard.openTab(name); });

// What Ctrl+Enter does, also from within a field of the tab; the table's own (a new row) comes before it.
const run = () => {
  const tab = open();
  // Stop has the same button as Start: a key that is pressed twice must not stop what it started.
  if (tab === 'train') return seen('#start.primary')?.click();
  seen(`#${tab}-ask button.submit-button`)?.click();
};

function pressed(event) {
  if (!element.isConnected) return document.removeEventListener('keydown', pressed);
  if (event.defaultPrevented || event.isComposing || event.keyCode === 229 || event.repeat) return;
  const dialog = document.querySelector('dialog[open]');
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
    if (dialog || event.target.closest?.('#rows, #row-panel')) return;
    event.preventDefault();
    return run();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !single.checked || typing(event.target)) return;
  if (dialog && !(dialog === box && event.key === '?')) return;
  const act = plain[event.key.toLowerCase()];
  if (!act || act() === false) return;
  event.preventDefault();
}
document.addEventListener('keydown', pressed);

// The keys are said where their buttons are.
const told = new MutationObserver(() => {
  const buttons = TABS.map(name => document.getElementById(`tab-${name}-button`));
  if (buttons.some(one => !one)) return;
  buttons.forEach((one, at) => { one.title = String(at + 1); one.setAttribute('aria-keyshortcuts', at + 1); });
  for (const [place, keys] of [['#start', 'Control+Enter'], ['#compare-ask button.submit-button', 'Control+Enter'], ['#chat-ask button.submit-button', 'Control+Enter']]) {
    const one = document.querySelector(place);
    if (one && one.getAttribute('aria-keyshortcuts') !== keys) {
      one.setAttribute('aria-keyshortcuts', keys);
      one.title = `${one.title || ''} Ctrl+Enter`.trim();
    }
  }
});
told.observe(document.body, {childList: true, subtree: true});

single.addEventListener('change', () => onecard.remember(OFF, single.checked ? 'on' : 'off'));
box.addEventListener('click', event => {
  const act = event.target.closest('button')?.dataset.act;
  if (event.target === box || act) box.close();  // beside it, or a button
  if (act === 'guide') document.dispatchEvent(new CustomEvent('onecard-guide'));
});
document.addEventListener('onecard-keys', () => { if (element.isConnected && !box.open) box.showModal(); });

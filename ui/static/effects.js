// The mark beside each setting: what it is and what happens when it is changed, asked of the server when it is pressed.

(() => {
  const english = document.documentElement.lang === 'en';
  const words = english
    ? { ask: 'What if I change it', failed: 'No connection. Is the program still running?' }
    : { ask: '改了会怎样', failed: '没有连上，请检查程序是否还在运行。' };
  const cards = new Map();
  let box = null, asker = null;

  const card = async name => {
    if (!cards.has(name)) {
      const answer = await fetch(`/settings/${english ? 'en' : 'zh'}/${name}`);
      if (!answer.ok) throw new Error(answer.statusText);
      cards.set(name, await answer.text());
    }
    return cards.get(name);
  };

  // Below the mark where there is room, else above it; always within the page.
  const place = () => {
    const [at, own] = [asker.getBoundingClientRect(), box.getBoundingClientRect()];
    const below = at.bottom + 6, above = at.top - 6 - own.height;
    box.style.left = `${Math.max(12, Math.min(at.left - 12, innerWidth - own.width - 12))}px`;
    box.style.top = `${Math.max(12, below + own.height > innerHeight - 12 && above > 12 ? above : Math.min(below, innerHeight - own.height - 12))}px`;
  };

  const make = () => {
    box = document.createElement('div');
    box.id = 'oc-effect';
    box.popover = 'auto';
    box.tabIndex = -1;
    box.setAttribute('role', 'dialog');
    box.setAttribute('aria-labelledby', 'oc-effect-title');
    box.addEventListener('toggle', event => {
      asker?.setAttribute('aria-expanded', event.newState === 'open');
      if (event.newState === 'closed') box.textContent = '';
    });
    document.body.append(box);
  };

  const show = async (button, name) => {
    const again = asker === button && box?.matches(':popover-open');
    if (!box) make();
    if (again) { box.hidePopover(); return; }
    asker = button;
    let said;
    try { said = await card(name); } catch { said = null; }
    if (asker !== button) return;
    if (said === null) { box.innerHTML = '<p id="oc-effect-title"></p>'; box.firstChild.textContent = words.failed; }
    else box.innerHTML = said;
    box.showPopover({ source: button });
    place();
    box.focus({ preventScroll: true });
  };

  // A pressed mark closes its card by itself ("light dismiss") before the click comes: remember that it was open.
  let closed = null;
  const pressed = () => { closed = box?.matches(':popover-open') ? asker : null; };

  const mark = () => document.querySelectorAll('[id^="field-"]:not([data-effect])').forEach(block => {
    const label = block.querySelector('[data-testid=block-info], .label-text')?.textContent.trim();
    if (!label) return;
    block.dataset.effect = '';
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'oc-effect-ask';
    button.textContent = '?';
    button.title = words.ask;
    button.setAttribute('aria-label', `${label}${english ? ': ' : '：'}${words.ask}`);
    button.setAttribute('aria-haspopup', 'dialog');
    button.setAttribute('aria-expanded', 'false');
    button.addEventListener('pointerdown', pressed);
    button.addEventListener('click', () => {
      const was = closed;
      closed = null;
      if (was !== button) show(button, block.id.slice('field-'.length).replaceAll('-', '_'));
    });
    block.append(button);
  });

  const start = () => {
    mark();
    new MutationObserver(mark).observe(document.body, { childList: true, subtree: true });
  };
  addEventListener('scroll', () => { if (box?.matches(':popover-open')) place(); }, { capture: true, passive: true });
  if (document.body) start(); else document.addEventListener('DOMContentLoaded', start);
})();

// The page's own behaviour, loaded in <head> before anything is drawn: theme, language, tabs, dialogs, shortcuts and
// the names that gradio's buttons lack. Everything is under one global, `onecard`.

window.onecard = (() => {
  const THEME = 'onecard_theme';
  const english = document.documentElement.lang === 'en';
  const words = english
    ? { send: 'Send', stop: 'Stop', talk: 'Conversation', copy: 'Copy message' }
    : { send: '发送', stop: '停止', talk: '对话内容', copy: '复制这条消息' };

  // Storage may be blocked by the browser; the page works without it.
  const recall = key => { try { return localStorage.getItem(key); } catch { return null; } };
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* not kept */ } };

  // ---- theme: what was chosen, else what the system wants

  const wantsDark = () => {
    const chosen = recall(THEME);
    return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  };
  const paint = () => {
    const dark = wantsDark();
    document.documentElement.style.background = dark ? '#0d1114' : '#f6f7f9';
    document.documentElement.style.colorScheme = dark ? 'dark' : 'light';
    if (document.body && document.body.classList.contains('dark') !== dark) document.body.classList.toggle('dark', dark);
  };
  const switchTheme = () => {
    remember(THEME, wantsDark() ? 'light' : 'dark');
    paint();
  };
  paint();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);

  // ---- language: a cookie for the next visit, the open tab for this one

  const switchLanguage = event => {
    const link = event.currentTarget;
    document.cookie = `onecard_language=${link.dataset.language};path=/;max-age=31536000;samesite=lax`;
    link.href = `/${link.dataset.language}/${location.search}${location.hash}`;
  };

  // ---- tabs: the open one is in the address, so reload and language keep it

  const tabButton = name => document.getElementById(`tab-${name}-button`);
  const openTab = name => tabButton(name)?.click();
  const noteTab = event => {
    const button = event.target.closest?.('button[role=tab]');
    const name = button?.id.match(/^tab-(\w+)-button$/)?.[1];
    // Whole, since the page has a base address, without what is asked for after the question mark.
    if (!name) return;
    history.replaceState(null, '', `${location.pathname}${location.search}#${name}`);
    document.dispatchEvent(new CustomEvent('onecard-tab', {detail: name}));
  };
  // Gradio draws the tabs before they listen, and then opens its own first choice: ask until it holds.
  const openNotedTab = () => {
    const name = location.hash.slice(1);
    if (!/^\w+$/.test(name)) return;
    let held = 0, tries = 0;
    const timer = setInterval(() => {
      const button = tabButton(name);
      if (button?.getAttribute('aria-selected') === 'true') held += 1;
      else { held = 0; button?.click(); }
      if (held > 4 || ++tries > 150 || location.hash !== `#${name}`) clearInterval(timer);
    }, 100);
  };

  // ---- dialogs: resolve to null when cancelled, to the typed text or "" when confirmed

  const dialog = (asked, value) => new Promise(resolve => {
    const box = document.createElement('dialog');
    box.className = 'oc-dialog';
    box.innerHTML = '<form method="dialog"><p></p><input type="text" maxlength="60"><div>' +
      '<button type="button" value="no"></button><button type="submit" value="yes"></button></div></form>';
    const [title, input] = [box.querySelector('p'), box.querySelector('input')];
    const [cancel, ok] = box.querySelectorAll('button');
    title.textContent = asked.title;
    title.id = 'oc-dialog-title';
    box.setAttribute('aria-labelledby', title.id);
    cancel.textContent = asked.cancel;
    ok.textContent = asked.ok;
    if (asked.grave) ok.className = 'grave';
    if (value === null) input.remove();
    else { input.value = value; input.setAttribute('aria-labelledby', title.id); }
    let answer = null;
    box.querySelector('form').addEventListener('submit', () => { answer = value === null ? '' : input.value; });
    cancel.addEventListener('click', () => box.close());
    box.addEventListener('close', () => { box.remove(); resolve(answer); });
    document.body.append(box);
    box.showModal();
    if (value !== null) input.select(); else (asked.grave ? cancel : ok).focus();
  });
  const confirm = asked => dialog(asked, null);
  const prompt = (asked, value) => dialog(asked, value ?? '');

  // ---- a file on its way to the server, piece by piece; a piece that was lost is sent again

  // Resolves to the server's last answer: {id, ...} once it is in, {error}; {failed} where it cannot be reached, {} where
  // `stop` (an AbortController) ended it. `told` is called with (bytes sent, whether the last piece is on its way).
  const PIECE = 8_000_000;
  const upload = async (address, file, stop, told) => {
    try {
      let at = 0, tries = 0;
      for (;;) {
        const end = Math.min(file.size, at + PIECE);
        told(at, end === file.size);
        const headers = { 'x-name': encodeURIComponent(file.name), 'x-offset': at, 'x-size': file.size };
        let answer = null;
        try {
          const response = await fetch(address, { method: 'PUT', headers, body: file.slice(at, end), signal: stop.signal });
          answer = await response.json();
        } catch (error) {
          if (stop.signal.aborted || ++tries > 3) throw error;
          await new Promise(done => setTimeout(done, 1000 * tries));
          continue;
        }
        if (answer.error || answer.id) return answer;
        at = answer.received;
        tries = 0;
      }
    } catch {
      const late = await fetch(address, { method: 'DELETE' }).then(answer => answer.json()).catch(() => ({}));
      return { ...(late.id ? late : {}), failed: !stop.signal.aborted };
    }
  };
  const token = () => [...crypto.getRandomValues(new Uint8Array(16))].map(n => n.toString(16).padStart(2, '0')).join('');

  // ---- buttons

  // A double click is one click: its second half must not stop the run that the first one started.
  const dropSecondClick = event => {
    if (event.detail > 1 && event.target.closest?.('button.lg, button.sm')) {
      event.stopImmediatePropagation();
      event.preventDefault();
    }
  };

  const nameButtons = () => {
    const name = (selector, label) => document.querySelectorAll(selector).forEach(button => {
      if (!button.getAttribute('aria-label')) { button.setAttribute('aria-label', label); button.title = label; }
    });
    name('.oc-ask button.submit-button', words.send);
    name('.oc-ask button.stop-button', words.stop);
    // Gradio has these words in few languages.
    if (!english) document.querySelectorAll('.message-buttons [aria-label="Copy message"]').forEach(button => {
      button.setAttribute('aria-label', words.copy);
      button.title = words.copy;
    });
    // An answer is read out once it is whole, not word by word.
    for (const log of document.querySelectorAll('.oc-chat [role=log]')) {
      const busy = String(Boolean(log.closest('.tabitem')?.querySelector('.oc-ask button.stop-button')));
      if (log.getAttribute('aria-busy') !== busy) log.setAttribute('aria-busy', busy);
      if (log.ariaLabel !== words.talk) log.ariaLabel = words.talk;
    }
  };

  // ---- a column of Compare shows its settings

  const unfold = (side, open) => {
    side.dataset.open = open ? 'yes' : '';
    side.querySelector('[data-act=settings]')?.setAttribute('aria-expanded', open);
  };

  // ---- keyboard: Alt+1..4 opens a tab, Ctrl+Enter sends, Esc stops an answer

  const shortcuts = event => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.altKey && !event.ctrlKey && !event.metaKey && /^Digit[1-4]$/.test(event.code)) {
      event.preventDefault();
      openTab(['data', 'train', 'compare', 'chat'][event.code.slice(5) - 1]);
    }
    if (event.key === 'Escape' && !document.querySelector('dialog[open]')) {
      const stop = [...document.querySelectorAll('.oc-ask button.stop-button')].find(button => button.offsetParent);
      stop?.click();
    }
  };

  // ---- copying: an invisible joiner keeps what was written from being read as HTML (ui/chatbot.py); it stays here

  const parted = text => text.replace(/([<&])\u2060/g, '$1');
  const copy = event => {
    const {value, selectionStart, selectionEnd} = event.target;
    const text = value === undefined ? String(getSelection()) : value.slice(selectionStart, selectionEnd);
    if (parted(text) === text) return;
    event.clipboardData.setData('text/plain', parted(text));
    event.preventDefault();
  };
  const clipboard = navigator.clipboard;  // only over https and on this machine
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = text => write(parted(String(text)));
  }

  // ---- start

  const start = () => {
    paint();
    // Gradio sets its own class on <body> when it starts; ours wins.
    new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ['class'] });
    openNotedTab();
    new MutationObserver(nameButtons).observe(document.body, { childList: true, subtree: true });
  };
  document.addEventListener('click', dropSecondClick, true);
  document.addEventListener('click', noteTab);
  addEventListener('hashchange', openNotedTab);  // typed, or a link
  document.addEventListener('keydown', shortcuts);
  document.addEventListener('copy', copy);
  if (document.body) start(); else document.addEventListener('DOMContentLoaded', start);

  return { confirm, prompt, openTab, switchTheme, switchLanguage, unfold, upload, token, recall, remember };
})();

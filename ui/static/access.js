// A page that stays open over a restart has a cookie of before: it asks for the new token instead of failing silently.
(() => {
  const zh = document.documentElement.lang.startsWith('zh');
  const text = zh ? {
    again: 'OneCard 重新启动过，之前的登录不再有效；数据集和训练记录都在。请粘贴终端里新链接 ?token= 后面的令牌（或密码）：',
    wrong: '不对，请再试一次。请粘贴终端里新链接 ?token= 后面的令牌（或密码）：',
    later: '输错的次数太多，请过一会儿再试。请粘贴终端里新链接 ?token= 后面的令牌（或密码）：',
    ok: '继续', cancel: '以后再说',
  } : {
    again: 'OneCard was started again, so you have to sign in once more; your datasets and runs are all there. Paste what follows ?token= in the new link in its terminal (or the password):',
    wrong: 'That is not it; try again. Paste what follows ?token= in the new link in the terminal (or the password):',
    later: 'Too many wrong tries; wait a little. Paste what follows ?token= in the new link in the terminal (or the password):',
    ok: 'Go on', cancel: 'Not now',
  };
  const ask = window.fetch.bind(window);
  let asking = false, quietUntil = 0;

  // Signed in on one tab is signed in on all of them.
  const tabs = new BroadcastChannel('onecard-access');
  tabs.onmessage = () => { if (asking) location.reload(); };
  tabs.postMessage('in');

  const signIn = async () => {
    if (asking || Date.now() < quietUntil || !document.body) return;
    asking = true;
    for (let title = text.again; title;) {
      const answered = onecard.prompt({title, ok: text.ok, cancel: text.cancel}, '');
      Object.assign(document.querySelector('.oc-dialog[open] input'), {type: 'password', maxLength: 1024});
      const typed = await answered;
      if (typed === null) { quietUntil = Date.now() + 60000; break; }
      const answer = await ask('/sign-in', {method: 'POST', body: new URLSearchParams({word: typed})}).catch(() => null);
      if (answer?.ok) { location.reload(); return; }
      title = answer?.status === 429 ? text.later : text.wrong;
    }
    asking = false;
  };
  window.fetch = async (...given) => {
    const answer = await ask(...given);
    if (answer.headers.has('x-onecard-sign-in')) signIn();
    return answer;
  };
})();

// An answer's tokens: the card of the one under the pointer or in focus; arrow keys go from token to token.
// `text` holds the words. Everything in a card is put in as text.

const box = element.querySelector('.oc-token-box');
let card = null, owner = null;

const show = () => { hide(); box.innerHTML = props.value || ''; };

const line = (name, share, kind) => {
  const row = document.createElement('div');
  row.className = kind;
  for (const [tagName, words] of [['span', name], ['b', share]]) {
    const part = document.createElement(tagName);
    part.textContent = words;
    row.append(part);
  }
  return row;
};

const fill = token => {
  const parts = [line(token.s, '', 'head'), line(text.here, token.p, '')];
  if (token.q !== undefined) parts.push(line(text.there.replace('{column}', box.firstElementChild.dataset.other || ''), token.q, ''));
  if (token.top) {
    const title = line(text.others, '', 'title');
    parts.push(title, ...token.top.map(([spelled, share]) => line(spelled, share, spelled === token.s ? 'own' : '')));
  }
  return parts;
};

function hide() {
  card?.remove();
  owner?.removeAttribute('aria-describedby');
  card = owner = null;
}

const open = span => {
  if (span === owner) return;
  document.dispatchEvent(new CustomEvent('onecard-token'));  // one card on the page, whichever column it is of
  owner = span;
  card = document.createElement('div');
  card.className = 'oc-token-card';
  card.id = `oc-card-${element.id || Math.random().toString(36).slice(2)}`;
  card.setAttribute('role', 'tooltip');
  for (const token of JSON.parse(span.dataset.t)) card.append(...fill(token));
  document.body.append(card);
  span.setAttribute('aria-describedby', card.id);
  const place = span.getClientRects()[0], size = card.getBoundingClientRect();
  const below = place.bottom + 6 + size.height < innerHeight;
  card.style.left = `${Math.max(8, Math.min(place.left, innerWidth - size.width - 8))}px`;
  card.style.top = `${Math.max(8, below ? place.bottom + 6 : place.top - size.height - 6)}px`;
};

const tokenOf = node => node.closest?.('.oc-tokens .oc-token');

box.addEventListener('mouseover', event => { const span = tokenOf(event.target); if (span) open(span); else hide(); });
box.addEventListener('mouseleave', () => { if (!box.contains(document.activeElement)) hide(); });
box.addEventListener('focusin', event => { const span = tokenOf(event.target); if (span) open(span); });
box.addEventListener('focusout', hide);
box.addEventListener('scroll', hide, true);
box.addEventListener('click', event => { tokenOf(event.target)?.focus(); });
box.addEventListener('keydown', event => {
  const span = tokenOf(event.target);
  if (!span) return;
  if (event.key === 'Escape' && card) { hide(); event.stopPropagation(); return; }
  const all = [...box.querySelectorAll('.oc-token')];
  const at = {ArrowRight: all.indexOf(span) + 1, ArrowLeft: all.indexOf(span) - 1, Home: 0, End: all.length - 1}[event.key];
  if (at === undefined || !all[at]) return;
  event.preventDefault();
  span.tabIndex = -1;
  all[at].tabIndex = 0;
  all[at].focus();
});
document.addEventListener('onecard-token', hide);
show();
watch('value', show);

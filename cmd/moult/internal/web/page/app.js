// The page: what the server tells by its stream, and which view shows it.

import { $, el, set, fill, version, took, when, ask, oneByOne, marks, letter, short } from './dom.js';
import * as now from './now.js';
import * as time from './time.js';
import { versions, spread, release } from './release.js';

const state = { nodes: new Map(), parts: {} };

// What comes is taken at once, and drawn once a frame.
let waiting = new Map();
let whole = false;
let frame = 0;

function take(news) {
  if (news.whole) {
    state.nodes.clear();
    state.parts = {};
    waiting = new Map();
    whole = true;
  }
  Object.assign(state.parts, news.parts);
  for (const n of news.nodes) {
    state.nodes.set(n.id, n);
    waiting.set(n.id, n);
  }
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  const changed = [...waiting.values()];
  const all = whole;
  waiting = new Map();
  whole = false;
  head();
  now.update(state, changed, all);
  if (current !== 'time' || all) show();
  if (opened && all && !state.nodes.has(opened)) {
    tell(`${$('detail-name').textContent} is not there any more`);
    $('detail').close();
  } else if (changed.some((n) => n.id === opened)) detail();
}

const views = {
  now: () => {}, versions: () => versions(state), spread: () => spread(state), time: () => time.draw(), release: () => release(state),
};
let current = 'now';

// The time line moves by itself once a second, and needs no drawing between.
function show() {
  if (!document.hidden) views[current]();
}

function choose(name) {
  if (!views[name]) name = 'now';
  current = name;
  for (const t of document.querySelectorAll('[role=tab]')) {
    const own = t.getAttribute('aria-controls') === name;
    t.setAttribute('aria-selected', own);
    t.tabIndex = own ? 0 : -1;
    if (own) t.scrollIntoView({ block: 'nearest' });
    $(t.getAttribute('aria-controls')).hidden = !own;
  }
  show();
}

function head() {
  const { head: h, agent } = state.parts;
  if (h) {
    const r = h.release;
    set($('cluster'), `cluster ${short(h.cluster)}`);
    let words = `release ${r.version}`;
    if (h.back) words = `taking back release ${r.version}`;
    else if (r.finalized) words += ' (finalized)';
    set($('headline'), r.state === 'none' ? 'no release yet' : `${words}: ${r.state}${r.reason ? `: ${r.reason}` : ''}`);
    document.title = r.state === 'none' ? 'moult' : `${r.state} · moult`;
    fill($('alarms'), h.alarms, () => (h.alarms ?? []).map((a) => el('p', { class: 'alarm' }, a)));
    // What else makes no sense the server refuses, and says why.
    for (const b of document.querySelectorAll('#orders [data-order]')) b.disabled = r.state === 'none';
  }
  if (agent) {
    $('orders').hidden = !agent.orders;
    if (agent.answers) set($('contact'), agent.error ? `The agent answers, but not everything: ${agent.error}` : '');
    else set($('contact'), `The agent does not answer${agent.since ? ` since ${when(agent.since)}` : ''}: ${agent.error}. What is below is what it said last; the page goes on when it is back.`);
  }
}

// The stream comes again by itself, unless the server refuses it.
function listen() {
  const stream = new EventSource('/api/events');
  stream.onmessage = (e) => take(JSON.parse(e.data));
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) refused();
    else set($('contact'), 'The stream from `moult ui` has broken off; trying again.');
  };
  stream.onopen = () => set($('contact'), '');
}

// refused asks once why there is no stream, which an EventSource does not tell.
async function refused() {
  const stop = new AbortController();
  try {
    const r = await fetch('/api/events', { signal: stop.signal });
    if (r.ok) {
      stop.abort(); // it is there again
      listen();
    } else set($('contact'), (await r.text()).trim());
  } catch {
    set($('contact'), '`moult ui` has ended: start it again, and open the address that it prints.');
  }
}

// The node that is looked at.
let opened = '';

function open(id) {
  opened = id;
  tell('');
  const reason = state.nodes.get(id)?.reason ?? '';
  fill($('detail-why'), [id, reason], () => [reason]);
  detail();
  if (!$('detail').open) $('detail').showModal();
  $('detail-close').focus();
}

// detail changes texts in place: what has the focus keeps it.
function detail() {
  const n = state.nodes.get(opened);
  if (!n) return;
  $('detail-mark').className = `mark ${marks(n.phase)}`;
  set($('detail-mark'), letter(n.phase));
  set($('detail-name'), n.name);
  const rows = { class: n.class, version: version(n), phase: `${n.phase}${n.since ? ` since ${when(n.since)}` : ''}`, health: n.health || 'not known',
    reached: n.reachable ? 'yes' : n.away ? `no, for ${took(Date.now() - new Date(n.away))}` : 'no', standing: n.standing,
    labels: Object.entries(n.labels ?? {}).map(([k, v]) => `${k}=${v}`).join(', ') || 'none', address: n.address, platform: `${n.platform?.os}/${n.platform?.arch}`,
    rehearsal: n.rehearsed && `of release ${n.rehearsed.release}: ${n.rehearsed.outcome}${n.rehearsed.reason ? `: ${n.rehearsed.reason}` : ''}`, ID: n.id };
  fill($('detail-rows'), Object.keys(rows), () => Object.keys(rows).flatMap((k) => [el('dt', {}, k), el('dd', { 'data-row': k })]));
  for (const dd of $('detail-rows').querySelectorAll('dd')) {
    const text = rows[dd.dataset.row];
    set(dd, text ?? '');
    dd.hidden = dd.previousSibling.hidden = !text;
  }
  for (const b of document.querySelectorAll('#detail [data-order]')) b.hidden = !state.parts.agent?.orders;
  askWhy();
}

const askWhy = oneByOne(async () => {
  const id = opened;
  if (!id) return;
  let w;
  try {
    w = await ask(`/api/why?node=${encodeURIComponent(id)}`);
  } catch (e) {
    w = { reason: e.message };
  }
  if (id === opened) fill($('detail-why'), [id, w], () => [w.reason || 'nothing', ...(w.command ? [' — to change it: ', el('code', {}, w.command)] : [])]);
});

// tell says what has become of an order, on the page and in the dialog that is before it.
function tell(text) {
  for (const e of document.querySelectorAll('.told')) set(e, text);
}

// An order is asked for twice: the first answer says what it would do, and the second has to
// name what was said.
let confirming = null;
let asking = false;
let hand = 0;

async function order(action, node, confirmed = '') {
  if (asking) return;
  asking = true;
  tell('');
  $('confirm-yes').disabled = true;
  try {
    const a = await ask('/api/order', { action, confirmed, ...(node && { node }) });
    if (a.confirm) {
      if (confirming) tell('The rollout has changed meanwhile: read again what it would do.');
      confirming = { action, node, identity: a.identity };
      set($('confirm-what'), a.confirm);
      if (!$('confirm').open) $('confirm').showModal();
      $('confirm-no').focus();
      // A click that was meant for what was here before gives no order.
      clearTimeout(hand);
      hand = setTimeout(() => { $('confirm-yes').disabled = asking; }, 500);
      return;
    }
    tell(`${action}: ${a.done}`);
  } catch (e) {
    tell(`${action}: ${e.message}`);
  } finally {
    asking = false;
  }
  $('confirm').close();
}

$('confirm-yes').onclick = () => confirming && order(confirming.action, confirming.node, confirming.identity);
for (const b of document.querySelectorAll('#detail [data-order]')) b.onclick = () => order(b.dataset.order, opened);
$('detail-close').onclick = () => $('detail').close();
$('confirm-no').onclick = () => $('confirm').close();
$('confirm').addEventListener('close', () => { confirming = null; });
$('detail').addEventListener('close', () => { opened = ''; });
for (const b of document.querySelectorAll('#orders [data-order]')) b.onclick = () => order(b.dataset.order);

$('tabs').addEventListener('click', (e) => {
  const t = e.target.closest('[role=tab]');
  if (t) location.hash = t.getAttribute('aria-controls');
});
$('tabs').addEventListener('keydown', (e) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
  if (!by) return;
  const tabs = [...document.querySelectorAll('[role=tab]')];
  const to = tabs[(tabs.findIndex((t) => t.tabIndex === 0) + by + tabs.length) % tabs.length];
  location.hash = to.getAttribute('aria-controls');
  to.focus();
});
addEventListener('hashchange', () => choose(location.hash.slice(1)));
document.addEventListener('visibilitychange', show);
// Bars that go on grow, and times pass, without any news.
setInterval(() => current === 'time' && show(), 1000);
addEventListener('resize', () => current === 'time' && show());

now.setup(open);
time.setup(state);
choose(location.hash.slice(1));
listen();

// The page: what the server tells by its stream, and which view shows it.

import { $, el, set, fill, version, took, when, ask, mark, short } from './dom.js';
import * as now from './now.js';
import * as time from './time.js';
import * as rest from './rest.js';

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
  if (opened && changed.some((n) => n.id === opened)) detail(opened);
}

const views = {
  now: () => {}, versions: () => rest.versions(state), spread: () => rest.spread(state), time: () => time.draw(), release: () => rest.release(state, false),
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
    const on = { pause: r.state === 'rolling' || r.state === 'held' || r.state === 'spreading', resume: r.state === 'paused', abort: !['none', 'aborted', 'complete'].includes(r.state) };
    for (const b of document.querySelectorAll('#orders [data-order]')) b.disabled = !on[b.dataset.order];
  }
  if (agent) {
    $('orders').hidden = !agent.orders;
    set($('contact'), agent.answers ? '' : `The agent does not answer${agent.since ? ` since ${when(agent.since)}` : ''}: ${agent.error}. What is below is what it said last; the page goes on when it is back.`);
  }
}

// The stream comes again by itself, unless the server refuses it.
function listen() {
  const stream = new EventSource('/api/events');
  stream.onmessage = (e) => take(JSON.parse(e.data));
  stream.onerror = () => {
    const gone = stream.readyState === EventSource.CLOSED;
    set($('contact'), gone ? '`moult ui` has ended, or does not know this browser any more: start it again, and open the address that it prints.'
      : 'The stream from `moult ui` has broken off; trying again.');
    if (gone) stream.close();
  };
  stream.onopen = () => set($('contact'), '');
}

// The node that is looked at.
let opened = '';

async function detail(id) {
  const n = state.nodes.get(id);
  const d = $('detail');
  if (!n) {
    d.close();
    return;
  }
  const focused = d.contains(document.activeElement) ? [...d.querySelectorAll('button')].indexOf(document.activeElement) : -1;
  opened = id;
  const why = el('p', { id: 'detail-why' }, n.reason || '…');
  const rows = [['class', n.class], ['version', version(n)], ['phase', `${n.phase}${n.since ? ` since ${when(n.since)}` : ''}`], ['health', n.health || 'not known'],
    ['reached', n.reachable ? 'yes' : n.away ? `no, for ${took(Date.now() - new Date(n.away))}` : 'no'], n.standing && ['standing', n.standing],
    ['labels', Object.entries(n.labels ?? {}).map(([k, v]) => `${k}=${v}`).join(', ') || 'none'], ['address', n.address], ['platform', `${n.platform?.os}/${n.platform?.arch}`],
    n.rehearsed && ['rehearsal', `of release ${n.rehearsed.release}: ${n.rehearsed.outcome}${n.rehearsed.reason ? `: ${n.rehearsed.reason}` : ''}`], ['ID', n.id]].filter(Boolean);
  d.replaceChildren(el('h2', { id: 'detail-name' }, mark(n.phase), ` ${n.name}`), why, el('dl', {}, ...rows.flatMap(([k, v]) => [el('dt', {}, k), el('dd', {}, v)])),
    el('div', { class: 'row' }, ...(state.parts.agent?.orders ? ['skip', 'retry'].map((a) => el('button', { type: 'button', 'data-order': a, onclick: () => order(a, id) }, a === 'skip' ? 'Skip' : 'Retry')) : []),
      el('button', { type: 'button', onclick: () => d.close() }, 'Close')));
  if (!d.open) d.showModal();
  (d.querySelectorAll('button')[focused] ?? d.querySelector('.row button:last-child')).focus();
  try {
    const w = await ask(`/api/why?node=${encodeURIComponent(id)}`);
    why.replaceChildren(w.reason || 'nothing', ...(w.command ? [' — to change it: ', el('code', {}, w.command)] : []));
  } catch (e) {
    set(why, e.message);
  }
}

// An order is asked for twice: the first answer says what it would do, and the second has to
// say that back.
let confirming = null;

async function order(action, node) {
  try {
    const body = node ? { action, node } : { action };
    const a = await ask('/api/order', { ...body, ...(confirming?.action === action && confirming.node === node ? { confirmed: confirming.what } : {}) });
    if (a.confirm) {
      confirming = { action, node, what: a.confirm };
      set($('confirm-what'), a.confirm);
      if (!$('confirm').open) $('confirm').showModal();
      $('confirm-no').focus();
      return;
    }
    set($('told'), `${action}: ${a.done}`);
  } catch (e) {
    set($('told'), `${action}: ${e.message}`);
  }
  confirming = null;
  $('confirm').close();
}

$('confirm-yes').onclick = () => confirming && order(confirming.action, confirming.node);
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

now.setup(detail);
time.setup(state);
choose(location.hash.slice(1));
listen();

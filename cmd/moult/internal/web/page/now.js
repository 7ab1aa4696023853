// The nodes as they are now: tiles, or squares where there are many.

import { $, el, set, fill, bar, phases, mark, marks, letter, byName, version, troubled, when, plural } from './dom.js';

const many = 200; // nodes are squares from here on
const tiles = new Map(); // by ID
const groups = new Map(); // by class and zone
let dense = false;
let open = () => {};

export function setup(onOpen) {
  open = onOpen;
  $('nodes').addEventListener('click', (e) => {
    const t = e.target.closest('.tile');
    if (t) open(t.dataset.id);
  });
  $('nodes').addEventListener('keydown', move);
  $('nodes').addEventListener('focusin', (e) => {
    const t = e.target.closest('.tile');
    if (t) rove(t);
  });
  $('find').addEventListener('input', find);
}

// One node alone is reached by Tab; the arrows lead to the others.
let stop = null;
function rove(t) {
  if (stop) stop.tabIndex = -1;
  stop = t;
  t.tabIndex = 0;
}

function move(e) {
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 'down', ArrowUp: 'up', Home: 'first', End: 'last' }[e.key];
  const from = e.target.closest('.tile');
  if (!by || !from) return;
  e.preventDefault();
  const all = [...$('nodes').querySelectorAll('li:not([hidden]) > .tile')];
  const i = all.indexOf(from);
  let to;
  if (typeof by === 'number') to = all[i + by];
  else if (by === 'first') to = all[0];
  else if (by === 'last') to = all.at(-1);
  else {
    const at = from.getBoundingClientRect();
    const below = (t) => { const b = t.getBoundingClientRect(); return by === 'down' ? b.top > at.top + 2 : b.top < at.top - 2; };
    const next = (by === 'down' ? all.slice(i + 1) : all.slice(0, i).reverse()).filter(below);
    to = next.find((t) => Math.abs(t.getBoundingClientRect().left - at.left) < 4) ?? next[0];
  }
  to?.focus();
}

function find() {
  const text = $('find').value.trim().toLowerCase();
  let hits = 0;
  for (const t of tiles.values()) {
    t.item.hidden = text !== '' && !t.node.name.toLowerCase().includes(text);
    if (!t.item.hidden) hits++;
  }
  set($('found'), text ? plural(hits, 'node') : '');
}

const place = (n) => n.class + (n.labels?.zone ? `, zone ${n.labels.zone}` : '');

function group(name) {
  let g = groups.get(name);
  if (!g) {
    const count = el('small');
    const list = el('ul', { class: dense ? 'grid dense' : 'grid', 'aria-label': `Nodes of class ${name}` });
    g = { name, list, count, n: 0, section: el('section', { class: dense ? 'dense-group' : '' }, el('h2', {}, `class ${name} `, count), list) };
    groups.set(name, g);
    const after = [...groups.values()].filter((o) => o !== g && o.name > name).sort((a, b) => (a.name < b.name ? -1 : 1))[0];
    $('nodes').insertBefore(g.section, after?.section ?? null);
  }
  return g;
}

function make(n) {
  const t = { node: null, group: null, button: el('button', { type: 'button', class: 'tile', tabindex: -1, 'data-id': n.id }) };
  t.item = el('li', {}, t.button);
  if (!dense) {
    t.mark = mark(n.phase);
    t.name = el('span', { class: 'name' });
    t.version = el('span', { class: 'version' });
    t.what = el('span', { class: 'what' });
    t.bar = bar(0);
    t.why = el('span', { class: 'why' });
    t.button.append(t.mark, t.name, t.version, t.what, t.bar, t.why);
  }
  return t;
}

// words say what a square stands for.
const words = (n) => `${n.name}: ${n.phase}, version ${version(n)}` + (n.reachable ? '' : ', cannot be reached') + (n.unwell ? `, ${n.health}` : '') + (n.reason ? `: ${n.reason}` : '');

function show(t, n) {
  const b = t.button;
  b.dataset.phase = n.phase;
  const states = (n.reachable ? '' : ' away') + (troubled(n) ? ' trouble' : '');
  if (dense) {
    const cls = `tile ${marks(n.phase)}${states}`;
    if (b.className !== cls) b.className = cls;
    set(b, letter(n.phase));
    const says = words(n);
    if (b.title !== says) {
      b.title = says;
      b.setAttribute('aria-label', says);
    }
    return;
  }
  const cls = `tile${states}`;
  if (b.className !== cls) b.className = cls;
  const m = `mark ${marks(n.phase)}`;
  if (t.mark.className !== m) t.mark.className = m;
  set(t.mark, letter(n.phase));
  set(t.name, n.name);
  set(t.version, `v ${version(n)}`);
  let what = n.phase;
  if (n.progress > 0 && n.progress < 1) what += ` ${Math.round(n.progress * 100)} %`;
  if (!n.reachable) what += ', cannot be reached';
  if (n.standing) what += `, ${n.standing}`;
  if (n.unwell) what += `, ${n.health}`;
  set(t.what, what);
  t.bar.hidden = !(n.progress > 0 && n.progress < 1);
  t.bar.firstChild.style.transform = `scaleX(${n.progress ?? 0})`;
  set(t.why, n.reason ?? '');
}

// update draws the nodes that have changed; whole draws all anew.
export function update(state, changed, whole) {
  if (whole || dense !== state.nodes.size > many) {
    dense = state.nodes.size > many;
    const had = stop?.dataset.id;
    const focused = stop && document.activeElement === stop;
    tiles.clear();
    groups.clear();
    stop = null;
    $('nodes').replaceChildren();
    changed = [...state.nodes.values()].sort(byName);
    for (const n of changed) put(n, true);
    const again = tiles.get(had)?.button;
    if (again) rove(again);
    if (focused) again?.focus();
  } else {
    for (const n of changed) put(n, false);
  }
  if (!stop) {
    const first = $('nodes').querySelector('.tile');
    if (first) rove(first);
  }
  for (const g of groups.values()) set(g.count, plural(g.n, 'node'));
  if ($('find').value) find();
  summary(state);
}

// put draws a node where it belongs; last says that it comes after all that are there.
function put(n, last) {
  let t = tiles.get(n.id);
  if (!t) {
    t = make(n);
    tiles.set(n.id, t);
  }
  const old = t.node;
  t.node = n;
  const g = group(place(n));
  if (t.group !== g || old.name !== n.name) {
    if (t.group) t.group.n--;
    t.group = g;
    g.n++;
    let before = null;
    if (!last) {
      for (const other of g.list.children) {
        if (other !== t.item && byName(n, tiles.get(other.firstChild.dataset.id).node) < 0) { before = other; break; }
      }
    }
    g.list.insertBefore(t.item, before);
  }
  show(t, n);
}

function summary(state) {
  const counts = new Map();
  const look = [];
  for (const n of state.nodes.values()) {
    counts.set(n.phase, (counts.get(n.phase) ?? 0) + 1);
    if (troubled(n)) look.push(n);
  }
  const order = [...phases.keys(), ...[...counts.keys()].filter((p) => !phases.has(p))].filter((p) => counts.has(p));
  fill($('legend'), order.map((p) => [p, counts.get(p)]), () => order.map((p) => el('li', { class: 'row' }, mark(p), `${p} ${counts.get(p)}`)));
  const head = state.parts.head;
  fill($('classes'), head?.classes, () => Object.keys(head?.classes ?? {}).sort().map((name) => {
    const c = head.classes[name];
    return el('div', { class: 'card' }, el('strong', {}, `class ${name}`),
      bar(c.total ? c.settled / c.total : 0),
      el('div', {}, `${c.settled} of ${c.total} settled`),
      el('div', { class: 'budget' }, c.budget ? `budget: ${c.down} of ${c.budget} down` : `${c.down} down`),
      el('div', { class: 'dim' }, `${c.waiting} waiting, ${c.held} held, ${c.unwell} not well`));
  }));
  look.sort(byName);
  const first = look.slice(0, 20);
  fill($('look'), [dense, look.length, first.map((n) => [words(n), n.since])], () => !look.length || !dense && look.length > 12 ? [] : [
    el('h2', {}, `${plural(look.length, 'node')} to look at`),
    el('ul', {}, ...first.map((n) => el('li', {}, el('button', { type: 'button', onclick: () => open(n.id) }, n.name), ' ',
      `${words(n).slice(n.name.length + 2)}`, n.since ? el('small', {}, ` since ${when(n.since)}`) : ''))),
    look.length > first.length ? el('p', {}, `and ${look.length - first.length} more`) : '',
  ]);
}

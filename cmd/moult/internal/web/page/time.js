// The rollout as a timeline: a row for each node, its phases as bars.

import { $, el, set, fill, table, color, letter, byName, took, clock, when, goDuration, plural } from './dom.js';

const most = 300; // rows that are drawn: those that changed last
const rowHeight = 22, top = 24, left = 120;
let state = null;
let view = null; // [from, to]; null: all, up to now

export function setup(s) {
  state = s;
  const zoom = (f) => () => {
    const [a, b] = view ?? range(rows());
    const mid = (a + b) / 2, half = ((b - a) / 2) * f;
    view = [mid - half, mid + half];
    draw();
  };
  const shift = (f) => () => {
    const [a, b] = view ?? range(rows());
    view = [a + (b - a) * f, b + (b - a) * f];
    draw();
  };
  $('zoom-in').onclick = zoom(0.5);
  $('zoom-out').onclick = zoom(2);
  $('earlier').onclick = shift(-0.5);
  $('later').onclick = shift(0.5);
  $('zoom-all').onclick = () => { view = null; draw(); };
  $('chart').addEventListener('keydown', (e) => {
    const key = { '+': 'zoom-in', '-': 'zoom-out', ArrowLeft: 'earlier', ArrowRight: 'later', 0: 'zoom-all' }[e.key];
    if (key) { e.preventDefault(); $(key).click(); }
  });
  $('export-svg').onclick = save;
  $('chart').addEventListener('scroll', () => requestAnimationFrame(draw));
}

// bars are a node's phases: of the agent's own by its journal, of others as they were seen.
function bars(n) {
  const h = state.parts.history;
  if (h?.id === n.id) {
    return (h.phases ?? []).filter((p) => p.at).map((p) => {
      const from = Date.parse(p.at);
      return { phase: p.phase, version: p.version, from, to: p.took ? from + goDuration(p.took) : null, reason: p.reason };
    });
  }
  return n.past.map((p, i) => ({ phase: p.phase, version: p.version, from: p.from, to: n.past[i + 1]?.from ?? null, reason: i + 1 === n.past.length ? n.reason : '' }));
}

function rows() {
  let nodes = [...state.nodes.values()];
  if (nodes.length > most) {
    const last = (n) => n.past.at(-1)?.from ?? 0;
    nodes = nodes.sort((a, b) => last(b) - last(a)).slice(0, most);
  }
  return nodes.sort(byName).map((n) => ({ node: n, bars: bars(n) }));
}

// range is from when the first rollout seen began to now: a phase at rest before it would
// make all others too narrow.
function range(rows) {
  const now = Date.now();
  let from = Infinity;
  for (const r of rows) {
    for (const b of r.bars) {
      if (b.to !== null || b.from > now - 600e3) from = Math.min(from, Math.max(b.from, (b.to ?? now) - 3600e3));
    }
  }
  if (from === Infinity) from = now - 600e3;
  return [from - (now - from) * 0.02, now + (now - from) * 0.02 + 1000];
}

const svg = (tag, attrs, text) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  if (text != null) e.textContent = text;
  return e;
};

const steps = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 604800].map((s) => s * 1000);

export function draw() {
  const chart = $('chart');
  const all = rows();
  // Rows that are out of sight cost nothing: they are drawn when they are scrolled to.
  const first = Math.floor(chart.scrollTop / rowHeight) - 4, last = first + Math.ceil((chart.clientHeight || 800) / rowHeight) + 8;
  chart.replaceChildren(picture(all, first, last));
  const own = state.parts.history;
  set($('time-note'), `${own ? `The row of ${own.node} is its agent's journal; ` : ''}the others are what was seen since this command began, where a phase shorter than a second may be missing.` +
    (state.nodes.size > most ? ` Of ${state.nodes.size} nodes the ${most} that changed last are here.` : ''));
  fill($('journal'), own, () => own ? [el('h2', {}, `Journal of ${own.node}`), table('Journal', ['since', 'phase', '#version', '#release', '#took', 'why'],
    (own.phases ?? []).slice(-200).reverse().map((p) => [p.at ? when(p.at) : 'not noted', p.phase, p.version, p.release ? `${p.release}${p.back ? ' back' : ''}` : '', p.took ? took(goDuration(p.took)) : '', p.reason ?? '']))] : []);
}

// picture draws the rows from first to last of all, in their places.
function picture(all, first, last) {
  const [from, to] = view ?? range(all);
  const width = Math.max(320, $('chart').clientWidth - 2);
  const height = top + all.length * rowHeight + 6;
  const x = (t) => left + ((t - from) / (to - from)) * (width - left - 8);
  const root = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Phases of ${plural(all.length, 'node')} from ${when(from)} to ${when(to)}` });
  const step = steps.find((s) => (to - from) / s <= (width - left) / 90) ?? to - from;
  for (let t = Math.ceil(from / step) * step; t < to; t += step) {
    root.append(svg('line', { x1: x(t), x2: x(t), y1: top - 4, y2: height, stroke: '#8b94a0', 'stroke-opacity': 0.4 }),
      svg('text', { x: x(t), y: 14, 'text-anchor': 'middle', fill: 'currentColor' }, clock(t)));
  }
  const now = Date.now();
  all.forEach((r, i) => {
    if (i < first || i > last) return;
    const y = top + i * rowHeight;
    const g = svg('g', { 'data-id': r.node.id, 'data-name': r.node.name });
    const name = r.node.name.length > 16 ? `…${r.node.name.slice(-15)}` : r.node.name;
    g.append(svg('text', { x: left - 6, y: y + 15, 'text-anchor': 'end', fill: 'currentColor' }, name));
    for (const b of r.bars) {
      const end = b.to ?? Math.max(now, b.from);
      if (end < from || b.from > to) continue;
      const a = Math.max(x(Math.max(b.from, from)), left), z = x(Math.min(end, to));
      const rect = svg('rect', { x: a, y: y + 2, width: Math.max(1, z - a), height: rowHeight - 4, fill: color(b.phase), 'data-phase': b.phase, 'data-from': b.from });
      rect.append(svg('title', {}, `${r.node.name}: ${b.phase}, version ${b.version}, from ${when(b.from)}, ${took(end - b.from)}${b.to === null ? ' so far' : ''}${b.reason ? `: ${b.reason}` : ''}`));
      g.append(rect);
      if (z - a > 12) g.append(svg('text', { x: (a + z) / 2, y: y + 15, 'text-anchor': 'middle', fill: '#fff', 'pointer-events': 'none' }, z - a > 80 ? b.phase : letter(b.phase)));
    }
    root.append(g);
  });
  return root;
}

// save hands the chart out as a file that stands by itself.
function save() {
  const copy = picture(rows(), 0, most);
  copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  copy.setAttribute('color', '#111827');
  copy.setAttribute('font-family', 'sans-serif');
  copy.setAttribute('font-size', '12');
  copy.prepend(svg('rect', { width: '100%', height: '100%', fill: '#ffffff' }));
  const url = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: 'image/svg+xml' }));
  el('a', { href: url, download: 'moult-timeline.svg' }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

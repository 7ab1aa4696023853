// What all views share. Texts come from peers: they are only ever set as text.

export const $ = (id) => document.getElementById(id);

// el makes an element; children are elements or texts.
export function el(tag, attrs, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs ?? {})) {
    if (k === 'class') e.className = v;
    else if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (v !== false && v != null) e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children.filter((c) => c != null));
  return e;
}

// set changes a text only where it has changed.
export function set(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

// fill changes children only where what they say has changed.
export function fill(e, key, make) {
  const said = JSON.stringify(key);
  if (e.said === said) return;
  e.said = said;
  e.replaceChildren(...make());
}

// table makes a table; a head that begins with "#" is a column of numbers.
export function table(label, heads, rows) {
  const cls = (h) => (h.startsWith('#') ? { class: 'n' } : {});
  return el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': label },
    el('table', {},
      el('thead', {}, el('tr', {}, ...heads.map((h) => el('th', { scope: 'col', ...cls(h) }, h.replace('#', ''))))),
      el('tbody', {}, ...rows.map((r) => el('tr', {}, ...r.map((c, i) => el('td', cls(heads[i]), c instanceof Node ? c : String(c ?? ''))))))));
}

export function bar(share, color) {
  const i = el('i');
  i.style.transform = `scaleX(${Math.max(0, Math.min(1, share))})`;
  if (color) i.style.setProperty('--fill', color);
  return el('div', { class: 'bar', 'aria-hidden': true }, i);
}

// phases are all there are, in their order: letter, colour and shape of each.
export const phases = new Map(Object.entries({
  current: ['C', '#5b6470', 'rest'], fetching: ['F', '#1d4ed8', 'ahead'], rehearsing: ['R', '#6d28d9', 'ahead'], waiting: ['W', '#92590a', 'ahead'],
  draining: ['D', '#0e7490', 'down'], transforming: ['T', '#155e75', 'down'], starting: ['S', '#0f766e', 'down'], probing: ['P', '#3f6212', 'down'],
  settled: ['✓', '#15803d', 'rest'], 'rolling back': ['B', '#be185d', 'trouble'], held: ['H', '#b91c1c', 'trouble'],
}));
export const letter = (p) => phases.get(p)?.[0] ?? '?';
export const color = (p) => phases.get(p)?.[1] ?? '#5b6470';
export const marks = (p) => `p-${p.replaceAll(' ', '-')} s-${phases.get(p)?.[2] ?? 'rest'}`;
export const mark = (p) => el('span', { class: `mark ${marks(p)}`, 'aria-hidden': true }, letter(p));

export const names = new Intl.Collator('en', { numeric: true });
export const byName = (a, b) => names.compare(a.name, b.name) || (a.id < b.id ? -1 : 1);

export function version(n) {
  let v = n.target && n.target !== n.version ? `${n.version}→${n.target}` : `${n.version}`;
  if (n.runs) v += ` (runs ${n.runs})`;
  return v;
}

// troubled is a node that somebody should look after.
export const troubled = (n) => !n.standing && (!n.reachable || n.runs || n.phase === 'held' || n.phase === 'rolling back' || n.unwell);

export const short = (digest) => digest.replace(/^sha256:/, '').slice(0, 8);

export const plural = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`;

export function took(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.round(s / 86400)} days`;
}

const times = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
const dates = new Intl.DateTimeFormat('en-GB', { dateStyle: 'short', timeStyle: 'medium' });
export const clock = (t) => times.format(new Date(t));
export const when = (t) => dates.format(new Date(t));

export function bytes(n) {
  let i = 0;
  for (; n >= 1024 && i < 4; i++) n /= 1024;
  return i ? `${n.toFixed(1)} ${'KMGT'[i - 1]}iB` : `${n} bytes`;
}

// goDuration reads a duration as Go writes it, in milliseconds.
export function goDuration(text) {
  const unit = { h: 3600e3, m: 60e3, s: 1e3, ms: 1, µs: 1e-3, us: 1e-3, ns: 1e-6 };
  let sum = 0;
  for (const [, n, u] of (text ?? '').matchAll(/([\d.]+)(h|ms|m|s|µs|us|ns)/g)) sum += n * unit[u];
  return sum;
}

// ask asks the server; what it refuses is an Error with its words.
export async function ask(path, body) {
  const r = await fetch(path, body ? { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) } : {});
  const text = await r.text();
  let v;
  try { v = JSON.parse(text); } catch { v = { error: text.trim() }; }
  if (!r.ok) throw new Error(v.error + (v.hint ? ` (${v.hint})` : ''));
  return v;
}

// oneByOne has a question asked once at a time, at most once a second, and once more where it
// was called meanwhile.
export function oneByOne(question) {
  let due = false, busy = false;
  return async () => {
    due = true;
    if (busy) return;
    busy = true;
    while (due) {
      due = false;
      const second = new Promise((done) => setTimeout(done, 1000));
      await question();
      await second;
    }
    busy = false;
  };
}

// What the release is, how far it has spread, and which version runs where.

import { $, el, fill, table, bar, byName, bytes, took, when, goDuration, plural, ask, oneByOne, mark, short } from './dom.js';

// rates are calls a second, from two counts that came one after the other.
const last = new Map();
function rate(key, calls) {
  const now = performance.now();
  const l = last.get(key);
  if (!l || calls < l.calls) {
    last.set(key, { calls, at: now, rate: null });
    return null;
  }
  if (now - l.at < 900) return l.rate;
  const r = ((calls - l.calls) * 1000) / (now - l.at);
  last.set(key, { calls, at: now, rate: r });
  return r;
}
const perSecond = (r) => (r == null ? '' : r < 10 ? r.toFixed(1) : Math.round(r));
const share = (n, of) => (of ? `${((100 * n) / of).toFixed(n === of || !n ? 0 : 1)} %` : '');

export function versions(state) {
  const classes = new Map();
  for (const n of state.nodes.values()) {
    const c = classes.get(n.class) ?? classes.set(n.class, new Map()).get(n.class);
    c.set(n.version, (c.get(n.version) ?? 0) + 1);
  }
  const own = state.parts.own;
  const services = Object.entries(own?.services ?? {}).sort().map(([name, s]) => {
    const total = Object.values(s.callers).reduce((sum, c) => sum + c.calls, 0);
    return [name, s.attach, Object.entries(s.callers).map(([v, c]) => [`version ${v}`, +v === own.native ? 'native' : 'simulated', c.calls, share(c.calls, total),
      perSecond(rate(`${name} ${v}`, c.calls)), c.denied, c.errors, c.open, c.calls ? took(goDuration(c.mean)) : ''])];
  });
  const objects = (own?.objects ?? []).map((o) => [`${o.callers}→${o.calls}`, `${o.side} of ${o.release}`, o.kind, o.where, o.state, o.counted.calls,
    perSecond(rate(`object ${o.callers} ${o.side} ${o.release}`, o.counted.calls)), o.counted.denied, o.counted.errors, o.counted.calls ? took(goDuration(o.counted.mean)) : '', o.problem ?? '']);
  fill($('versions'), [[...classes].map(([c, v]) => [c, [...v]]), services, objects, own?.native], () => [
    el('h2', {}, 'Which version runs where'),
    ...[...classes].sort().map(([name, counts]) => table(`Versions of class ${name}`, ['class', '#version', '#nodes', 'share'], [...counts].sort((a, b) => a[0] - b[0]).map(([v, n]) => {
      const total = [...counts.values()].reduce((a, b) => a + b);
      return [name, v, n, el('div', {}, share(n, total), bar(n / total))];
    }))),
    el('h2', {}, `Calls that come to ${own?.name ?? 'this node'}, which runs version ${own?.native ?? '?'}`),
    el('p', { class: 'dim' }, 'An agent counts the calls of its own node alone, and those only that come through it.'),
    ...services.map(([name, attach, rows]) => el('section', {}, el('h3', {}, `service ${name} `, el('small', {}, `by ${attach.kind}${attach.why ? `: ${attach.why}` : ''}`)),
      table(`Calls to service ${name}`, ['callers', 'answered', '#calls', '#share', '#calls/s', '#denied', '#errors', '#open', '#mean'], rows))),
    el('h2', {}, 'Simulation objects'),
    objects.length ? table('Simulation objects', ['callers', 'object', 'kind', 'where', 'state', '#calls', '#calls/s', '#denied', '#errors', '#mean', 'problem'], objects) : el('p', {}, 'none: every caller speaks the version that runs here'),
  ]);
}

// held is how much of the newest release a node has, 0 to 1.
function held(n, release) {
  if (n.version >= release || n.running >= release) return 1;
  if (n.target < release || !n.target) return 0;
  return n.phase === 'fetching' ? n.progress ?? 0 : n.phase === 'current' ? 0 : 1;
}

export function spread(state) {
  const release = state.parts.head?.release.version ?? 0;
  const nodes = [...state.nodes.values()].sort(byName);
  const rows = nodes.map((n) => [n.name, release ? held(n, release) : 0, n.phase]);
  const have = rows.filter((r) => r[1] === 1).length;
  const some = rows.filter((r) => r[1] > 0 && r[1] < 1);
  const shown = rows.length > 200 ? some.slice(0, 200) : rows;
  const from = Object.entries(state.parts.traffic?.fetched ?? {}).map(([id, n]) => [state.nodes.get(id)?.name ?? id.slice(0, 8), bytes(n), n]).sort((a, b) => b[2] - a[2]);
  fill($('spread'), [release, have, shown, from], () => !release ? [el('p', {}, 'There is no release yet.')] : [
    el('h2', {}, `Release ${release}: ${have} of ${plural(rows.length, 'node')} have all of it, ${some.length} a part`),
    el('div', { class: 'spread' }, ...shown.flatMap(([name, h, phase]) => [el('span', { class: 'name' }, mark(phase), ` ${name}`), bar(h, '#1d4ed8'), el('span', {}, `${Math.floor(h * 100)} %`)])),
    el('h2', {}, `What ${state.parts.agent?.name ?? 'this agent'} has fetched, by peer`),
    from.length ? table('Fetched by peer', ['from', '#bytes'], from.map((r) => r.slice(0, 2))) : el('p', {}, 'nothing since it began'),
    el('p', { class: 'dim' }, 'From whom the other nodes have theirs their own agents know.'),
  ]);
}

let asked = '';
const askRelease = oneByOne(async () => {
  try {
    const plan = await ask('/api/release');
    fill($('release'), plan, () => planned(plan));
  } catch (e) {
    asked = '';
    fill($('release'), e.message, () => [el('p', {}, e.message)]);
  }
});

export function release(state) {
  const key = JSON.stringify([state.parts.head?.release, [...state.nodes.values()].map((n) => [n.id, n.version, n.phase, n.reachable, n.rehearsed])]);
  if (key === asked) return;
  asked = key;
  askRelease();
}

function planned(p) {
  const ring = new Map((p.ring?.classes ?? []).map((c) => [c.class, c]));
  const classes = [...new Set([...p.classes.map((c) => c.class), ...ring.keys()])].sort();
  return [
    el('h2', {}, `Release ${p.version} `, el('small', {}, `${short(p.digest)}; signatures are good until ${when(p.expires)}`)),
    ...classes.flatMap((name) => {
      const c = p.classes.find((x) => x.class === name), r = ring.get(name);
      return [el('h3', {}, `class ${name} `, el('small', {}, c ? (c.from ? `from version ${c.from} to ${c.to}` : `installs version ${c.to}`) : 'not changed by it')),
        c ? el('dl', {},
          el('dt', {}, 'schedule'), el('dd', {}, c.schedule),
          el('dt', {}, 'transform'), el('dd', {}, c.transform),
          ...c.calls.flatMap((k) => [el('dt', {}, 'calls'), el('dd', {}, `of version ${k.callers} to nodes of ${k.nodes}: ${k.fate} (${k.kind})${k.reason ? `: ${k.reason}` : ''}`)]),
          ...(c.artifacts ?? []).flatMap((a) => [el('dt', {}, 'software'), el('dd', {}, `${a.platform?.os ?? ''}/${a.platform?.arch ?? ''}, ${bytes(a.bytes)}`)]),
          ...(c.warnings ?? []).flatMap((w) => [el('dt', {}, 'note'), el('dd', {}, w)])) : '',
        r ? table(`Places of class ${name}`, ['#place', 'node', '#version', 'phase', 'wave', 'notes'], r.nodes.slice(0, 1000).map((n) => [n.rank, n.name, n.version, n.phase,
          n.wave || '', [n.canary && 'canary', n.skipped && 'skipped', !n.reachable && 'cannot be reached', n.rehearsed && `rehearsal ${n.rehearsed.outcome}`].filter(Boolean).join(', ')])) : '',
        r?.expected ? el('p', {}, `may take ${took(goDuration(r.expected.takes))}, by what rehearsals took`) : '',
        r && r.nodes.length > 1000 ? el('p', {}, `and ${r.nodes.length - 1000} places more: \`moult plan\` lists them`) : ''];
    }),
  ];
}

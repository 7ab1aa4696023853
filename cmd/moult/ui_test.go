//go:build unix

package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	cdpmemory "github.com/chromedp/cdproto/memory"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/web"
	"moult/gossip/view"
	"moult/store/bundle"
)

// uiPage is a page of a cluster, and who looks at it.
type uiPage struct {
	*browser
	c *testCluster
}

// tile is an expression of the page: the tile of a node.
func tile(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.tile')].find(t => t.querySelector('.name').textContent === %q)`, name)
}

// order gives an order by the page, and returns what it has said that it would do.
func (p *uiPage) order(selector string) (what string) {
	p.t.Helper()
	p.click(selector)
	p.until("what it would do", `document.getElementById('confirm').open`)
	what = eval[string](p.browser, `document.getElementById('confirm-what').textContent`)
	p.click("#confirm-yes")
	action, _, _ := strings.Cut(what, " ")
	p.until("the order to be given", fmt.Sprintf(`!document.getElementById('confirm').open && (document.querySelector('dialog[open] .told') ?? document.getElementById('told')).textContent.startsWith(%q)`, action+": "))
	if told := eval[string](p.browser, `document.getElementById('told').textContent`); !strings.Contains(told, "handed over") {
		p.t.Errorf("%s has come to %q", what, told)
	}
	return what
}

func (p *uiPage) headline(state string) {
	p.t.Helper()
	p.until("the headline "+state, fmt.Sprintf(`document.getElementById('headline').textContent.includes(%q)`, state))
}

// watch has the page note each phase that a tile shows.
const watch = `(() => {
	window.shown = {};
	const look = () => { for (const t of document.querySelectorAll('.tile')) {
		const s = window.shown[t.querySelector('.name').textContent] ??= [];
		if (s.at(-1) !== t.dataset.phase) s.push(t.dataset.phase);
	} };
	new MutationObserver(look).observe(document.getElementById('nodes'), { subtree: true, childList: true, attributes: true, characterData: true });
	look();
})()`

// TestUIPage: a browser looks at a rollout of five real nodes, pauses and resumes it, sees a
// node that is held, and the agent end and come back.
func TestUIPage(t *testing.T) {
	inUI(t)
	b := newBrowser(t)
	c := newCluster(t, 5)
	p := &uiPage{b, c}
	first, last := c.Agents[0], c.Agents[4]
	c.up(c.Agents)
	c.formed(5)
	c.releaseAt(last, 1, spec{})
	c.settledAt(first, 1, 5)

	address := ui(t, "--agent", first.Data, "--trust", c.trustDir(), "--allow-orders")
	p.refusesOthers(address)
	b.do(chromedp.Navigate(address))
	b.until("five tiles", `document.querySelectorAll('.tile').length === 5 && [...document.querySelectorAll('.tile')].every(t => t.dataset.phase === 'current')`)
	p.refusesSites()
	p.axe()
	b.run(watch)

	c.releaseAt(last, 2, spec{})
	b.until("the first node to go", `Object.values(window.shown).some(s => s.length > 1)`)
	if what := p.order("#orders [data-order=pause]"); !strings.HasPrefix(what, "pause the rollout of release 2: no further node goes down") {
		t.Errorf("it would %q", what)
	}
	p.headline("release 2: paused")
	b.pictures("paused", 1280)
	p.view("release")
	b.until("the plan", `document.getElementById('release').textContent.includes('from version 1 to 2')`)
	b.pictures("release")
	p.view("now")
	if what := p.order("#orders [data-order=resume]"); !strings.Contains(what, "resume the rollout of release 2: nodes go down again, at most 1 of class kv at once") {
		t.Errorf("it would %q", what)
	}
	p.headline("release 2: complete")
	down := 0
	for name, phases := range eval[map[string][]string](b, `window.shown`) {
		// A phase may be over before the page looks again.
		if slices.ContainsFunc(phases, func(s string) bool { return view.Phase(s).Down() || s == string(view.Probing) }) {
			down++
		}
		if end := phases[len(phases)-1]; len(phases) < 3 || phases[0] != "current" || end != "settled" && end != "current" {
			t.Errorf("the tile of %s has shown %q", name, phases)
		}
	}
	if down < 2 {
		t.Errorf("%d tiles have shown how their nodes went down", down)
	}
	b.pictures("now")
	p.timeline(first)
	for _, name := range []string{"versions", "spread"} {
		p.view(name)
		b.pictures(name, 360, 1280)
	}
	p.view("now")
	p.restart(first)
	p.holds(last)
	p.readOnly(first)
}

// axe shows that axe-core finds what is wrong.
func (p *uiPage) axe() {
	p.t.Helper()
	if os.Getenv("MOULT_AXE") == "" {
		p.t.Log("skipped: MOULT_AXE names no axe-core, so it does not look at the page")
		return
	}
	p.run(`document.body.append(Object.assign(document.createElement('img'), { id: 'unnamed', src: '/icon.svg' }))`)
	if found := p.barriers(); len(found) != 1 || !strings.Contains(string(found[0]), "image-alt") {
		p.t.Errorf("of a picture without a name axe-core says %s", found)
	}
	p.run(`document.getElementById('unnamed').remove()`)
}

// refusesOthers: who has no token gets nothing, also where another page of this machine asks.
func (p *uiPage) refusesOthers(address string) {
	p.t.Helper()
	base, _, _ := strings.Cut(address, "/?")
	resp, err := http.Get(base + "/api/timeline")
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		p.t.Errorf("without the token: %s", resp.Status)
	}
}

// refusesSites: a page of another port of this machine, whose requests carry the cookie, reads
// nothing, and changes nothing.
func (p *uiPage) refusesSites() {
	p.t.Helper()
	base := eval[string](p.browser, `location.origin`)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!doctype html><title>other</title>")
	}))
	defer other.Close()
	ctx, leave := chromedp.NewContext(p.ctx)
	defer leave()
	if err := chromedp.Do(ctx, chromedp.Navigate(other.URL)); err != nil {
		p.t.Fatal(err)
	}
	beside := &browser{p.t, ctx, p.out}
	got := eval[[]string](beside, fmt.Sprintf(`Promise.all([
		fetch(%[1]q + '/api/timeline', { credentials: 'include' }),
		fetch(%[1]q + '/api/order', { method: 'POST', credentials: 'include', headers: { 'Content-Type': 'application/json' }, body: '{"action":"pause"}' }),
		fetch(%[1]q + '/api/timeline', { credentials: 'include', mode: 'no-cors' }),
		new Promise((_, no) => { const s = document.createElement('script'); s.src = %[1]q + '/app.js'; s.onload = () => no('loaded'); s.onerror = () => no('refused'); document.head.append(s); }),
	].map(x => x.then(r => 'got ' + r.type, e => 'refused'))).then(a => a)`, base))
	if want := []string{"refused", "refused", "refused", "refused"}; !slices.Equal(got, want) {
		p.t.Errorf("a page of another site: %q", got)
	}
}

// timeline compares the bars of the agent's own node with its journal, and what is handed out.
func (p *uiPage) timeline(a *cluster.Agent) {
	p.t.Helper()
	past, err := a.API.History(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	var want []string
	for _, ph := range past.Phases {
		if !ph.At.IsZero() {
			want = append(want, fmt.Sprint(ph.Phase, " ", ph.At.UnixMilli()))
		}
	}
	p.view("time")
	p.until("all bars", fmt.Sprintf(`document.querySelectorAll('#chart g[data-name=%q] rect').length === %d`, a.Name, len(want)))
	got := eval[[]string](p.browser, fmt.Sprintf(`[...document.querySelectorAll('#chart g[data-name=%q] rect')].map(r => r.dataset.phase + ' ' + r.dataset.from)`, a.Name))
	if !slices.Equal(got, want) || len(want) < 6 {
		p.t.Errorf("the timeline has\n%q\nand the journal\n%q", got, want)
	}
	p.pictures("time")
	var exported web.Timeline
	if err := json.Unmarshal(p.download("#time a.button"), &exported); err != nil {
		p.t.Fatal(err)
	}
	got = nil
	for _, row := range exported.Nodes {
		if row.Name == a.Name && row.Source == "journal" {
			for _, ph := range row.Phases {
				got = append(got, fmt.Sprint(ph.Phase, " ", ph.At.UnixMilli()))
			}
		}
	}
	if len(exported.Nodes) != 5 || !slices.Equal(got, want) {
		p.t.Errorf("the JSON has %d nodes, and\n%q", len(exported.Nodes), got)
	}
	rects := 0
	for dec := xml.NewDecoder(strings.NewReader(string(p.download("#export-svg")))); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			rects++
		}
	}
	if rects <= len(want) {
		p.t.Errorf("the SVG has %d bars", rects)
	}
}

// restart ends the agent that the page asks, and starts it again.
func (p *uiPage) restart(a *cluster.Agent) {
	p.t.Helper()
	p.c.kill(a)
	p.until("the page to say that it is gone", `document.getElementById('contact').textContent.startsWith('The agent does not answer')`)
	p.pictures("gone", 1280)
	p.c.up([]*cluster.Agent{a})
	p.until("the page to go on", `document.getElementById('contact').textContent === ''`)
}

// holds has a release whose software is not well on the first node that takes it.
func (p *uiPage) holds(a *cluster.Agent) {
	p.t.Helper()
	p.c.releaseAt(a, 3, spec{health: `"/never"`})
	p.headline("release 3: held")
	p.until("the node that is held", `[...document.querySelectorAll('.tile[data-phase=held].trouble .why')].some(e => e.textContent.includes('/never'))`)
	p.pictures("held")
	name := eval[string](p.browser, `document.querySelector('.tile[data-phase=held] .name').textContent`)
	p.run(tile(name) + `.focus()`)
	p.do(chromedp.KeyEvent("\r"))
	p.until("what it waits for", `document.querySelector('#detail[open] code')?.textContent === 'moult retry `+name+`'`)
	p.pictures("detail", 360, 1280)
	if what := p.order("#detail [data-order=skip]"); !strings.Contains(what, "skip "+name+": you give your word that it is gone") || !strings.Contains(what, "it is there, and stays") {
		p.t.Errorf("it would %q", what)
	}
	p.until("the node to be skipped", `document.querySelector('#detail [data-row=standing]').textContent === 'skipped'`)
	p.once()
	p.do(chromedp.KeyEvent("\x1b"))
}

// once confirms a retry twice: the second one is asked for anew.
func (p *uiPage) once() {
	p.t.Helper()
	got := eval[[]string](p.browser, `(async () => {
		const post = (confirmed) => fetch('/api/order', { method: 'POST', headers: { 'Content-Type': 'application/json' },
			body: JSON.stringify({ action: 'retry', node: document.querySelector('#detail [data-row=ID]').textContent, confirmed }) }).then(r => r.json());
		const { identity } = await post('');
		return [await post(identity), await post(identity)].map(a => Object.keys(a).join());
	})()`)
	if !slices.Equal(got, []string{"done", "confirm,identity"}) {
		p.t.Errorf("confirmed twice: %q", got)
	}
}

// readOnly: without --allow-orders there are no buttons, and the server refuses.
func (p *uiPage) readOnly(a *cluster.Agent) {
	p.t.Helper()
	p.do(chromedp.Navigate(ui(p.t, "--agent", a.Data)))
	p.until("the tiles", `document.querySelectorAll('.tile').length === 5`)
	if eval[bool](p.browser, `document.getElementById('orders').checkVisibility()`) {
		p.t.Error("a page that is for reading has orders")
	}
	if status := eval[int](p.browser, `fetch('/api/order', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"action":"pause"}' }).then(r => r.status)`); status != http.StatusConflict {
		p.t.Errorf("an order is answered by %d", status)
	}
}

// crowd is an agent of many nodes, some of which change whenever it is asked.
type crowd struct {
	mu     sync.Mutex
	status control.Status
	began  time.Time
	step   int // of the next node to change
	// perSecond is how many change a second, and perLook how many when it is asked.
	perSecond, perLook int
}

func newCrowd(n int) *crowd {
	s := control.Status{Release: control.ReleaseStatus{Version: 2, State: control.StateRolling}, Classes: map[bundle.Class]control.ClassStatus{"kv": {Total: n, Budget: n / 5}}}
	for i := range n {
		s.Nodes = append(s.Nodes, control.NodeStatus{
			Name: fmt.Sprintf("node-%d", i), ID: bundle.NodeID{byte(i >> 8), byte(i)}, Class: "kv", Labels: map[string]string{"zone": string(rune('a' + i%4))},
			Version: 1, Target: 2, Phase: string(view.Waiting), Reachable: true, Reason: "the budget of class kv is used up", Since: time.Now(),
		})
	}
	return &crowd{status: s, began: time.Now()}
}

func (c *crowd) at(perSecond, perLook int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began, c.perSecond, c.perLook = time.Now(), perSecond, perLook
}

func (c *crowd) Status(context.Context, bool) (control.Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	due := c.perLook
	if c.perSecond > 0 {
		due = int(time.Since(c.began).Seconds() * float64(c.perSecond))
		c.began = c.began.Add(time.Duration(due) * time.Second / time.Duration(c.perSecond))
	}
	phases := view.Phases()
	for range due {
		n := &c.status.Nodes[c.step*7919%len(c.status.Nodes)]
		c.step++
		n.Reason = fmt.Sprintf("the budget of class kv is used up by others, as of change %d", c.step)
		if c.perSecond > 0 { // else only what is said changes: of phases some are kept, so those grow
			n.Phase, n.Since = string(phases[(slices.Index(phases, view.Phase(n.Phase))+1)%len(phases)]), time.Now()
		}
	}
	s := c.status
	s.Nodes = slices.Clone(s.Nodes)
	return s, nil
}

func (c *crowd) Info(context.Context) (control.Info, error) { return control.Info{Name: "node-0"}, nil }
func (c *crowd) Why(context.Context, string) (control.Why, error) {
	return control.Why{Reason: "the budget is used up"}, nil
}
func (c *crowd) History(context.Context) (control.History, error) { return control.History{}, nil }

// measure has a page count its frames, and how long its own drawing takes in each.
const measure = `(() => {
	const ask = window.requestAnimationFrame.bind(window);
	window.frames_ = { all: 0, drawn: 0, sum: 0, max: 0 };
	window.requestAnimationFrame = (f) => ask((t) => {
		const began = performance.now();
		f(t);
		const took = performance.now() - began, m = window.frames_;
		m.drawn++; m.sum += took; m.max = Math.max(m.max, took);
	});
	const count = () => { window.frames_.all++; ask(count); };
	ask(count);
})()`

// TestUIThousands logs what a page of 2,000 nodes costs while 50 of them change a second, and
// has it leave nothing behind when many have.
func TestUIThousands(t *testing.T) {
	inUI(t)
	b := newBrowser(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := newCrowd(2000)
	s := web.Serve(l, web.Config{Agent: c, Every: 20 * time.Millisecond, Release: func(context.Context) (any, error) { return nil, errors.New("none") }}, slog.New(slog.DiscardHandler))
	defer s.Close()
	call(b, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: measure})
	call(b, performance.Enable, performance.EnableParams{})
	b.do(chromedp.Navigate(s.Address()))
	b.until("2,000 squares", `document.querySelectorAll('.grid.dense .tile').length === 2000`)
	b.pictures("thousands")

	for _, view := range []string{"now", "time"} {
		b.view(view)
		c.at(50, 0)
		before := b.costs(nil)
		b.run(`Object.assign(window.frames_, { all: 0, drawn: 0, sum: 0, max: 0 })`)
		b.until("180 frames", `window.frames_.all >= 180`)
		f := eval[struct{ All, Drawn, Sum, Max float64 }](b, `window.frames_`)
		spent := b.costs(before)
		c.at(0, 0)
		t.Logf("2,000 nodes, 50 changes a second, view %s: %.0f frames, %.0f drawn in %.1f ms each (at most %.1f); script %.2f ms, layout and style %.2f ms a frame",
			view, f.All, f.Drawn, f.Sum/max(f.Drawn, 1), f.Max, 1000*spent["ScriptDuration"]/f.All, 1000*(spent["LayoutDuration"]+spent["RecalcStyleDuration"])/f.All)
	}
	b.view("now")
	b.grows(c)
}

// costs are the browser's own counts, less those of before.
func (b *browser) costs(before map[string]float64) map[string]float64 {
	b.t.Helper()
	now := map[string]float64{}
	for _, m := range call(b, performance.GetMetrics, cdp.Empty{}).Metrics {
		now[m.Name] = m.Value - before[m.Name]
	}
	return now
}

// grows has nodes change, and then 30,000 times, as in ten minutes: that must leave nothing
// behind that the first few have not.
func (b *browser) grows(c *crowd) {
	b.t.Helper()
	var elements [2]int64
	var heap [2]float64
	for i, looks := range []int{3, 15} {
		c.mu.Lock()
		from := c.step
		c.mu.Unlock()
		c.at(0, len(c.status.Nodes))
		b.run(fmt.Sprintf(`new Promise(done => { let n = 0; const s = new EventSource('/api/events'); s.onmessage = () => { if (++n > %d) { s.close(); done(); } }; })`, looks))
		c.at(0, 0)
		if c.mu.Lock(); c.step-from < looks*len(c.status.Nodes) {
			b.t.Errorf("only %d nodes have changed", c.step-from)
		}
		c.mu.Unlock()
		for range 2 { // the page's objects, and then what they alone have held
			call(b, heapprofiler.CollectGarbage, cdp.Empty{})
		}
		elements[i] = call(b, cdpmemory.GetDOMCounters, cdp.Empty{}).Nodes
		heap[i] = b.costs(nil)["JSHeapUsedSize"]
	}
	b.t.Logf("before 30,000 changes: %d DOM nodes and %.1f MiB of heap; after them: %d and %.1f", elements[0], heap[0]/(1<<20), elements[1], heap[1]/(1<<20))
	// Each of these changes has replaced some hundred.
	if elements[1] > elements[0]+elements[0]/2 {
		b.t.Errorf("DOM nodes are left behind: %d, then %d", elements[0], elements[1])
	}
}

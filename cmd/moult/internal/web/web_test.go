package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent says what it is told to.
type fakeAgent struct {
	mu      sync.Mutex
	status  control.Status
	history control.History
	down    error
	partly  error // of what is asked beside the status
}

func (a *fakeAgent) change(f func(a *fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

func (a *fakeAgent) Status(context.Context, bool) (control.Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Nodes = append([]control.NodeStatus(nil), a.status.Nodes...)
	return s, a.down
}

func (a *fakeAgent) Info(context.Context) (control.Info, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return control.Info{Name: "n1", ID: bundle.NodeID{1}}, a.partly
}

func (a *fakeAgent) Why(_ context.Context, node string) (control.Why, error) {
	if node != (bundle.NodeID{1}).String() {
		return control.Why{}, control.Misuse(fmt.Errorf("no node is called %q", node), "see `moult status`")
	}
	return control.Why{Node: "n1", Reason: "it waits for <b>n2</b>"}, nil
}

func (a *fakeAgent) History(context.Context) (control.History, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.history, a.partly
}

// fakeOrders asks to confirm everything, in other words each time, and keeps what was.
type fakeOrders struct {
	given []string
	asked int
}

func (o *fakeOrders) Give(_ context.Context, order Order) (string, error) {
	id := fmt.Sprint(order.Action, " ", len(o.given))
	if order.Confirmed != id {
		o.asked++
		return "", &Unconfirmed{fmt.Sprintf("%s it, asked %d", order.Action, o.asked), id}
	}
	o.given = append(o.given, order.Action)
	return "done", nil
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func twoNodes() *fakeAgent {
	a := &fakeAgent{}
	a.status.Release = control.ReleaseStatus{Version: 2, State: control.StateRolling}
	for i := range 2 {
		a.status.Nodes = append(a.status.Nodes, control.NodeStatus{Name: fmt.Sprintf("n%d", i+1), ID: bundle.NodeID{byte(i + 1)}, Class: "kv", Version: 1, Phase: "waiting", Since: began, Reachable: true})
	}
	a.history = control.History{Node: "n1", ID: bundle.NodeID{1}, Phases: []control.HistoryPhase{{Phase: "current"}, {At: began, Phase: "waiting", Version: 1, Took: bundle.Duration(time.Second)}}}
	return a
}

// served is a server with a browser that has come by its address.
type served struct {
	*Server
	t       *testing.T
	base    string
	browser *http.Client
}

func serve(t *testing.T, cfg Config) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Release == nil {
		cfg.Release = func(context.Context) (any, error) { return map[string]int{"version": 2}, nil }
	}
	cfg.Every = time.Millisecond
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{Serve(l, cfg, slog.New(slog.DiscardHandler)), t, "http://" + l.Addr().String(), &http.Client{Jar: jar, Transport: &http.Transport{}}}
	t.Cleanup(func() {
		s.browser.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// open comes by the address.
func (s *served) open() *served {
	s.t.Helper()
	if status, body := s.ask(http.MethodGet, s.Address(), "", nil); status != http.StatusOK {
		s.t.Fatalf("%d %s", status, body)
	}
	return s
}

func (s *served) ask(method, url, body string, header map[string]string) (int, string) {
	s.t.Helper()
	resp := s.send(s.browser, method, url, body, header)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func (s *served) send(browser *http.Client, method, url, body string, header map[string]string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
		if k == "Host" {
			req.Host = v
		}
	}
	resp, err := browser.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// TestToken: without the cookie nothing is there, and the address makes one of it once.
func TestToken(t *testing.T) {
	s := serve(t, Config{Agent: twoNodes()})
	stranger := &http.Client{Transport: s.browser.Transport}
	for _, path := range []string{"/", "/app.js", "/api/events", "/api/why", "/api/release", "/api/timeline", "/nothing", "/?token=", "/?token=guess"} {
		resp := s.send(stranger, http.MethodGet, s.base+path, "", nil)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a cookie: %s", path, resp.Status)
		}
	}
	select {
	case <-s.Opened():
		t.Error("a guess has opened it")
	default:
	}
	stranger.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp := s.send(stranger, http.MethodGet, s.Address(), "", nil)
	resp.Body.Close()
	if c := resp.Header.Get("Set-Cookie"); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/" ||
		!regexp.MustCompile(`^moult_ui_[0-9]+=[\w-]{32}; Path=/; HttpOnly; SameSite=Strict$`).MatchString(c) {
		t.Errorf("%s, %q", resp.Status, c)
	}
	<-s.Opened()
	if status, _ := s.ask(http.MethodGet, s.Address(), "", nil); status != http.StatusUnauthorized {
		t.Errorf("the address is good twice: %d", status)
	}
	if status, _ := s.ask(http.MethodGet, s.base+"/", "", map[string]string{"Cookie": resp.Header.Get("Set-Cookie")}); status != http.StatusOK {
		t.Errorf("with the cookie: %d", status)
	}
	if status, _ := s.ask(http.MethodGet, s.base+"/", "", map[string]string{"Cookie": strings.Replace(resp.Header.Get("Set-Cookie"), "=", "=x", 1)}); status != http.StatusUnauthorized {
		t.Errorf("with another: %d", status)
	}
}

// TestOtherSites: other names, and pages of other sites, get nothing.
func TestOtherSites(t *testing.T) {
	orders := &fakeOrders{}
	s := serve(t, Config{Agent: twoNodes(), Orders: orders}).open()
	own := map[string]string{"Origin": s.base, "Content-Type": "application/json"}
	with := func(k, v string) map[string]string {
		m := map[string]string{k: v}
		for name, value := range own {
			if _, there := m[name]; !there {
				m[name] = value
			}
		}
		return m
	}
	host := strings.TrimPrefix(s.base, "http://")
	const order = `{"action": "pause", "confirmed": "pause 0"}`
	for _, c := range []struct {
		method, path string
		header       map[string]string
		want         int
	}{
		{"GET", "/", map[string]string{"Host": "evil.example"}, http.StatusForbidden},
		{"GET", "/", map[string]string{"Host": strings.Replace(host, "127.0.0.1", "localhost", 1)}, http.StatusForbidden},
		{"GET", "/", map[string]string{"Host": "127.0.0.1"}, http.StatusForbidden},
		{"GET", "/api/timeline", map[string]string{"Sec-Fetch-Site": "cross-site"}, http.StatusForbidden},
		{"GET", "/api/timeline", map[string]string{"Sec-Fetch-Site": "same-site"}, http.StatusForbidden},
		{"GET", "/api/timeline", map[string]string{"Origin": "http://127.0.0.1:1"}, http.StatusForbidden},
		{"GET", "/api/timeline", map[string]string{"Sec-Fetch-Site": "same-origin"}, http.StatusOK},
		{"GET", "/", map[string]string{"Sec-Fetch-Site": "none"}, http.StatusOK},
		{"POST", "/api/order", map[string]string{"Content-Type": "application/json"}, http.StatusForbidden},
		{"POST", "/api/order", with("Origin", "https://evil.example"), http.StatusForbidden},
		{"POST", "/api/order", with("Origin", "null"), http.StatusForbidden},
		{"POST", "/api/order", with("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		{"POST", "/api/order", with("Sec-Fetch-Site", "none"), http.StatusForbidden},
		{"POST", "/api/order", with("Content-Type", "text/plain"), http.StatusUnsupportedMediaType},
		{"POST", "/api/events", own, http.StatusMethodNotAllowed},
	} {
		if status, body := s.ask(c.method, s.base+c.path, order, c.header); status != c.want {
			t.Errorf("%s %s with %v: %d %s", c.method, c.path, c.header, status, body)
		}
	}
	if len(orders.given) > 0 {
		t.Errorf("orders were given: %q", orders.given)
	}
	if status, body := s.ask("POST", s.base+"/api/order", order, own); status != http.StatusOK || len(orders.given) != 1 {
		t.Errorf("the page's own: %d %s", status, body)
	}
}

// TestHeaders: whatever is answered, the browser loads nothing from elsewhere, and keeps
// nothing.
func TestHeaders(t *testing.T) {
	s := serve(t, Config{Agent: twoNodes()}).open()
	for _, path := range []string{"/", "/app.js", "/api/timeline", "/api/why?node=n9", "/nothing", "/api/order"} {
		resp := s.send(s.browser, http.MethodGet, s.base+path, "", nil)
		resp.Body.Close()
		for k, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
			"Access-Control-Allow-Origin": "",
		} {
			if got := resp.Header.Get(k); got != want {
				t.Errorf("%s: %s: %q, want %q", path, k, got, want)
			}
		}
	}
}

// TestPageIsSmall: all its files together, which keep to the policy: texts are set as texts, and
// nothing stands in the document itself.
func TestPageIsSmall(t *testing.T) {
	files, err := page.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, f := range files {
		data, err := page.ReadFile("page/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		sum += len(data)
		for _, bad := range notAllowed(string(data)) {
			t.Errorf("%s has %q", f.Name(), bad)
		}
	}
	t.Logf("%d bytes", sum)
	if sum > 150<<10 {
		t.Errorf("the page has %d bytes", sum)
	}
	for _, bad := range []string{"a.innerHTML = x", "<script>go()</script>", `<p style="x">`, `<p onclick="x">`, "fetch('https://example.org')", "eval('x')"} {
		if len(notAllowed(bad)) == 0 {
			t.Errorf("%s is not seen", bad)
		}
	}
}

func notAllowed(text string) []string {
	text = strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")
	return regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|<script>|\sstyle="|\son[a-z]+="|https?://`).FindAllString(text, -1)
}

// stream reads news.
type stream struct {
	t     *testing.T
	lines *bufio.Reader
	body  io.Closer
}

func (s *served) stream() *stream {
	s.t.Helper()
	resp := s.send(s.browser, http.MethodGet, s.base+"/api/events", "", nil)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("%s %s", resp.Status, resp.Header)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	return &stream{s.t, bufio.NewReader(resp.Body), resp.Body}
}

type told struct {
	Whole bool
	Rev   uint64
	Parts map[string]json.RawMessage
	Nodes []tile
}

func (s *stream) next() told {
	s.t.Helper()
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			s.t.Fatal(err)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var n told
			if err := json.Unmarshal([]byte(data), &n); err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
}

// until reads until something is told; nodes are those that were told on the way.
func (s *stream) until(good func(told) bool) (nodes []tile) {
	s.t.Helper()
	for {
		n := s.next()
		nodes = append(nodes, n.Nodes...)
		if good(n) {
			return nodes
		}
	}
}

func contactOf(t *testing.T, n told) (c contact) {
	t.Helper()
	if data, ok := n.Parts[partAgent]; ok {
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestEvents: first all, then what has changed and nothing else; a node that is forgotten has
// all told anew.
func TestEvents(t *testing.T) {
	a := twoNodes()
	s := serve(t, Config{Agent: a}).open()
	st := s.stream()
	first := st.next()
	for len(first.Nodes) == 0 {
		first = st.next()
	}
	if !first.Whole || len(first.Nodes) != 2 || !contactOf(t, first).Answers || first.Parts[partHead] == nil {
		t.Fatalf("at first: %+v", first)
	}
	if first.Parts[partHistory] == nil {
		st.until(func(n told) bool { return n.Parts[partHistory] != nil })
	}
	a.change(func(a *fakeAgent) {
		a.status.Nodes[1].Phase, a.status.Nodes[1].Since = "draining", began.Add(time.Second)
	})
	for _, n := range st.until(func(n told) bool { return len(n.Nodes) > 0 }) {
		if want := []span{{"waiting", 1, began.UnixMilli()}, {"draining", 1, began.Add(time.Second).UnixMilli()}}; n.Name != "n2" || n.Phase != "draining" || fmt.Sprint(n.Past) != fmt.Sprint(want) {
			t.Errorf("%+v", n)
		}
	}
	a.change(func(a *fakeAgent) { a.status.Alarms = []string{"look"} })
	n := st.next()
	if n.Whole || len(n.Nodes) > 0 || !strings.Contains(string(n.Parts[partHead]), "look") || len(n.Parts) != 1 {
		t.Errorf("%+v", n)
	}
	a.change(func(a *fakeAgent) { a.status.Nodes = a.status.Nodes[:1] })
	if n := st.next(); !n.Whole || len(n.Nodes) != 1 {
		t.Errorf("%+v", n)
	}
}

// TestAgentGoneAndBack: what is known stays, and the page is told that the agent does not
// answer, and that it does again; its journal is then asked for anew.
func TestAgentGoneAndBack(t *testing.T) {
	a := twoNodes()
	s := serve(t, Config{Agent: a}).open()
	st := s.stream()
	st.until(func(n told) bool { return contactOf(t, n).Answers })
	a.change(func(a *fakeAgent) {
		a.down = &control.Error{Kind: control.KindFailed, Message: "no agent answers", Hint: "start one"}
	})
	var gone contact
	if nodes := st.until(func(n told) bool { gone = contactOf(t, n); return gone.Error != "" }); len(nodes) > 0 {
		t.Errorf("nodes: %+v", nodes)
	}
	if gone.Answers || gone.Error != "no agent answers" || gone.Hint != "start one" || gone.Since.IsZero() {
		t.Errorf("%+v", gone)
	}
	late := s.stream().next()
	if !late.Whole || len(late.Nodes) != 2 || contactOf(t, late).Answers {
		t.Errorf("who comes meanwhile: %+v", late)
	}
	a.change(func(a *fakeAgent) {
		a.down = nil
		a.history.Phases = append(a.history.Phases, control.HistoryPhase{At: began, Phase: "settled"})
	})
	back := false
	st.until(func(n told) bool {
		back = back || contactOf(t, n).Answers
		return back && strings.Contains(string(n.Parts[partHistory]), "settled")
	})
}

// TestAgentAnswersPartly: what the agent does not tell beside its status takes nothing away from
// that, and is asked for again.
func TestAgentAnswersPartly(t *testing.T) {
	a := twoNodes()
	a.partly = errors.New("no journal")
	st := serve(t, Config{Agent: a}).open().stream()
	nodes := st.until(func(n told) bool { c := contactOf(t, n); return c.Answers && strings.Contains(c.Error, "no journal") })
	if len(nodes) != 2 {
		t.Errorf("nodes: %+v", nodes)
	}
	a.change(func(a *fakeAgent) { a.status.Alarms = []string{"look"} })
	st.until(func(n told) bool { return strings.Contains(string(n.Parts[partHead]), "look") })
	a.change(func(a *fakeAgent) { a.partly = nil })
	var history bool
	st.until(func(n told) bool {
		history = history || strings.Contains(string(n.Parts[partHistory]), "waiting")
		c := contactOf(t, n)
		return history && c.Answers && c.Error == "" && c.Name == "n1"
	})
}

// TestStreamsAreBounded: one too many is refused, and a place that is left is free again.
func TestStreamsAreBounded(t *testing.T) {
	s := serve(t, Config{Agent: twoNodes()}).open()
	streams := []*stream{}
	for range maxStreams {
		st := s.stream()
		st.next()
		streams = append(streams, st)
	}
	if status, body := s.ask(http.MethodGet, s.base+"/api/events", "", nil); status != http.StatusServiceUnavailable || !strings.Contains(body, "close one") {
		t.Errorf("%d %s", status, body)
	}
	streams[0].body.Close()
	s.places <- struct{}{} // waits until it is free
	<-s.places
	s.stream().next()
}

// TestSlowReader: who does not read has nothing kept for it, and is then told what is so now.
func TestSlowReader(t *testing.T) {
	f := newFeed(twoNodes(), time.Hour, false)
	f.look(t.Context())
	n, _ := f.since(0)
	for i := range 1000 {
		f.agent.(*fakeAgent).change(func(a *fakeAgent) { a.status.Nodes[0].Progress = float64(i) })
		f.look(t.Context())
	}
	n, changed := f.since(n.Rev)
	if n.Whole || len(n.Nodes) != 1 || !strings.Contains(string(n.Nodes[0]), `"progress":999`) {
		t.Errorf("%+v", n)
	}
	select {
	case <-changed:
		t.Error("there is more, and nothing has happened")
	default:
	}
}

func TestSeen(t *testing.T) {
	at := func(phase string, s int) control.NodeStatus {
		return control.NodeStatus{Phase: phase, Since: began.Add(time.Duration(s) * time.Second)}
	}
	var spans []span
	for _, n := range []control.NodeStatus{at("waiting", 0), at("waiting", 0), at("draining", 5), at("held", 3), at("held", 9), {Phase: "held"}, {Phase: "settled"}} {
		spans = seen(spans, n, began.Add(time.Minute))
	}
	var got []string
	for _, s := range spans {
		got = append(got, fmt.Sprint(s.Phase, (s.From-began.UnixMilli())/1000))
	}
	if want := "waiting0 draining5 held5 held9 settled60"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", strings.Join(got, " "), want)
	}
	for i := range 3 * maxSpans {
		spans = seen(spans, at("waiting", 100+i), began)
	}
	if len(spans) != maxSpans || spans[maxSpans-1].From != began.Add((99+3*maxSpans)*time.Second).UnixMilli() {
		t.Errorf("%d spans, the last %+v", len(spans), spans[maxSpans-1])
	}
}

// TestTimeline: the own node is by its journal, the others as they were seen.
func TestTimeline(t *testing.T) {
	s := serve(t, Config{Agent: twoNodes()}).open()
	s.stream().until(func(n told) bool { return len(n.Parts[partHistory]) > len("null") })
	status, body := s.ask(http.MethodGet, s.base+"/api/timeline", "", nil)
	var got Timeline
	if err := json.Unmarshal([]byte(body), &got); status != http.StatusOK || err != nil || len(got.Nodes) != 2 {
		t.Fatalf("%d, %v: %s", status, err, body)
	}
	own, other := got.Nodes[0], got.Nodes[1]
	if own.Source != "journal" || len(own.Phases) != 1 || own.Phases[0] != (TimelinePhase{At: began, Phase: "waiting", Version: 1, Took: bundle.Duration(time.Second)}) {
		t.Errorf("%+v", own)
	}
	if other.Source != "seen" || len(other.Phases) != 1 || other.Phases[0] != (TimelinePhase{At: began, Phase: "waiting", Version: 1}) {
		t.Errorf("%+v", other)
	}
}

// TestOrders: an order is given when what it means was confirmed, in whatever words, and once.
func TestOrders(t *testing.T) {
	orders := &fakeOrders{}
	s := serve(t, Config{Agent: twoNodes(), Orders: orders}).open()
	own := map[string]string{"Origin": s.base, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{`{"action": "pause"}`, http.StatusOK, `{"confirm":"pause it, asked 1","identity":"pause 0"}`},
		{`{"action": "pause", "confirmed": "resume 0"}`, http.StatusOK, `{"confirm":"pause it, asked 2","identity":"pause 0"}`},
		{`{`, http.StatusBadRequest, "read the order"},
		{`{"action": "` + strings.Repeat("x", maxRequest) + `"}`, http.StatusBadRequest, "too large"},
		{`{"action": "pause", "node": "n1"}`, http.StatusBadRequest, "read the order"},
	} {
		if status, body := s.ask(http.MethodPost, s.base+"/api/order", c.body, own); status != c.status || !strings.Contains(body, c.says) || len(orders.given) > 0 {
			t.Errorf("%.60s: %d %s", c.body, status, body)
		}
	}
	for _, says := range []string{`"done":"done"`, `"identity":"pause 1"`} {
		if status, body := s.ask(http.MethodPost, s.base+"/api/order", `{"action": "pause", "confirmed": "pause 0"}`, own); status != http.StatusOK || !strings.Contains(body, says) || len(orders.given) != 1 {
			t.Errorf("want %s: %d %s", says, status, body)
		}
	}
	s = serve(t, Config{Agent: twoNodes()}).open()
	own["Origin"] = s.base
	if status, body := s.ask(http.MethodPost, s.base+"/api/order", `{"action": "pause"}`, own); status != http.StatusConflict || !strings.Contains(body, "gives no orders") {
		t.Errorf("without: %d %s", status, body)
	}
}

// TestMeaning: what is to be confirmed says what would become of the nodes.
func TestMeaning(t *testing.T) {
	s := twoNodes().status
	running := &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{
		"kv": {Strategy: bundle.StrategyRolling, MaxUnavailable: 1, Roster: []bundle.NodeID{{1}, {2}}},
		"lb": {Strategy: bundle.StrategyAtOnce},
	}}
	back, aborted := *running, *running
	back.Turn = 1
	aborted.State = schedule.StateAborted
	s.Nodes = append(s.Nodes, control.NodeStatus{Name: "n3", ID: bundle.NodeID{3}, Class: "lb"}, control.NodeStatus{Name: "n3", ID: bundle.NodeID{4}, Class: "lb"})
	for _, c := range []struct {
		order  Order
		before *schedule.Order
		want   string
	}{
		{Order{Action: "pause"}, running, "pause the rollout of release 2: no further node goes down, and those that are down go on to the end; 0 of 2 nodes are through"},
		{Order{Action: "resume"}, &back, "resume the way back from release 2: nodes go down again, at most 1 of class kv at once, any number of class lb at once; "},
		{Order{Action: "abort"}, running, "abort the rollout of release 2 for good: 0 of 2 nodes have it and keep it, and no other gets it"},
		{Order{Action: "skip", Node: bundle.NodeID{2}}, running, "skip n2: you give your word that it is gone, and the rollout of release 2 goes on without it; it is there, and stays at the version that it has; a retry gives it a place again"},
		{Order{Action: "skip", Node: bundle.NodeID{2}}, &aborted, "skip n2: you give your word that it is gone, and the rollouts of later releases go on without it; it is there, and stays at the version that it has until a newer release"},
		{Order{Action: "skip", Node: bundle.NodeID{3}}, running, "skip n3 (" + bundle.NodeID{3}.Short() + "): you give your word"},
		{Order{Action: "retry", Node: bundle.NodeID{2}}, running, "retry n2: it gets another place in the rollout of release 2"},
	} {
		if got, err := meaning(c.order, c.before, s); err != nil || !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: %q, %v; want %q", c.order, got, err, c.want)
		}
		if _, err := changeFor(c.order, s); err != nil {
			t.Errorf("%+v: %v", c.order, err)
		}
	}
	s.Nodes[1].Standing = string(schedule.StandingStranger)
	for _, o := range []Order{{Action: "finalize"}, {Action: "skip", Node: bundle.NodeID{9}}, {Action: "retry"}, {Action: "retry", Node: bundle.NodeID{2}}} {
		if _, err := changeFor(o, s); err == nil {
			t.Errorf("%+v is let through", o)
		}
	}
}

// TestIdentity: what was confirmed is still that while nodes go on, and no other order, nor the
// same one again.
func TestIdentity(t *testing.T) {
	s := twoNodes().status
	o, order := Order{Action: "skip", Node: bundle.NodeID{2}}, schedule.Order{Release: 2, Serial: 5, State: schedule.StateAborted}
	first := identity(o, &order, s)
	s.Nodes[0].Phase, s.Nodes[0].Version = "settled", 2
	if again := identity(o, &order, s); again != first {
		t.Errorf("%q, then %q", first, again)
	}
	for what, change := range map[string]func(o *Order, order *schedule.Order, s *control.Status){
		"another action":   func(o *Order, _ *schedule.Order, _ *control.Status) { o.Action = "retry" },
		"another node":     func(o *Order, _ *schedule.Order, _ *control.Status) { o.Node = bundle.NodeID{1} },
		"another release":  func(_ *Order, order *schedule.Order, _ *control.Status) { order.Release = 3 },
		"the next order":   func(_ *Order, order *schedule.Order, _ *control.Status) { order.Serial++ },
		"the other way":    func(_ *Order, order *schedule.Order, _ *control.Status) { order.Turn++ },
		"a joined order":   func(_ *Order, order *schedule.Order, _ *control.Status) { order.Joined = &schedule.Joined{Open: true} },
		"a node that left": func(_ *Order, _ *schedule.Order, s *control.Status) { s.Nodes[1].Reachable = false },
	} {
		o, order, s := o, order, twoNodes().status
		change(&o, &order, &s)
		if other := identity(o, &order, s); other == first {
			t.Errorf("%s is %q, too", what, other)
		}
	}
}

func TestAnswers(t *testing.T) {
	broken := false
	s := serve(t, Config{Agent: twoNodes(), Release: func(context.Context) (any, error) {
		if broken {
			return nil, errors.New("no disk")
		}
		return map[string]int{"version": 2}, nil
	}}).open()
	check := func(path string, want int, says string) {
		t.Helper()
		if status, body := s.ask(http.MethodGet, s.base+path, "", nil); status != want || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	check("/api/why?node="+(bundle.NodeID{1}).String(), http.StatusOK, `"reason":"it waits for \u003cb\u003en2`)
	check("/api/why?node=n9", http.StatusBadRequest, "see `moult status`")
	check("/api/release", http.StatusOK, `"version":2`)
	broken = true
	check("/api/release", http.StatusBadGateway, "no disk")
}

// TestPort80: browsers do not name it.
func TestPort80(t *testing.T) {
	for address, host := range map[string]string{"127.0.0.1:80": "127.0.0.1", "[::1]:80": "[::1]", "127.0.0.1:8080": "127.0.0.1:8080"} {
		g := newGuard(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)), nil)
		r := httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil)
		r.Header.Set("Origin", "http://"+host)
		if status, why := g.refuses(r); why != "" {
			t.Errorf("%s by %s: %d %s", address, host, status, why)
		}
	}
}

// TestEnded: a page that is served no more says why, and one that was closed does not.
func TestEnded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, Config{Agent: twoNodes()}, slog.New(slog.DiscardHandler))
	l.Close()
	if err := <-s.Ended(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	closed := serve(t, Config{Agent: twoNodes()})
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-closed.Ended():
		t.Error(err)
	default:
	}
}

func TestCheckAddress(t *testing.T) {
	for address, good := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:80": true, "127.8.9.1:1": true, "0.0.0.0:1": false, ":1": false, "192.0.2.1:1": false, "localhost:1": false, "[::]:1": false, "127.0.0.1": false,
	} {
		if err := CheckAddress(address); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}

//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// pocketbase keeps records in SQLite, and tells them as they change to whoever holds an
// event stream open, which never ends by itself. Its schema is in a migration, as its
// users write them.
var pocketbase = realProgram{
	name: "pocketbase", module: "github.com/pocketbase/pocketbase", pkg: "/examples/base", // what its authors release
	releases: [2]string{"v0.36.5", "v0.36.8"},
	files:    map[string]string{"pb_migrations/1_proof.js": pbMigration},
	services: []realService{{"web", "http"}},
	command:  `"serve", "--http=${service.web}", "--dir=${state}/data", "--migrationsDir=pb_migrations"`,
	health:   `http = "/api/health"`,
}

// Without a superuser it would open a browser to ask for one.
const pbMigration = `migrate((app) => {
  const user = new Record(app.findCollectionByNameOrId("_superusers"))
  user.set("email", "proof@example.com")
  user.set("password", "1234567890")
  app.save(user)
  app.save(new Collection({
    name: "proof", type: "base", listRule: "", viewRule: "", createRule: "", updateRule: "", deleteRule: "",
    fields: [{name: "text", type: "text", max: 100000}],
  }))
})
`

// TestRealPocketBase upgrades two PocketBases while clients write and read records and
// hold event streams open: no call fails, no record that was acknowledged is lost, and
// streams end in order: by steer the software ends them, with the last chunk; by relay
// the layer does, and without one.
func TestRealPocketBase(t *testing.T) {
	pocketbase.eachReal(t, func(t *testing.T, r *realCluster) {
		l := newPBLoad()
		r.upgrade(l)
		for i := range realNodes {
			l.read(fmt.Sprint(i+1), r.public(i, 0))
		}
		t.Logf("%d records; of %d streams %d ended, %d of them without a last chunk", len(l.texts), l.opened, l.ended, l.cut)
		r.well()
	})
}

func (l *pbLoad) start(r *realCluster) {
	l.relayed = r.attach == "relay"
	for i := range realNodes {
		l.listen(r.public(i, 0))
		for j, lasting := range []bool{false, true} {
			l.write(fmt.Sprintf("%dw%d", i+1, j), lasting, r.public(i, 0))
		}
	}
}

const (
	pbPace    = 60 * time.Millisecond // of one writer's rounds
	pbTry     = time.Minute           // for one call
	pbRecords = "/api/collections/proof/records"
	pbPage    = 500
	pbEvents  = "events of "
)

// pbRecord is a record, and what a list of them has.
type pbRecord struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// pbLoad is clients that write, read and listen, and what they found.
type pbLoad struct {
	*realLoad
	clients map[bool]*http.Client // by whether they keep connections
	relayed bool                  // a stream may end without a last chunk

	texts  map[string]string // mu; of acknowledged records, by ID
	tried  map[string]bool   // mu; every ID and text that was sent
	opened int               // mu; streams
	ended  int               // mu; of them, by the server
	cut    int               // mu; of them, without a last chunk
}

func newPBLoad() *pbLoad {
	return &pbLoad{
		realLoad: newRealLoad(), clients: map[bool]*http.Client{false: realClient(false), true: realClient(true)},
		texts: map[string]string{}, tried: map[string]bool{},
	}
}

// pbStatus is a status that a call was not to have.
type pbStatus struct {
	code int
	text string
}

func (e pbStatus) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.text) }

// call makes a call, by a connection of its own or one that lasts, and reads its answer
// into out.
func (l *pbLoad) call(lasting bool, method, addr, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), pbTry)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if lasting {
		req.Header["Idempotency-Key"] = nil // as realClient says
	}
	began := time.Now()
	defer func() { l.did(addr, time.Since(began)) }()
	resp, err := l.clients[lasting].Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 != 2:
		return pbStatus{resp.StatusCode, string(data)}
	case out == nil:
		return nil
	}
	return json.Unmarshal(data, out)
}

// write starts a client that creates, changes and reads one record after the other.
func (l *pbLoad) write(name string, lasting bool, addr string) {
	l.goesOn(addr)
	l.wg.Go(func() {
		l.each(pbPace, func(i int) bool {
			l.round(lasting, addr, fmt.Sprintf("%s%0*d", name, 15-len(name), i), i)
			return true
		})
	})
}

func (l *pbLoad) round(lasting bool, addr, id string, i int) {
	text := fmt.Sprintf("%s \"é✓\" <&>\r\n%s", id, strings.Repeat("x", i*37%512))
	if !l.put(lasting, http.MethodPost, addr, pbRecords, id, text) {
		return
	}
	if i%2 == 1 {
		text += " changed"
		if !l.put(lasting, http.MethodPatch, addr, pbRecords+"/"+id, id, text) {
			return
		}
	}
	var got pbRecord
	if err := l.call(lasting, http.MethodGet, addr, pbRecords+"/"+id, nil, &got); err != nil {
		l.fail("read %s: %v", id, err)
	} else if got.Text != text {
		l.fail("read %s: it is %q, want %q", id, got.Text, text)
	}
}

// put writes a record and notes what was acknowledged.
func (l *pbLoad) put(lasting bool, method, addr, path, id, text string) bool {
	l.mu.Lock()
	l.tried[id+"\x00"+text] = true
	l.mu.Unlock()
	var got pbRecord
	if err := l.call(lasting, method, addr, path, pbRecord{id, text}, &got); err != nil {
		l.fail("%s %s: %v", method, id, err)
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts[id] = got.Text
	return true
}

// listen starts a client that holds an event stream open, and opens it anew when the
// server has ended it.
func (l *pbLoad) listen(addr string) {
	l.goesOn(pbEvents + addr)
	l.wg.Go(func() {
		for l.ctx.Err() == nil {
			if err := l.stream(addr); l.ctx.Err() != nil || !l.streamEnded(err) {
				return
			}
		}
	})
}

// pbMost is how many streams may end: at each node the one that is open when it goes
// down, and one that is opened while the old software still takes any.
const pbMost = 2 * realNodes

// streamEnded notes the end of a stream and reports whether another may be opened.
func (l *pbLoad) streamEnded(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended++
	switch {
	case l.ended > pbMost:
		l.failed = append(l.failed, fmt.Sprintf("%d streams ended, of which the upgrade explains %d", l.ended, pbMost))
	case err == io.EOF:
		return true
	case err == io.ErrUnexpectedEOF && l.relayed:
		l.cut++
		return true
	default:
		l.failed = append(l.failed, fmt.Sprintf("a stream did not end as its software ends it: %v", err))
	}
	return false
}

// stream opens a stream and reads it to its end.
func (l *pbLoad) stream(addr string) error {
	req, err := http.NewRequestWithContext(l.ctx, http.MethodGet, "http://"+addr+"/api/realtime", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("open a stream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("open a stream: status %d", resp.StatusCode)
	}
	l.mu.Lock()
	l.opened++
	l.mu.Unlock()
	lines := bufio.NewReader(resp.Body)
	event := ""
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "event":
			event = value
		case name == "data" && event == "PB_CONNECT":
			if err := l.subscribe(addr, value); err != nil {
				return err
			}
		case name == "data":
			l.heard(addr, value)
		}
	}
}

// subscribe says what a stream is to tell. The server that opened it may have gone
// down since: then the one that came after knows nothing of it, and the stream has ended.
func (l *pbLoad) subscribe(addr, data string) error {
	var connect struct {
		ClientID string `json:"clientId"`
	}
	if err := json.Unmarshal([]byte(data), &connect); err != nil {
		return fmt.Errorf("a stream began with %q: %v", data, err)
	}
	err := l.call(false, http.MethodPost, addr, "/api/realtime", map[string]any{"clientId": connect.ClientID, "subscriptions": []string{"proof/*"}}, nil)
	if status, ok := errors.AsType[pbStatus](err); ok && status.code == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

func (l *pbLoad) heard(addr, data string) {
	var event struct {
		Action string   `json:"action"`
		Record pbRecord `json:"record"`
	}
	if err := json.Unmarshal([]byte(data), &event); err != nil {
		l.fail("an event is %q: %v", data, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.tried[event.Record.ID+"\x00"+event.Record.Text] {
		l.failed = append(l.failed, fmt.Sprintf("an event tells of record %s with %q, which nobody wrote", event.Record.ID, event.Record.Text))
	}
	l.done[pbEvents+addr]++
}

// read compares what was acknowledged at a node, which is what has the prefix in its ID,
// with what it has.
func (l *pbLoad) read(prefix, addr string) {
	has := map[string]string{}
	for page := 1; ; page++ {
		var list struct {
			Items []pbRecord `json:"items"`
		}
		if err := l.call(false, http.MethodGet, addr, fmt.Sprintf("%s?sort=id&perPage=%d&page=%d", pbRecords, pbPage, page), nil, &list); err != nil {
			l.fail("list: %v", err)
			return
		}
		for _, record := range list.Items {
			has[record.ID] = record.Text
		}
		if len(list.Items) < pbPage {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, text := range l.texts {
		if got, ok := has[id]; strings.HasPrefix(id, prefix) && got != text {
			l.failed = append(l.failed, fmt.Sprintf("record %s was acknowledged for %q and is %q (there: %v)", id, text, got, ok))
		}
	}
}

// TestRealPocketBaseCatches runs its load against a server that errs.
func TestRealPocketBaseCatches(t *testing.T) {
	for fault, want := range map[string]string{
		"":        "",
		"refused": "status 503",
		"closed":  "EOF",
		"altered": "read 1w1",
		"lost":    "was acknowledged for",
		"cut":     "a stream did not end as its software ends it: unexpected EOF",
		"event":   "which nobody wrote",
		"turned":  "open a stream: status 503",
		"again":   "streams ended, of which the upgrade explains",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			base := &fakeBase{fault: fault, records: map[string]string{}}
			server := httptest.NewServer(base)
			defer server.Close()
			addr := server.Listener.Addr().String()
			l := newPBLoad()
			l.tried["a\x00b"] = true // of which the server tells
			for i, lasting := range []bool{false, true} {
				l.round(lasting, addr, fmt.Sprintf("1w%d000000000001", i), 1)
			}
			l.read("1", addr)
			for l.streamEnded(l.stream(addr)) && fault == "again" {
			}
			got := strings.Join(l.wrong(), "\n")
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

// fakeBase answers as PocketBase does, but for one fault.
type fakeBase struct {
	fault   string
	mu      sync.Mutex
	records map[string]string // mu
}

func (b *fakeBase) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var in pbRecord
	_ = json.NewDecoder(r.Body).Decode(&in)
	_, id, _ := strings.Cut(r.URL.Path, pbRecords+"/")
	stream := r.URL.Path == "/api/realtime" && r.Method == http.MethodGet
	switch {
	case b.fault == "refused" && r.Method == http.MethodPost, b.fault == "turned" && stream:
		w.WriteHeader(http.StatusServiceUnavailable)
	case b.fault == "closed" && r.Method == http.MethodPatch:
		panic(http.ErrAbortHandler)
	case stream:
		text := map[bool]string{true: "c", false: "b"}[b.fault == "event"]
		fmt.Fprintf(w, "id:1\nevent:PB_CONNECT\ndata:{\"clientId\":\"1\"}\n\nid:1\nevent:proof/*\ndata:{\"action\":\"create\",\"record\":{\"id\":\"a\",\"text\":%q}}\n\n", text)
		if b.fault == "cut" {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	case r.URL.Path == "/api/realtime":
		w.WriteHeader(http.StatusNotFound) // as where it was opened at another
	case r.Method == http.MethodGet && id != "":
		_ = json.NewEncoder(w).Encode(pbRecord{id, b.records[id] + map[bool]string{true: "!"}[b.fault == "altered"]})
	case r.Method == http.MethodGet:
		items := []pbRecord{}
		for id, text := range b.records {
			if b.fault != "lost" {
				items = append(items, pbRecord{id, text})
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"items": items})
	default:
		b.records[in.ID] = in.Text
		_ = json.NewEncoder(w).Encode(in)
	}
}

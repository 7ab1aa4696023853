package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/testdata/kit"
)

var scriptVariable = regexp.MustCompile(`\$[A-Z][A-Z0-9_]*`)

// expand leaves ${…} alone, which is HCL's.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := scriptVariable.ReplaceAllStringFunc(ts.ReadFile(name), func(v string) string { return ts.Getenv(v[1:]) })
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// agents is the key of a script's running agents, by name.
type agents struct{}

// startAgent starts an agent as the demo does.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] agent NAME")
	}
	name, running := args[0], ts.Value(agents{}).(map[string]*cluster.Agent)
	if neg {
		select {
		case <-running[name].Ended:
		case <-time.After(kit.Patience):
			ts.Fatalf("agent %s goes on", name)
		}
		return
	}
	exe, err := os.Executable()
	ts.Check(err)
	a := &cluster.Agent{Name: name, Data: ts.MkAbs(name)}
	ts.Check(a.Start(exe))
	running[name] = a
	ts.Defer(func() {
		if running[name] != a {
			return // started again since
		}
		if err := (&cluster.Cluster{Agents: []*cluster.Agent{a}}).Stop(); err != nil {
			ts.Logf("stop agent %s: %v", name, err)
		}
	})
	scriptAwait(ts, a, "an answer", func(control.Status) bool { return true })
}

// scriptAwait waits until an agent sees what good asks for.
func scriptAwait(ts *testscript.TestScript, a *cluster.Agent, what string, good func(control.Status) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if s, err := a.Await(ctx, what, good); err != nil {
		var text strings.Builder
		ts.Check(statusPrinter{w: &text, json: true}.print(s))
		ts.Fatalf("%v; last: %s", err, text.String())
	}
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await AGENT REGEXP")
	}
	want, err := regexp.Compile("(?s)" + args[1])
	ts.Check(err)
	scriptAwait(ts, ts.Value(agents{}).(map[string]*cluster.Agent)[args[0]], args[1], func(s control.Status) bool {
		var text strings.Builder
		ts.Check(statusPrinter{w: &text, json: true}.print(s))
		ts.Check(statusPrinter{w: &text}.print(s))
		return want.MatchString(text.String())
	})
}

func record(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: record AGENT FILE")
	}
	api := control.NewClient(ts.MkAbs(args[0]))
	defer api.Close()
	text, err := lasting(context.Background(), api)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// lasting is all that a refused command must leave as it is: what the agent
// says of the cluster, the signed metadata that it holds, and the documents
// that it has of them.
func lasting(ctx context.Context, api *control.Client) (string, error) {
	s, err := api.Status(ctx, false)
	if err != nil {
		return "", err
	}
	s.Local = control.Local{} // it counts calls
	var text strings.Builder
	if err := (statusPrinter{w: &text, json: true}).print(s); err != nil {
		return "", err
	}
	held, err := api.Trust(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&text, "metadata %s\n", held.Set)
	for _, n := range slices.Sorted(maps.Keys(held.Orders)) {
		fmt.Fprintf(&text, "order of release %d: %s\n", n, held.Orders[n])
	}
	return text.String(), nil
}

func fetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: fetch URL FILE REGEXP")
	}
	want, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	var body []byte
	deadline := time.Now().Add(kit.Patience)
	for ; !want.Match(body); body = fetchOnce(ts, args[0]) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s never matched %s; last: %s", args[0], want, body)
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

func fetchOnce(ts *testscript.TestScript, url string) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s: %s", url, resp.Status, body)
	}
	return body
}

// listeners is the key of a script's open listeners, by port.
type listeners struct{}

func listen(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] listen PORT")
	}
	open := ts.Value(listeners{}).(map[string]net.Listener)
	if neg {
		ts.Check(open[args[0]].Close())
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	open[args[0]] = l
	ts.Defer(func() { _ = l.Close() }) // again, if the script has freed the port
}

package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
)

// A wait that is interrupted does not say that the time was up.
func TestWaitInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := followRelease(ctx, control.NewClient(t.TempDir()), operator.Goal{Release: 1}, time.Hour, nil)
	if code, hint := classify(err); code != exitFailed || !strings.Contains(err.Error(), "interrupted") || hint == "" {
		t.Errorf("%v, exit %d", err, code)
	}
}

// Where nothing can be redrawn, a status that is watched is written again only when there is
// news: neither that time has passed, nor that calls were counted. Why there is none is said
// once, and then all of it again.
func TestStatusWatchedInPlainLines(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	asked := 0
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++ // one question comes after the other
		n := control.NodeStatus{Name: "n1", Version: 1, Phase: "waiting", Since: time.Now().Add(-time.Duration(asked) * time.Minute)}
		s := control.Status{Nodes: []control.NodeStatus{n}, Local: control.Local{Name: "n1", Objects: []control.ObjectStatus{{Counted: control.CallCount{Calls: int64(asked)}}}}}
		switch {
		case asked == 3, asked == 4:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case asked == 6:
			s.Nodes[0].Phase = "draining"
		case asked > 6:
			stop()
		}
		_ = json.NewEncoder(w).Encode(s) // nobody listens any more
	}))
	defer agent.Close()
	api := control.NewClient(agent.URL)
	defer api.Close()
	var out, talk strings.Builder
	if err := (statusPrinter{w: &out, talk: &talk}).watch(ctx, api, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); asked < 7 || strings.Count(text, "NODE") != 3 || strings.Count(text, "waiting, 1m00s") != 1 || strings.Count(text, "waiting, 5m00s") != 1 || strings.Count(text, "draining, 6m00s") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("asked %d times\n%s", asked, text)
	}
	if text := talk.String(); strings.Count(text, "moult: ") != 1 {
		t.Errorf("of two questions without an answer it said\n%s", text)
	}
}

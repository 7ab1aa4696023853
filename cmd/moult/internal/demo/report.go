package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/store/bundle"
	"moult/testdata/kv/kvload"
)

// Report has the demo's figures: `moult demo -o json`.
type Report struct {
	Nodes   int            `json:"nodes"`
	Version bundle.Version `json:"version"`
	// Settled counts the nodes at Version at the end.
	Settled int `json:"settled"`
	// Seconds is the time from injection until all had settled.
	Seconds float64 `json:"seconds"`
	// Calls counts by the version of the caller.
	Calls map[string]demoCalls `json:"calls"`
	// MaxDown is the most nodes voluntarily down at one instant.
	MaxDown int `json:"max_down"`
	Budget  int `json:"budget"`
	Objects int `json:"objects_transformed"`
	// Bytes of both releases that agents fetched from others.
	BytesFromInjector int64 `json:"bytes_from_injector"`
	BytesFromPeers    int64 `json:"bytes_from_peers"`
	LongestHoldMS     int64 `json:"longest_hold_ms"`
	// Errors quotes some of the failed calls.
	Errors []string `json:"errors"`
}

type demoCalls struct {
	OK     int64 `json:"ok"`
	Failed int64 `json:"failed"`
	Denied int64 `json:"denied"`
	// SlowestMS is the longest call, in milliseconds.
	SlowestMS int64 `json:"slowest_ms"`
	// Reasons counts denied calls by the reason that their author gave.
	Reasons map[string]int64 `json:"reasons,omitempty"`
}

func newReport(n int, seconds float64, s control.Status) *Report {
	kv := s.Classes["kv"] // by version: the last node to settle may still be in that phase
	return &Report{
		Nodes: n, Version: s.Release.Version, Settled: kv.Settled, Seconds: seconds,
		Calls: map[string]demoCalls{}, Budget: kv.Budget, Errors: []string{},
	}
}

func (r *Report) addLoad(l *kvload.Result) {
	r.Calls[fmt.Sprint(l.Version)] = demoCalls{
		OK: l.OK, Failed: l.Failed, Denied: l.Denied, SlowestMS: l.MaxLatency.Milliseconds(), Reasons: l.Reasons,
	}
	r.Errors = append(r.Errors, l.Errors...)
}

// Verdict is nil if all that the demo is to show has held.
func (r *Report) Verdict() error {
	var bad []string
	for _, v := range slices.Sorted(maps.Keys(r.Calls)) {
		if c := r.Calls[v]; c.Failed > 0 {
			bad = append(bad, fmt.Sprintf("%d calls of version %s failed", c.Failed, v))
		} else if c.OK == 0 {
			bad = append(bad, fmt.Sprintf("no call of version %s was made", v))
		}
	}
	if r.MaxDown > r.Budget {
		bad = append(bad, fmt.Sprintf("%d nodes were down at once, with a budget of %d", r.MaxDown, r.Budget))
	}
	if r.MaxDown == 0 {
		bad = append(bad, "no node was seen to go down")
	}
	if r.Settled < r.Nodes {
		bad = append(bad, fmt.Sprintf("%d of %d nodes settled", r.Settled, r.Nodes))
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("the demo did not hold: %s", strings.Join(bad, "; "))
}

// Print writes the figures for people.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nall %d nodes settled at version %d, %.1f s after the injection\n", r.Settled, r.Version, r.Seconds)
	for _, v := range slices.Sorted(maps.Keys(r.Calls)) {
		c := r.Calls[v]
		fmt.Fprintf(&b, "calls of version %s      %d ok, %d failed, %d denied; the slowest took %d ms\n", v, c.OK, c.Failed, c.Denied, c.SlowestMS)
		for _, reason := range slices.Sorted(maps.Keys(c.Reasons)) {
			fmt.Fprintf(&b, "  denied %d times: %s\n", c.Reasons[reason], reason)
		}
	}
	fmt.Fprintf(&b, "longest held call       %d ms\n", r.LongestHoldMS)
	fmt.Fprintf(&b, "most nodes down at once %d (budget %d)\n", r.MaxDown, r.Budget)
	fmt.Fprintf(&b, "objects transformed     %d\n", r.Objects)
	fmt.Fprintf(&b, "bytes fetched           %s from the injector, %s from other peers\n", size(r.BytesFromInjector), size(r.BytesFromPeers))
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "failed call: %s\n", e)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func size(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

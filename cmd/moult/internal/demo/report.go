package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

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
	// Took is the time from injection until all had settled.
	Took bundle.Duration `json:"took"`
	// Turns are how long it took to take it back, and to go forward again, where that was to be.
	Turns []bundle.Duration `json:"turns,omitempty"`
	// Calls counts by the version of the caller.
	Calls map[string]Calls `json:"calls"`
	// MaxDown is the most nodes voluntarily down at one instant.
	MaxDown int `json:"max_down"`
	Budget  int `json:"budget"`
	Objects int `json:"objects_transformed"`
	// Bytes of both releases that agents fetched from others.
	BytesFromInjector int64 `json:"bytes_from_injector"`
	BytesFromPeers    int64 `json:"bytes_from_peers"`
	// LongestHold is the longest time that a call was held.
	LongestHold bundle.Duration `json:"longest_hold"`
	// Unfit counts the nodes on which a rehearsal failed, and Why is one of them, where the
	// release was to be bad.
	Unfit int    `json:"unfit,omitempty"`
	Why   string `json:"why,omitempty"`
	// Errors quotes some of the failed calls.
	Errors []string `json:"errors"`
}

type Calls struct {
	OK     int64 `json:"ok"`
	Failed int64 `json:"failed"`
	Denied int64 `json:"denied"`
	// Slowest is how long the longest call took.
	Slowest bundle.Duration `json:"slowest"`
	// Reasons counts denied calls by the reason that their author gave.
	Reasons map[string]int64 `json:"reasons,omitempty"`
}

func newReport(n int, took bundle.Duration, s control.Status) *Report {
	kv := s.Classes["kv"] // by version: the last node to settle may still be in that phase
	return &Report{
		Nodes: n, Version: s.Release.Version, Settled: kv.Settled, Took: took,
		Calls: map[string]Calls{}, Budget: kv.Budget, Errors: []string{},
	}
}

func (r *Report) addLoad(l *kvload.Result) {
	r.Calls[fmt.Sprint(l.Version)] = Calls{
		OK: l.OK, Failed: l.Failed, Denied: l.Denied, Slowest: bundle.Duration(l.MaxLatency), Reasons: l.Reasons,
	}
	r.Errors = append(r.Errors, l.Errors...)
}

// Verdict is nil if all that the demo is to show has held.
func (r *Report) Verdict() error {
	if r.Version == 1 {
		return r.badVerdict()
	}
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
	if r.Version == 1 {
		return r.printBad(w)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nall %d nodes settled at version %d, %.1f s after the injection\n", r.Settled, r.Version, time.Duration(r.Took).Seconds())
	if len(r.Turns) == 2 {
		fmt.Fprintf(&b, "taken back in           %.1f s, and forward again in %.1f s\n", time.Duration(r.Turns[0]).Seconds(), time.Duration(r.Turns[1]).Seconds())
	}
	for _, v := range slices.Sorted(maps.Keys(r.Calls)) {
		c := r.Calls[v]
		fmt.Fprintf(&b, "calls of version %s      %d ok, %d failed, %d denied; the slowest took %d ms\n", v, c.OK, c.Failed, c.Denied, time.Duration(c.Slowest).Milliseconds())
		for _, reason := range slices.Sorted(maps.Keys(c.Reasons)) {
			fmt.Fprintf(&b, "  denied %d times: %s\n", c.Reasons[reason], reason)
		}
	}
	fmt.Fprintf(&b, "longest held call       %d ms\n", time.Duration(r.LongestHold).Milliseconds())
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

package cluster

import (
	"bufio"
	"encoding/json"
	"os"
	"time"
)

// Down is a time during which one node was down for its upgrade, or to take one back.
type Down struct{ From, To time.Time }

// Downs reads from the agent's log when its node was voluntarily down, from the decision to
// drain to the admission of calls.
func (a *Agent) Downs() (downs []Down, err error) {
	f, err := os.Open(a.LogPath())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var since time.Time
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Time time.Time `json:"time"`
			Msg  string    `json:"msg"`
			From string    `json:"from"`
			To   string    `json:"to"`
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Msg != "phase" {
			continue
		}
		switch {
		case e.To == "draining":
			since = e.Time
		case !since.IsZero() && (e.To == "settled" || e.To == "held" || e.To == "waiting"):
			downs = append(downs, Down{since, e.Time})
			since = time.Time{}
		}
	}
	if !since.IsZero() {
		downs = append(downs, Down{since, time.Now()}) // it still is
	}
	return downs, lines.Err()
}

// MostAtOnce returns how many nodes were down at once, at most. The agents share one clock.
func MostAtOnce(all []Down) int {
	most := 0
	for _, a := range all {
		n := 0
		for _, b := range all {
			if !b.From.After(a.From) && b.To.After(a.From) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

package cluster

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestDowns: times down are read from logs, one that has not ended counts until now, and what
// overlaps is noticed.
func TestDowns(t *testing.T) {
	log := func(phases ...string) *Agent {
		a := &Agent{Name: "n1", Data: t.TempDir()}
		text := `{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"something else","to":"draining"}` + "\nno JSON\n"
		for i := 0; i < len(phases); i += 2 {
			text += fmt.Sprintf(`{"time":"2026-01-01T00:00:%sZ","msg":"phase","to":%q}`+"\n", phases[i], phases[i+1])
		}
		if err := os.WriteFile(a.LogPath(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return a
	}
	downs := func(agents ...*Agent) (all []Down) {
		for _, a := range agents {
			d, err := a.Downs()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, d...)
		}
		return all
	}
	first := log("10", "draining", "11", "transforming", "12", "settled", "30", "draining", "31", "rolling back", "33", "held")
	if got := downs(first); len(got) != 2 || got[0].To.Sub(got[0].From) != 2*time.Second || got[1].To.Sub(got[1].From) != 3*time.Second {
		t.Errorf("%v", got)
	}
	for _, c := range []struct {
		other *Agent
		want  int
	}{
		{log("12", "draining", "30", "settled"), 1},
		{log("11", "draining", "13", "settled"), 2},
		{log("20", "draining", "21", "transforming"), 2}, // it still is
		{log("05", "waiting"), 1},
	} {
		if got := MostAtOnce(downs(first, c.other)); got != c.want {
			t.Errorf("%d at once, want %d", got, c.want)
		}
	}
}

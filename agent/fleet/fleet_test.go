package fleet

import (
	"testing"
	"time"

	"moult/store/bundle"
)

func small(s bundle.ScheduleSpec) Config {
	return Config{
		Nodes: 300, Zones: 3, Class: "kv", Schedule: s, Begin: time.Unix(1_800_000_000, 0).UTC(), Zone: time.LoadLocation,
		Fetch: time.Minute, Stop: 5 * time.Second, Transform: 30 * time.Second, Start: 10 * time.Second, Probe: 10 * time.Second,
		Delay: time.Second, Most: 1000 * time.Hour,
	}
}

// watched has what a run tells on its way compared with what it reports at its end.
func watched(c *Config) func(*testing.T, Report) {
	var all []Sample
	c.Watch = func(s Sample) { all = append(all, s) }
	return func(t *testing.T, r Report) {
		t.Helper()
		most := 0
		for i, s := range all {
			most = max(most, s.Down)
			if i > 0 && s.At < all[i-1].At {
				t.Errorf("%+v comes after %+v", s, all[i-1])
			}
		}
		last := all[len(all)-1]
		if all[0] != (Sample{}) || most != r.MostDown || last.Settled != r.Settled || last.Down != 0 {
			t.Errorf("watched are %+v to %+v, at most %d down; reported %+v", all[0], last, most, r)
		}
	}
}

// TestRun shows what each kind of schedule keeps to, on one fleet.
func TestRun(t *testing.T) {
	soak := bundle.Duration(10 * time.Minute)
	for name, c := range map[string]struct {
		spec     bundle.ScheduleSpec
		mostDown int
		mostZone int
	}{
		"held":    {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1", When: "self.facts.height > 1.0", HoldIf: "settled.height.p50 > 1.0"}, 1, 1},
		"one":     {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1"}, 1, 1},
		"tenth":   {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "10%", Canary: 1, Soak: soak}, 30, 30},
		"waves":   {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "10%", Waves: []bundle.Wave{{Each: "zone", Soak: soak}}}, 30, 30},
		"labels":  {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "10%", Waves: []bundle.Wave{{Labels: map[string]string{"test": "yes"}}, {Each: "rack"}, {Each: "zone"}}}, 30, 30},
		"spread":  {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "10%", Spread: &bundle.Spread{Label: "zone", Max: 5}}, 15, 5},
		"both":    {bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "4", Waves: []bundle.Wave{{Each: "zone", Soak: soak}}, Spread: &bundle.Spread{Label: "zone", Max: 2}}, 2, 2},
		"chance":  {bundle.ScheduleSpec{Strategy: bundle.StrategyRandom, Rate: 100}, 10, 10},
		"at once": {bundle.ScheduleSpec{Strategy: bundle.StrategyAtOnce}, 300, 100},
	} {
		t.Run(name, func(t *testing.T) {
			config := small(c.spec)
			seen := watched(&config)
			r, err := Run(config)
			if err != nil {
				t.Fatal(err)
			}
			seen(t, r)
			t.Logf("%+v", r)
			if r.State != "complete" || r.Settled != 300 {
				t.Errorf("%s, %d settled: %s", r.State, r.Settled, r.Reason)
			}
			if r.MostDown > c.mostDown || r.MostDown < c.mostDown/2 || r.MostDownZone > c.mostZone {
				t.Errorf("%d were down at once, %d of one zone; want up to %d, %d", r.MostDown, r.MostDownZone, c.mostDown, c.mostZone)
			}
			if again, _ := Run(small(c.spec)); again != r {
				t.Errorf("again it is %+v", again)
			}
		})
	}
}

// TestFails shows that a rollout stops within its bounds, and where nothing ever comes well.
func TestFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		state  string
		failed int // at most
	}{
		"before admission": {func(c *Config) { c.FailRate = 1 }, "held", 3},
		"in the soak":      {func(c *Config) { c.UnwellRate = 1; c.Schedule.Canary, c.Schedule.Soak = 1, bundle.Duration(time.Hour) }, "held", 1},
		"by hand":          {func(c *Config) { c.Schedule.Strategy = bundle.StrategyManual }, "rolling", 0},
		"outside its window": {func(c *Config) {
			c.Schedule.Windows = []bundle.Window{{Days: []string{"Sun"}, Start: "02:00", Length: bundle.Duration(4 * time.Hour), Timezone: "Europe/Zurich"}}
		}, "complete", 0},
	} {
		t.Run(name, func(t *testing.T) {
			config := small(bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "3", FailureMax: 1})
			c.change(&config)
			seen := watched(&config)
			r, err := Run(config)
			seen(t, r)
			t.Logf("%+v %v", r, err)
			if err != nil || r.State != c.state || r.Failed > c.failed || c.state == "held" && r.Failed == 0 {
				t.Errorf("want %s, and at most %d failed", c.state, c.failed)
			}
			if c.state == "complete" && time.Duration(r.Took) < 24*time.Hour {
				t.Error("it did not wait for its window")
			}
		})
	}
}

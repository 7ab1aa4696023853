package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// TestScripts runs the interleavings in testdata, of one node of class kv, by which
// all go that have a place in an order. Commands:
//
//	new [running=V] [unserved]       a node whose disk is new, or whose software is of version V
//	new keep                         the same after a crash: of what was saved
//	metadata number=N head=V [order=V.S…] [expired] [fork] [bound] [synced]
//	                                 newer metadata, with the orders of these serials; synced:
//	                                 by the first exchange, which has ended
//	seen …                           the same, not verified on top of those in force
//	order V.S [paused|aborted] [places=N] [soak=D] [withdrawn=FIRST-LAST] [after=V]
//	                                 an order arrives: N attempts of this node, 1 if not said
//	manifest V [fork] [from=V]       a manifest arrives
//	meant                            prints which content of each release the node goes by
//	missing V.S, missing V           an order, or a manifest, is not on the disk
//	fetched                          a round of asking peers for them has ended, and brought nothing
//	synced, tick, checked [problem=…], leave
//	up V, down V [ended], fails V, passes V, stops, let-in
//	                                 the software
//	staged, drained, transformed to=V, ready, admitted, healthy, recorded, rolledback, failed [later]
//	wait D                           time passes
//	full, free                       the disk has no room, or room again
//
// Each prints what is done for the Readys that follow, until one is empty.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t, now: time.Unix(1_800_000_000, 0).UTC()}
		datadriven.RunTest(t, path, s.run)
	})
}

// TestDecidedWhileFull shows that the script pause_while_full finds what it is there
// to find: a node that keeps what it decided while a state waited to be saved, as an
// answer is kept, goes down against the order that it has seen meanwhile.
func TestDecidedWhileFull(t *testing.T) {
	s := &script{now: time.Unix(1_800_000_000, 0).UTC(), wrap: func(n *Node, e Event) Event {
		if x, ok := e.(CheckEnded); ok && n.Refusing() && x.Problem == "" {
			return ActionEnded{upgrade.Go{Goal: n.State().Goal}}
		}
		return e
	}}
	wentDown := false
	datadriven.RunTest(t, "testdata/pause_while_full", func(t *testing.T, d *datadriven.TestData) string {
		got := s.run(t, d)
		wentDown = wentDown || (d.Cmd == "tick" && strings.Contains(got, "save draining"))
		return d.Expected
	})
	if !wentDown {
		t.Error("the script does not tell a node that decides anew from one that does not")
	}
}

type script struct {
	t    *testing.T
	now  time.Time
	node *Node
	disk Memory
	full bool
	step uint64 // of the check under way
	wrap func(*Node, Event) Event
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	switch d.Cmd {
	case "new":
		s.restart(d)
	case "wait":
		pause, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(pause)
		s.node.Step(s.now, Tick{})
	case "full", "free":
		s.full = d.Cmd == "full"
		return ""
	case "meant":
		return s.meant()
	default:
		e := s.event(d)
		if s.wrap != nil {
			e = s.wrap(s.node, e)
		}
		s.node.Step(s.now, e)
		if d.HasArg("synced") {
			s.node.Step(s.now, Synced{})
		}
	}
	return s.flush()
}

// restart makes the node of what was saved, or of a new disk.
func (s *script) restart(d *datadriven.TestData) {
	if !d.HasArg("keep") {
		s.disk = Memory{Frozen: map[bundle.Version]bundle.Digest{}, Bound: map[bundle.Version]bundle.Digest{}}
		if v := version(s.t, d, "running"); v != 0 {
			s.disk.State = &upgrade.State{Phase: upgrade.Current, Version: v, Running: v, Served: !d.HasArg("unserved")}
		}
	}
	n, err := New(Config{Self: bundle.NodeID{1}, Name: "n1", Class: "kv", FirstSync: time.Hour}, s.disk, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	s.node = n
}

// flush does what the node wants, and tells what that is.
func (s *script) flush() string {
	var b strings.Builder
	for {
		r := s.node.Ready()
		if r.Empty() {
			if r = s.node.ready(); !r.Empty() {
				s.t.Errorf("while it rests there would be to do: %+v", r)
			}
			return b.String()
		}
		if r.Save != nil && s.full {
			b.WriteString("refused\n")
			s.node.Refused("the disk is full")
			continue
		}
		s.save(&b, r.Save)
		if r.Gate != nil {
			fmt.Fprintf(&b, "gate version=%d open=%v\n", r.Gate.Version, r.Gate.Open)
		}
		for _, a := range r.Actions {
			fmt.Fprintf(&b, "do %s\n", strings.TrimPrefix(fmt.Sprintf("%T%+v", a, a), "upgrade."))
		}
		if t := r.Tell; t != nil {
			fmt.Fprintf(&b, "tell %d: %s version=%d", t.Seq, t.Phase, t.Version)
			if t.Reason != "" {
				fmt.Fprintf(&b, " reason=%q", t.Reason)
			}
			if h := t.Health; h.State != "" && h.State != view.HealthUnknown {
				fmt.Fprintf(&b, " %s", h.State)
			}
			if h := t.Health; h.Reason != "" {
				fmt.Fprintf(&b, ": %s", h.Reason)
			}
			if h := t.Health; h.Soaked != 0 || h.Failed.Release != 0 {
				fmt.Fprintf(&b, " soaked=%d failed=%d/%d", h.Soaked, h.Failed.Release, h.Failed.Count)
			}
			b.WriteByte('\n')
		}
		if r.Check != nil {
			s.step = r.Check.Step
			fmt.Fprintf(&b, "check path=%v\n", r.Check.Path)
		}
		for _, doc := range r.Read {
			fmt.Fprintf(&b, "read %s of release %d\n", [...]string{"manifest", "order", "the order in force", "object"}[doc.Kind], doc.Release)
		}
		if len(r.Fetch) > 0 {
			fmt.Fprintf(&b, "fetch %d documents\n", len(r.Fetch))
		}
		for _, text := range r.Raised {
			fmt.Fprintf(&b, "alarm: %s\n", text)
		}
		s.node.Advance(r)
	}
}

// meant tells by which content of each release the node goes that is here.
func (s *script) meant() string {
	var b strings.Builder
	for _, v := range sorted(s.node.Manifests()) {
		what := "the first"
		if s.node.ManifestDigests()[v] != manifestDigest(v, false) {
			what = "the second"
		}
		fmt.Fprintf(&b, "release %d: %s content\n", v, what)
	}
	return b.String()
}

func (s *script) save(b *strings.Builder, x *Save) {
	if x == nil {
		return
	}
	b.WriteString("save")
	if x.State != nil {
		s.disk.State = x.State
		fmt.Fprintf(b, " %s version=%d goal=%d", x.State.Phase, x.State.Version, x.State.Goal)
	}
	if !x.Metadata.IsZero() {
		s.disk.Metadata = s.node.Metadata()
		b.WriteString(" metadata")
	}
	if !x.Evidence.IsZero() {
		s.disk.Evidence = s.node.Evidence()
		b.WriteString(" evidence")
	}
	for _, v := range sorted(x.Frozen) {
		s.disk.Frozen[v] = x.Frozen[v]
		fmt.Fprintf(b, " frozen=%d", v)
	}
	for _, v := range sorted(x.Bound) {
		s.disk.Bound[v] = x.Bound[v]
		fmt.Fprintf(b, " bound=%d", v)
	}
	if x.Floor != nil {
		s.disk.Floor = *x.Floor
		b.WriteString(" floor")
	}
	b.WriteByte('\n')
}

func (s *script) event(d *datadriven.TestData) Event {
	step := s.node.State().Step
	switch d.Cmd {
	case "metadata":
		return MetadataVerified{Metadata: s.metadata(d)}
	case "seen":
		return MetadataSeen{s.metadata(d)}
	case "order":
		v, serial := place(s.t, d.CmdArgs[0].Key)
		return OrderRead{Document: Document{Kind: KindOrder, Release: v, Chunk: bundle.Chunk{Digest: orderDigest(v, serial)}}, Order: order(s.t, d, v, serial)}
	case "missing":
		v, serial := place(s.t, d.CmdArgs[0].Key)
		if serial == 0 {
			return DocumentMissing{Document{Kind: KindManifest, Release: v, Chunk: bundle.Chunk{Digest: manifestDigest(v, false)}}}
		}
		kind := KindOrder
		if d.HasArg("bound") {
			kind = KindBound
		}
		return DocumentMissing{Document{Kind: kind, Release: v, Chunk: bundle.Chunk{Digest: orderDigest(v, serial)}}}
	case "manifest":
		v, _ := place(s.t, d.CmdArgs[0].Key)
		fork := d.HasArg("fork")
		m := &bundle.Manifest{Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: v - 1}}}
		if from := version(s.t, d, "from"); from != 0 {
			m.Classes["kv"] = bundle.ClassUpgrade{From: from}
		}
		if v > 1 {
			m.Previous = manifestDigest(v-1, false)
		}
		return ManifestRead{Document: Document{Release: v, Chunk: bundle.Chunk{Digest: manifestDigest(v, fork)}}, Manifest: m}
	case "fetched":
		return FetchEnded{}
	case "synced":
		return Synced{}
	case "tick":
		return Tick{}
	case "leave":
		return Leave{}
	case "agent-trial":
		return AgentTrial{Over: d.HasArg("over")}
	case "checked":
		e := CheckEnded{Step: s.step}
		d.MaybeScanArgs(s.t, "problem", &e.Problem)
		return e
	case "measured": // a copy of the state of version 1
		var takes string
		d.ScanArgs(s.t, "takes", &takes)
		e := CopyMeasured{upgrade.Copies{Version: 1, Files: 300_000, Bytes: 1 << 30}}
		var err error
		if e.Takes, err = time.ParseDuration(takes); err != nil {
			s.t.Fatal(err)
		}
		return e
	case "up":
		v, _ := place(s.t, d.CmdArgs[0].Key)
		return SoftwareUp{v}
	case "down":
		v, _ := place(s.t, d.CmdArgs[0].Key)
		e := SoftwareDown{Version: v, Ended: d.HasArg("ended"), Reason: "no"}
		if e.Ended {
			e.Reason = "exit status 1"
		}
		return e
	case "fails":
		v, _ := place(s.t, d.CmdArgs[0].Key)
		return SoftwareFails{v, "no answer"}
	case "passes":
		v, _ := place(s.t, d.CmdArgs[0].Key)
		return SoftwarePasses{v}
	case "stops":
		return SoftwareStops{}
	case "let-in":
		return LetIn{}
	}
	return ActionEnded{s.answer(d, step)}
}

func (s *script) answer(d *datadriven.TestData, step uint64) upgrade.Event {
	switch d.Cmd {
	case "staged":
		return upgrade.Staged{Step: step}
	case "drained":
		return upgrade.Drained{Step: step}
	case "transformed":
		return upgrade.Transformed{Step: step, To: version(s.t, d, "to")}
	case "ready":
		return upgrade.Ready{Step: step}
	case "admitted":
		return upgrade.Admitted{Step: step}
	case "healthy":
		return upgrade.Healthy{Step: step}
	case "recorded":
		return upgrade.Recorded{Step: step}
	case "rolledback":
		return upgrade.RolledBack{Step: step}
	case "failed":
		return upgrade.Failed{Step: step, Reason: "it failed", Later: d.HasArg("later")}
	}
	s.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return nil
}

// metadata makes the set that the arguments say.
func (s *script) metadata(d *datadriven.TestData) Metadata {
	m := Metadata{
		Versions: trust.Versions{Timestamp: int64(version(s.t, d, "number"))}, Digest: bundle.Sum([]byte(fmt.Sprint(d.CmdArgs))),
		Expires: s.now.Add(24 * time.Hour), Releases: map[bundle.Version]trust.Ref{}, Orders: map[bundle.Version]trust.Ref{},
	}
	if d.HasArg("expired") {
		m.Expires = s.now.Add(-time.Hour)
	}
	head := version(s.t, d, "head")
	for v := bundle.Version(1); v <= head; v++ {
		m.Releases[v] = trust.Ref{Digest: manifestDigest(v, v == head && d.HasArg("fork"))}
	}
	for _, arg := range d.CmdArgs {
		if arg.Key == "order" {
			for _, text := range arg.Vals {
				v, serial := place(s.t, text)
				m.Orders[v] = trust.Ref{Digest: orderDigest(v, serial)}
			}
		}
	}
	return m
}

func order(t *testing.T, d *datadriven.TestData, v bundle.Version, serial uint64) *schedule.Order {
	o := &schedule.Order{Release: v, Serial: serial, Manifest: manifestDigest(v, false), State: schedule.StateRunning}
	if d.HasArg("paused") {
		o.State = schedule.StatePaused
	}
	if d.HasArg("joins") { // both of these
		o.Joined = &schedule.Joined{Open: o.State != schedule.StateRunning}
		for _, arg := range d.CmdArgs {
			if arg.Key == "joins" {
				for _, text := range arg.Vals {
					o.Joined.Orders = append(o.Joined.Orders, orderDigest(place(t, text)))
				}
			}
		}
	}
	if d.HasArg("aborted") {
		o.State = schedule.StateAborted
	}
	o.Previous = version(t, d, "after")
	if d.HasArg("withdrawn") {
		var text string
		d.ScanArgs(t, "withdrawn", &text)
		w := bundle.Withdrawal{Class: "kv"}
		if _, err := fmt.Sscanf(text, "%d-%d", &w.First, &w.Last); err != nil {
			t.Fatal(err)
		}
		o.Withdrawn = bundle.Withdrawn{w}
	}
	c := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}
	if d.HasArg("soak") {
		var soak string
		d.ScanArgs(t, "soak", &soak)
		lasts, _ := time.ParseDuration(soak)
		c.Canary, c.Soak = 1, bundle.Duration(lasts)
	}
	if d.HasArg("other") { // node 2 has the first place
		c.Roster = append(c.Roster, bundle.NodeID{2})
	}
	places := max(1, int(version(t, d, "places")))
	for range places {
		c.Roster = append(c.Roster, bundle.NodeID{1})
	}
	o.Classes = map[bundle.Class]schedule.ClassOrder{"kv": c}
	return o
}

func orderDigest(v bundle.Version, serial uint64) bundle.Digest {
	return bundle.Sum(fmt.Appendf(nil, "order %d.%d", v, serial))
}

func manifestDigest(v bundle.Version, fork bool) bundle.Digest {
	return bundle.Sum(fmt.Appendf(nil, "manifest %d %v", v, fork))
}

// place reads "V.S", or "V".
func place(t *testing.T, text string) (v bundle.Version, serial uint64) {
	var n uint64
	if strings.Contains(text, ".") {
		if _, err := fmt.Sscanf(text, "%d.%d", &n, &serial); err != nil {
			t.Fatal(err)
		}
	} else if _, err := fmt.Sscanf(text, "%d", &n); err != nil {
		t.Fatal(err)
	}
	return bundle.Version(n), serial
}

func version(t *testing.T, d *datadriven.TestData, name string) bundle.Version {
	var n uint64
	if d.HasArg(name) {
		d.ScanArgs(t, name, &n)
	}
	return bundle.Version(n)
}

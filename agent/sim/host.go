package sim

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// host is one machine: its disk, the node's software, and the agent that looks
// after it. Disk and software outlive the agent.
type host struct {
	s     *simulation
	i     int
	name  string
	class bundle.Class
	zone  string // "": none
	key   ed25519.PrivateKey
	id    bundle.NodeID
	skew  time.Duration // of its clock; records carry it, nothing may depend on it

	disk disk
	soft software
	gate node.Gate      // as the agent has it; it outlives the agent
	lost bundle.Version // the software that died while no agent ran; 0: none

	agent *agent         // nil: none runs
	boot  int            // rises with each agent's start and end: what an older one began is void
	adopt bundle.Version // software that ran before moult; 0: none
	away  bool           // switched off on purpose: nothing restarts it but its return
	gone  bool           // its agent has left the ring, for good

	ill   [maxRelease + 1]illness
	truth truth
	// forgot: its disk has lost what it has said, and perhaps that it has.
	forgot bool
}

// software is the node's process. Its record is durable before it runs, so the
// next agent can adopt it.
type software struct {
	running bool
	version bundle.Version
	fails   bool          // its health checks
	since   time.Duration // when it was started, or its checks passed again
}

// illness is what goes wrong with one release on one host, so many times.
type illness struct {
	kind  string // fetch, transform, later, launch, probe, unwell, ails
	times int
	// chronic illnesses do not end when faults stop.
	chronic bool
}

// strikes reports whether the illness of a release strikes now.
func (h *host) strikes(kind string, v bundle.Version) bool {
	if (kind == "transform" || kind == "launch") && h.s.spoilt(h.class, v) {
		return true
	}
	ill := &h.ill[v]
	if ill.kind != kind || (ill.times <= 0 && !ill.chronic) {
		return false
	}
	ill.times--
	return true
}

func (h *host) chronic() bool {
	return slices.ContainsFunc(h.ill[:], func(ill illness) bool { return ill.chronic })
}

// trace adds a line about the host.
func (h *host) trace(format string, args ...any) { h.s.trace(h.name, fmt.Sprintf(format, args...)) }

// populate makes the hosts. Most run version 1 and know the cluster; the last
// ones join late, with state from before moult or without any.
func (s *simulation) populate() {
	classes := []bundle.Class{"kv", "auth", "kv", "web"}
	for i := range nodes {
		var seed [ed25519.SeedSize]byte
		binary.BigEndian.PutUint64(seed[:], uint64(i))
		h := &host{s: s, i: i, name: fmt.Sprintf("n%d", i), class: classes[i%len(classes)], key: ed25519.NewKeyFromSeed(seed[:])}
		h.id = bundle.NodeIDOf(h.public())
		s.ids[h.id] = i
		s.hosts = append(s.hosts, h)
		if s.chance(0.2) {
			h.skew = s.between(-10*365*24*time.Hour, 10*365*24*time.Hour)
		}
		at := s.between(0, 2*time.Second)
		switch {
		case i < nodes-4: // settled at version 1 long ago
			h.install(1, s.rng.IntN(50))
			state := upgrade.State{Step: 10, Phase: upgrade.Current, Version: 1, Running: 1, Served: true}
			h.disk.journal = must(state.Marshal())
			h.disk.floor.Promises = h.disk.floor.Promises.Raised(state)
			h.disk.current = 1
			h.disk.sync()
			h.truth.state = state
		case i%2 == 0: // adopted
			h.install(1, s.rng.IntN(50))
			h.adopt = 1
			at = s.between(0, chaos)
		default: // new
			at = s.between(0, chaos)
		}
		s.after(at, h.start)
		s.after(s.between(0, callInterval), h.call)
	}
}

// install gives a host the state of version v, from before the simulation.
func (h *host) install(v bundle.Version, writes int) {
	h.disk.slots[v] = content{form: v, writes: writes, whole: true}
	h.disk.sync()
	h.truth.acked = writes
}

// start starts an agent.
func (h *host) start() {
	if h.agent != nil || h.away || h.gone {
		return
	}
	h.boot++
	a := &agent{h: h, s: h.s, contents: map[bool]bool{}}
	h.agent = a
	h.s.stats.Restarts++
	a.restore()
	if h.agent != a {
		return
	}
	a.begin()
}

// crash ends the agent at once; with the power, the software and whatever the
// disk had not synced are gone too.
func (h *host) crash(power bool) {
	if power {
		h.trace("power loss")
		h.stop()
		h.gate = node.Gate{}
		h.disk.powerLoss(h.s)
	} else {
		h.trace("agent killed")
	}
	h.s.stats.Crashes++
	h.agent = nil
	h.boot++
	h.s.after(h.s.between(100*time.Millisecond, 6*time.Second), h.start)
}

// crashPoint is a place where the agent may die, with or without the machine.
// It reports whether it did.
func (h *host) crashPoint() bool {
	if !h.s.chance(h.s.crashes) {
		return false
	}
	h.crash(h.s.chance(0.4))
	return true
}

// ensure starts the software of version v, unless it runs. Anything else that
// runs is stopped first.
func (h *host) ensure(v bundle.Version) {
	if h.soft.running && h.soft.version == v {
		return
	}
	if c := h.disk.slots[v]; !c.whole || c.form != v {
		h.s.fail("P5", "%s starts version %d on a slot that is %+v", h.name, v, c)
	}
	h.agent.checkSoftware(v)
	h.stop()
	h.soft, h.disk.ran = software{running: true, version: v, since: h.s.now}, v
	h.trace("software %d starts", v)
}

// stop ends the software.
func (h *host) stop() {
	h.noteWell()
	h.soft, h.lost = software{}, 0
}

// open reports whether callers reach the software.
func (h *host) open() bool { return h.soft.running && h.gate.Open && h.gate.Version == h.soft.version }

func (h *host) public() ed25519.PublicKey { return h.key.Public().(ed25519.PublicKey) }

// call is a caller who writes. What is acknowledged must never be lost.
func (h *host) call() {
	h.s.after(h.s.between(callInterval/2, callInterval*3/2), h.call)
	if h.open() {
		h.disk.write(h.soft.version)
		h.truth.acked++
		h.truth.details[h.soft.version]++
		h.s.stats.Calls++
	}
}

// die ends the software by itself.
func (h *host) die() {
	if !h.soft.running {
		return
	}
	v := h.soft.version
	h.trace("software %d dies", v)
	h.stop()
	if h.agent == nil {
		h.lost = v
		return
	}
	h.agent.softwareEnded(v)
	h.agent.flush()
}

// sickenSettled has software that has settled fall ill, in its soak, which is where
// canaries are there for, or later.
func (h *host) sickenSettled(v bundle.Version) {
	if o := h.s.operator.newest(); o != nil {
		c := o.Classes[h.class]
		if slices.Contains(c.Roster[:min(c.Canaries(), len(c.Roster))], h.id) && h.s.chance(0.3) {
			h.s.after(h.s.between(0, time.Duration(c.SoakOf(h.id))), func() { h.ail(v) })
		}
	}
	if h.strikes("ails", v) {
		h.s.after(h.s.between(5*time.Second, time.Minute), func() { h.ail(v) })
	}
}

// ail has the software of v end, some times in a row, or its checks fail: for ever
// where that illness is chronic.
func (h *host) ail(v bundle.Version) {
	if !h.soft.running || h.soft.version != v || h.soft.fails {
		return
	}
	h.s.stats.Ailed++
	if chronic := h.ill[v].chronic; chronic || h.s.chance(0.5) {
		h.fail(chronic)
		return
	}
	h.die()
	for again := h.s.rng.IntN(3); again > 0; again-- {
		h.s.after(h.s.between(3*time.Second, 20*time.Second), func() {
			if h.soft.version == v {
				h.die()
			}
		})
	}
}

// fail has the checks of the software that runs fail.
func (h *host) fail(chronic bool) {
	h.trace("software %d fails its checks", h.soft.version)
	h.noteWell()
	h.soft.fails = true
	if a := h.agent; a != nil && a.keeps == h.soft.version {
		a.tell(node.SoftwareFails{Version: h.soft.version, Reason: "its checks fail"})
		a.flush()
	}
	if !chronic {
		v := h.soft.version
		h.s.after(h.s.between(5*time.Second, 40*time.Second), func() { h.recover(v) })
	}
}

// recover has the checks of the software of v pass again.
func (h *host) recover(v bundle.Version) {
	if !h.soft.fails || h.soft.version != v {
		return
	}
	h.trace("software %d passes its checks", v)
	h.soft.fails, h.soft.since = false, h.s.now
	if a := h.agent; a != nil && a.keeps == v {
		a.tell(node.SoftwarePasses{Version: v})
		a.open(v)
		a.flush()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // of a value that this package made: a fault of the simulator itself
	}
	return v
}

package trust

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"moult/store/bundle"
)

// agent is what a peer does with sets: verify against what it has, keep the newer.
type agent struct {
	first   []byte
	current *Verified
}

func newAgent(t testing.TB, first []byte) *agent {
	t.Helper()
	g, err := Genesis(first)
	if err != nil {
		t.Fatal(err)
	}
	return &agent{first: first, current: g}
}

// offer reports why the agent does not hold exactly this set afterwards.
func (a *agent) offer(v *Verified) error {
	next, err := Verify(a.first, a.current, v.Set())
	if err != nil {
		return err
	}
	if ns := Conflicts(a.current, next); len(ns) > 0 {
		return fmt.Errorf("%w: releases %v", ErrConflict, ns)
	}
	if Newer(a.current, next) {
		a.current = next
	}
	if a.current.Digest() != next.Digest() {
		return errors.New("not newer")
	}
	return nil
}

// TestTwoPeople is the everyday story of a publisher and an operator, each with
// a folder of one Init and without the other's key.
func TestTwoPeople(t *testing.T) {
	dir := initFolder(t)
	publisher := openFolder(t, copyFolder(t, dir, rootKey, operatorKey))
	operator := openFolder(t, copyFolder(t, dir, rootKey, publisherKey))
	peer := newAgent(t, publisher.FirstRoot())
	accept := func(what string, v *Verified, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := peer.offer(v); err != nil {
			t.Fatalf("%s: peers refuse it: %v", what, err)
		}
	}

	one := manifest(t, 1, nil, "one")
	bundle1, err := publisher.AddRelease(1, one)
	if err != nil {
		t.Fatal(err)
	}
	// The operator takes the bundle's set as it is and signs nothing for that.
	v, err := operator.Absorb(peer.current.Set(), bundle1.Set())
	if err != nil || v.Digest() != bundle1.Digest() {
		t.Fatalf("absorb bundle 1: %v", err)
	}
	v, err = operator.AddOrder(1, 1, []byte("order 1.1"))
	accept("order 1.1", v, err)
	v, err = operator.AddOrder(1, 2, []byte("order 1.2"))
	accept("order 1.2", v, err)

	// The publisher knows nothing of the orders.
	two := manifest(t, 2, one, "two")
	bundle2, err := publisher.AddRelease(2, two)
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.offer(bundle2); !errors.Is(err, ErrRollback) {
		t.Fatalf("a stale publisher's set must not take the orders back: %v", err)
	}
	before := operator.Current().Versions()
	v, err = operator.Absorb(peer.current.Set(), bundle2.Set())
	accept("release 2 and order 1.2", v, err)
	if got, want := v.Versions(), (Versions{Root: 1, Timestamp: before.Timestamp + 1, Snapshot: before.Snapshot + 1,
		Targets: bundle2.Versions().Targets, Operator: before.Operator}); got != want {
		t.Errorf("merged versions %+v, want %+v: only snapshot and timestamp are signed again", got, want)
	}
	if again, err := operator.Absorb(peer.current.Set(), bundle2.Set(), bundle1.Set()); err != nil || again != v {
		t.Errorf("absorbing old news signs again: %v", err)
	}
	v, err = operator.AddOrder(2, 1, []byte("order 2.1"))
	accept("order 2.1", v, err)

	// The publisher catches up, and goes on from there.
	if _, err := publisher.Absorb(peer.current.Set()); err != nil || publisher.Current().Digest() != peer.current.Digest() {
		t.Fatalf("the publisher absorbs what peers have: %v", err)
	}
	v, err = publisher.AddRelease(3, manifest(t, 3, two, "three"))
	accept("release 3", v, err)
	if fmt.Sprint(peer.current.Releases(), peer.current.Orders()) != "[1 2 3] [1 2]" {
		t.Errorf("peers have releases %v and orders %v", peer.current.Releases(), peer.current.Orders())
	}
	// Either may put things together.
	if v, err = operator.AddOrder(2, 2, []byte("order 2.2")); err != nil {
		t.Fatal(err)
	}
	v, err = publisher.Absorb(v.Set())
	accept("the publisher merges release 3 and order 2.2", v, err)
}

func TestAbsorbRefuses(t *testing.T) {
	dir := initFolder(t)
	a, b := openFolder(t, dir), openFolder(t, copyFolder(t, dir))
	if _, err := a.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddRelease(1, manifest(t, 1, nil, "uno")); err != nil {
		t.Fatal(err)
	}
	before := a.Current()
	if _, err := a.Absorb(b.Current().Set()); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "release 1") {
		t.Errorf("two contents of release 1: %v", err)
	}
	foreign := openFolder(t, initFolder(t))
	if _, err := a.Absorb(foreign.Current().Set()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another cluster's set: %v", err)
	}
	if _, err := a.Absorb(Set{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("an empty set: %v", err)
	}
	if a.Current() != before {
		t.Error("a refused set has changed the folder")
	}
	if g, err := Genesis(a.FirstRoot()); err != nil {
		t.Error(err)
	} else if v, err := a.Absorb(g.Set()); err != nil || v != before {
		t.Errorf("a peer that knows nothing yet: %v", err)
	}
	// News on both sides, and nobody to sign.
	c := openFolder(t, copyFolder(t, dir, publisherKey, operatorKey))
	op := openFolder(t, copyFolder(t, dir))
	if _, err := op.AddOrder(1, 1, []byte("order")); err != nil {
		t.Fatal(err)
	}
	if err := a.Refresh(0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Absorb(op.Current().Set()); err != nil {
		t.Errorf("plain news need no key: %v", err)
	}
	if _, err := c.Absorb(a.Current().Set()); !errors.Is(err, ErrNoKey) {
		t.Errorf("a merge without keys: %v", err)
	}
}

// TestHastyOperators sign different orders from one state. Peers split between
// the two, and one more command unites them.
func TestHastyOperators(t *testing.T) {
	dir := initFolder(t)
	a := openFolder(t, dir)
	if _, err := a.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	b := openFolder(t, copyFolder(t, dir))
	left, right := newAgent(t, a.FirstRoot()), newAgent(t, a.FirstRoot())
	va, err := a.AddOrder(1, 1, []byte("pause"))
	if err != nil {
		t.Fatal(err)
	}
	vb, err := b.AddOrder(1, 1, []byte("abort"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(left.offer(va), right.offer(vb)); err != nil {
		t.Fatal(err)
	}
	if left.offer(vb) == nil || right.offer(va) == nil {
		t.Fatal("a fork went through: this test shows nothing")
	}
	v, err := a.Absorb(right.current.Set())
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := v.Order(1); r != refOf([]byte("abort")) {
		t.Error("the absorbed order does not win")
	}
	if err := errors.Join(left.offer(v), right.offer(v)); err != nil {
		t.Errorf("peers stay split: %v", err)
	}
	if _, err := a.AddOrder(1, 1, []byte("pause")); !errors.Is(err, ErrRollback) {
		t.Errorf("the losing order again: %v", err)
	}
	v, err = a.AddOrder(1, 2, []byte("pause after all"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(left.offer(v), right.offer(v)); err != nil {
		t.Errorf("peers refuse the successor: %v", err)
	}
}

// TestUnion: neither side's file has everything, so the file's own key is needed.
func TestUnion(t *testing.T) {
	dir := initFolder(t)
	a := openFolder(t, dir)
	one := manifest(t, 1, nil, "one")
	if _, err := a.AddRelease(1, one); err != nil {
		t.Fatal(err)
	}
	b := openFolder(t, copyFolder(t, dir))
	va, err := a.AddRelease(2, manifest(t, 2, one, "two"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // b's targets are newer, and lack release 2
		if err := b.Refresh(0); err != nil {
			t.Fatal(err)
		}
	}
	vb := b.Current()
	operator := openFolder(t, copyFolder(t, dir, publisherKey))
	if _, err := operator.Absorb(vb.Set()); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "publisher") {
		t.Errorf("a union of releases without the publisher key: %v", err)
	}
	v, err := b.Absorb(va.Set())
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []*Verified{va, vb} {
		if _, err := Verify(b.FirstRoot(), old, v.Set()); err != nil {
			t.Errorf("the union does not supersede: %v", err)
		}
	}
}

// TestUnionOfOrders is the same for orders, with the operator key.
func TestUnionOfOrders(t *testing.T) {
	dir := initFolder(t)
	a := openFolder(t, dir)
	one := manifest(t, 1, nil, "one")
	if _, err := a.AddRelease(1, one); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AddRelease(2, manifest(t, 2, one, "two")); err != nil {
		t.Fatal(err)
	}
	b := openFolder(t, copyFolder(t, dir))
	va, err := a.AddOrder(1, 1, []byte("order 1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddOrder(2, 1, []byte("order 2")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddOrder(2, 2, []byte("order 2 again")); err != nil {
		t.Fatal(err)
	}
	vb := b.Current()
	publisher := openFolder(t, copyFolder(t, dir, operatorKey))
	if _, err := publisher.Absorb(vb.Set()); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "operator") {
		t.Errorf("a union of orders without the operator key: %v", err)
	}
	v, err := a.Absorb(vb.Set())
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []*Verified{va, vb} {
		if _, err := Verify(a.FirstRoot(), old, v.Set()); err != nil {
			t.Errorf("the union does not supersede: %v", err)
		}
	}
	if got, _ := v.Order(2); got != refOf([]byte("order 2 again")) {
		t.Error("the union has an older order")
	}
}

// TestUnionOfMembers: who belongs to the cluster is not lost where one operator has signed
// that and another an order.
func TestUnionOfMembers(t *testing.T) {
	dir := initFolder(t)
	a := openFolder(t, dir)
	if _, err := a.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	b := openFolder(t, copyFolder(t, dir))
	va, err := a.AddMembers([]byte("members"))
	if err != nil {
		t.Fatal(err)
	}
	for serial := range uint64(2) {
		if _, err := b.AddOrder(1, serial+1, fmt.Append(nil, "order ", serial)); err != nil {
			t.Fatal(err)
		}
	}
	vb := b.Current()
	v, err := b.Absorb(va.Set())
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []*Verified{va, vb} {
		if _, err := Verify(b.FirstRoot(), old, v.Set()); err != nil {
			t.Errorf("the union does not supersede: %v", err)
		}
	}
	if ref, _ := v.Members(); ref.Ref != refOf([]byte("members")) {
		t.Error("the union lacks who belongs to the cluster")
	}
	if err := b.KeepMembers([]byte("members")); err != nil {
		t.Error(err)
	}

	// One changes it, and the other, who has not heard of that, signs more of other things:
	// the change stays, and no peer takes what lacks it.
	va, err = a.Absorb(v.Set())
	if err == nil {
		va, err = a.AddMembers([]byte("without n6"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for serial := range uint64(2) {
		if vb, err = b.AddOrder(1, serial+3, fmt.Append(nil, "later order ", serial)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Verify(a.FirstRoot(), va, vb.Set()); !errors.Is(err, ErrRollback) {
		t.Errorf("a peer that knows of the change takes what lacks it: %v", err)
	}
	for name, f := range map[string]struct {
		folder *Folder
		set    Set
	}{"absorbed by who has changed it": {a, vb.Set()}, "absorbed by the other": {b, va.Set()}} {
		v, err := f.folder.Absorb(f.set)
		if err != nil {
			t.Fatal(name, err)
		}
		if ref, _ := v.Members(); ref.Ref != refOf([]byte("without n6")) || ref.Serial != 2 {
			t.Errorf("%s: serial %d", name, ref.Serial)
		}
	}
}

// TestMembersOutliveKey: that the operator's key is replaced by somebody who has not heard
// who belongs to the cluster neither opens the ring nor leaves the operator without a way.
func TestMembersOutliveKey(t *testing.T) {
	dir := initFolder(t)
	a := openFolder(t, dir)
	if _, err := a.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	b := openFolder(t, copyFolder(t, dir))
	va, err := a.AddMembers([]byte("members"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.RotateOperator(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddOrder(1, 1, []byte("order")); err != nil {
		t.Fatal(err)
	}
	v, err := b.Absorb(va.Set())
	if err != nil {
		t.Fatal(err)
	}
	if ref, _ := v.Members(); ref.Ref != refOf([]byte("members")) {
		t.Error("the ring is open")
	}
	if _, err := Verify(b.FirstRoot(), va, v.Set()); err != nil {
		t.Errorf("peers do not take it: %v", err)
	}
}

// TestRevokedOperator: after a rotation the old operator key counts for nothing,
// not even in a merge by somebody who holds every new key.
func TestRevokedOperator(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	if _, err := f.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	thief := openFolder(t, copyFolder(t, dir, rootKey, publisherKey))
	if err := f.RotateOperator(); err != nil {
		t.Fatal(err)
	}
	forged, err := thief.AddOrder(1, 1, []byte("abort"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Absorb(forged.Set()); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "operator key in force") {
		t.Errorf("no order of the new key yet: %v", err)
	}
	if _, err := f.AddOrder(1, 1, []byte("go")); err != nil {
		t.Fatal(err)
	}
	// Now there is one to take instead: whoever saw the thief's gets the true one.
	v, err := f.Absorb(forged.Set())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := v.Order(1); got != refOf([]byte("go")) {
		t.Error("the thief's order is in force")
	}
	if _, err := Verify(f.FirstRoot(), forged, v.Set()); err != nil {
		t.Errorf("peers that took the thief's order are lost: %v", err)
	}
}

// TestAbsorbAlways drives several people's folders and peers at random. The law:
// whatever honest people sign (each release from one publisher), an operator who
// absorbs what all peers have makes one set that all peers take.
func TestAbsorbAlways(t *testing.T) {
	inFull(t)
	t.Parallel()
	dir := initFolder(t)
	for seed := range uint64(25) {
		if err := newStory(t, dir, (*Folder).Absorb).run(rand.New(rand.NewPCG(seed, 0)).IntN); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// TestAbsorbPlanted: taking the set with the greatest timestamp, as a peer
// does, is what Absorb must not do.
func TestAbsorbPlanted(t *testing.T) {
	dir := initFolder(t)
	newest := func(f *Folder, sets ...Set) (*Verified, error) {
		best := f.current
		for _, s := range sets {
			v, err := Verify(f.first, nil, s)
			if err != nil {
				return nil, err
			}
			if Newer(best, v) {
				best = v
			}
		}
		return best, f.commit(best)
	}
	for seed := range uint64(25) {
		if newStory(t, dir, newest).run(rand.New(rand.NewPCG(seed, 0)).IntN) != nil {
			return
		}
	}
	t.Error("an Absorb that merges nothing was not found: the property shows nothing")
}

// story is a publisher, two operators and two peers.
type story struct {
	t         *testing.T
	absorb    func(*Folder, ...Set) (*Verified, error)
	publisher *Folder
	operators []*Folder
	peers     []*agent
	last      []byte // the newest manifest
	serials   map[bundle.Version]uint64
}

func newStory(t *testing.T, dir string, absorb func(*Folder, ...Set) (*Verified, error)) *story {
	open := func(without ...keyName) *Folder {
		f := openFolder(t, copyFolder(t, dir, without...))
		f.disk = quick
		return f
	}
	s := &story{t: t, absorb: absorb, publisher: open(rootKey, operatorKey),
		operators: []*Folder{open(publisherKey), open(publisherKey)}, serials: map[bundle.Version]uint64{}}
	s.peers = []*agent{newAgent(t, s.publisher.FirstRoot()), newAgent(t, s.publisher.FirstRoot())}
	return s
}

// run does things at random, then lets one operator unite everything. choose
// returns 0 to n-1.
func (s *story) run(choose func(n int) int) error {
	for range 1 + choose(12) {
		if err := s.step(choose); err != nil {
			return err
		}
	}
	sets := []Set{s.publisher.Current().Set(), s.operators[1].Current().Set(), s.peers[0].current.Set(), s.peers[1].current.Set()}
	v, err := s.absorb(s.operators[0], sets...)
	if err != nil {
		return fmt.Errorf("the last absorb: %w", err)
	}
	for i, p := range s.peers {
		if err := p.offer(v); err != nil {
			return fmt.Errorf("peer %d: %w", i, err)
		}
	}
	if got, want := v.Head(), s.publisher.Current().Head(); got != want {
		return fmt.Errorf("head %d after absorbing release %d", got, want)
	}
	return s.close()
}

func (s *story) close() error {
	return errors.Join(s.publisher.Close(), s.operators[0].Close(), s.operators[1].Close())
}

func (s *story) step(choose func(n int) int) error {
	peer, op := s.peers[choose(2)], s.operators[choose(2)]
	someone := []*Folder{s.publisher, op}[choose(2)]
	switch choose(5) {
	case 0:
		n := s.publisher.Current().Head() + 1
		m := manifest(s.t, n, s.last, fmt.Sprint("release ", n))
		s.last = m
		_, err := s.publisher.AddRelease(n, m)
		return err
	case 1:
		n := op.Current().Head()
		if n == 0 {
			return nil
		}
		s.serials[n]++
		_, err := op.AddOrder(n, s.serials[n], fmt.Appendf(nil, "order %d.%d", n, s.serials[n]))
		return err
	case 2:
		return someone.Refresh(0)
	case 3:
		_, err := s.absorb(someone, peer.current.Set(), s.publisher.Current().Set())
		if someone == s.publisher && errors.Is(err, ErrNoKey) {
			return nil // a union of two operators' files is an operator's to sign
		}
		return err
	default:
		_ = peer.offer(someone.Current()) // the peer may well know better
		return nil
	}
}

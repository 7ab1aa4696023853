package cluster

import "testing"

// TestPorts: nobody is given what another has reserved and does not use yet.
func TestPorts(t *testing.T) {
	taken := map[int]bool{}
	for range 40 {
		p, err := ReservePorts(blockSize + 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Release(); err != nil {
				t.Error(err)
			}
		})
		for port := p.First; port <= p.First+blockSize; port++ {
			if taken[port] || port < firstBlock || port >= 32768 {
				t.Fatalf("port %d is given to a second", port)
			}
			taken[port] = true
		}
	}
	all := &Ports{}
	if all.take(0, blocks) {
		t.Error("blocks that are taken can be taken")
	}
	if err := all.Release(); err != nil {
		t.Error(err)
	}
	p, err := ReservePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	again := &Ports{}
	if !again.take((p.First-firstBlock)/blockSize, 1) {
		t.Error("what was given back cannot be taken")
	}
	if err := again.Release(); err != nil {
		t.Error(err)
	}
}

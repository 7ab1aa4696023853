package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Reserved ports come in blocks, below those that the kernel gives to whoever asks for
// any. Whoever holds a block listens at its token, a port that is used for nothing else.
const (
	firstToken = 15000
	firstBlock = 15600
	blockSize  = 32
	blocks     = (32768 - firstBlock) / blockSize
)

// Ports are ports in a row of 127.0.0.1. Nobody else who reserves ports here is given
// them, in this process or another, so those that are to be used later stay free.
type Ports struct {
	First  int
	tokens []net.Listener
}

// ReservePorts finds n ports that are free.
func ReservePorts(n int) (*Ports, error) {
	need := (n + blockSize - 1) / blockSize
	for range 200 {
		block := rand.IntN(blocks - need + 1)
		p := &Ports{First: firstBlock + block*blockSize}
		if p.take(block, need) && allFree(p.First, n) {
			return p, nil
		}
		if err := p.Release(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("reserve %d ports in a row on 127.0.0.1: none found in 200 tries", n)
}

func (p *Ports) take(block, need int) bool {
	for i := range need {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstToken+block+i))
		if err != nil {
			return false
		}
		p.tokens = append(p.tokens, l)
	}
	return true
}

// Release gives the ports back. It may be called again, and of nil.
func (p *Ports) Release() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, l := range p.tokens {
		errs = append(errs, l.Close())
	}
	p.tokens = nil
	return errors.Join(errs...)
}

func allFree(base, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
		if err != nil {
			return false
		}
		if err := l.Close(); err != nil {
			return false
		}
	}
	return true
}

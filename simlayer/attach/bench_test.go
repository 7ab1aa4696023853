//go:build linux

package attach

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// The benchmarks measure an attached address against a plain listener of the
// same software, in turns within one run. ratio is the plain time by the
// attached one, of medians, so 1.00 is free and less is slower; noise is the
// same for plain against plain.

// rig is two plain addresses and an attached one, each served by a process.
type rig struct{ plain, again, attached string }

func pairRig(b *testing.B) rig {
	p := newPair(b, "127.0.0.1:0")
	startNode(b, p)
	if err := p.Point(true); err != nil {
		b.Fatal(err)
	}
	_, one := ownNode(b, "127.0.0.1:0")
	_, two := ownNode(b, "127.0.0.1:0")
	return rig{one.String(), two.String(), p.Addr().String()}
}

func steerRig(b *testing.B) rig {
	s := openedSteer(b, pinFolder(b))
	addr := public(b, "127.0.0.1:0")
	node, at := ownNode(b, "127.0.0.1:0")
	mustPoint(b, s, "tcp", addr, node, at)
	_, one := ownNode(b, "127.0.0.1:0")
	_, two := ownNode(b, "127.0.0.1:0")
	return rig{one.String(), two.String(), addr.String()}
}

func BenchmarkDial(b *testing.B) {
	const dials = 100
	for name, make := range map[string]func(*testing.B) rig{"pair": pairRig, "steer": steerRig} {
		b.Run(name, func(b *testing.B) {
			compare(b, make(b), dials, func(addr string) error {
				for range dials {
					if err := dialOnce(addr); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// dialOnce makes one connection for one call. It ends it by a reset: ports that
// wait to be used again would make each next dial slower than the last.
func dialOnce(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	got, err := askConn(c)
	if err == nil && got != "node" {
		err = fmt.Errorf("%s answered at %s", got, addr)
	}
	return err
}

func BenchmarkRequest(b *testing.B) {
	const requests = 500
	for name, make := range map[string]func(*testing.B) rig{"pair": pairRig, "steer": steerRig} {
		b.Run(name, func(b *testing.B) {
			conns := map[string]net.Conn{}
			compare(b, make(b), requests, func(addr string) error {
				c := conns[addr]
				if c == nil {
					var err error
					if c, err = net.Dial("tcp", addr); err != nil {
						return err
					}
					b.Cleanup(func() { c.Close() })
					conns[addr] = c
				}
				r := bufio.NewReader(c)
				for range requests {
					if _, err := io.WriteString(c, "who\n"); err != nil {
						return err
					}
					if _, err := r.ReadSlice('\n'); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// compare runs a batch against each address in turn and reports medians.
func compare(b *testing.B, r rig, batch int, run func(addr string) error) {
	b.Helper()
	addrs := []string{r.plain, r.attached, r.again}
	times := make([][]time.Duration, len(addrs))
	for n := 0; b.Loop(); n++ {
		for i := range addrs {
			i = (i + n) % len(addrs) // nobody is always first
			begin := time.Now()
			if err := run(addrs[i]); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], time.Since(begin))
		}
	}
	plain, attached, again := median(times[0]), median(times[1]), median(times[2])
	b.ReportMetric(plain/attached, "ratio")
	b.ReportMetric(plain/again, "noise")
	b.ReportMetric(float64(batch)/attached*float64(time.Second), "attached/s")
	b.ReportMetric(float64(batch)/plain*float64(time.Second), "plain/s")
	b.ReportMetric(0, "ns/op")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2])
}

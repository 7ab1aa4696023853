package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePorts finds n ports in a row that are free now, below those that the kernel
// gives to whoever asks for any.
func FreePorts(n int) (int, error) {
	for range 100 {
		base := 15000 + rand.IntN(17768-n)
		if allFree(base, n) {
			return base, nil
		}
	}
	return 0, fmt.Errorf("find %d free ports in a row on 127.0.0.1: none found in 100 tries", n)
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

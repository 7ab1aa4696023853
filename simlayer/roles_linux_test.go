package simlayer

import "os"

// benchRole tells the test binary to be one of the servers of BenchmarkRelay.
const benchRole = "MOULT_BENCH_ROLE"

// playRole is the test binary where it was run as something else.
func playRole() bool {
	if role := os.Getenv(benchRole); role != "" {
		serveBench(role)
		return true
	}
	if node := os.Getenv(idleRole); node != "" {
		serveIdle(node)
		return true
	}
	return false
}

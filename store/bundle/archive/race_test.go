//go:build race

package archive

// step thins out the tests that try every byte: they have no goroutines, and
// take eight times as long under the race detector.
const step = 11

//go:build !race

package archive

// step is how far apart the tests that try every byte look.
const step = 1

//go:build wasip1

// Package guest is what a simulation object in Go needs of its host: the functions
// of http-wasm's handler ABI and of the module moult, in Go's terms. Authors may copy
// it. The ABI is described in the doc of moult/simlayer/so/wasm.
package guest

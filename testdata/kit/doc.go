// Package kit is what the tests of several packages share: waiting for what other
// goroutines and processes do, programs built once, and processes looked at.
package kit

// Package kit is what the tests of several packages share: programs built once,
// the test's own program as a child, processes looked at, and waiting for what gives
// no sign. Package kit/bundles makes trust folders and releases.
package kit

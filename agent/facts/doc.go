// Package facts asks the node's software for the numbers that its node publishes of itself:
// by HTTP, as a value of a JSON document or the sum of some series of a page of metrics in
// Prometheus' text format, or by a program of the release, which runs as the checks of its
// health do.
//
// What is asked is bounded in time and length. What is no finite number is no number: then
// the fact has a state and a reason instead. Nothing is decided here: what is worth to be
// published package node says.
package facts

// Package chart draws how a simulated rollout went: above, the share of the nodes that serve
// and that have settled; below, how many are down, each over the time since the order.
//
// A Series takes what agent/fleet tells on the way, and has at most so many points however
// large the fleet is and however long the rollout takes: time is cut into spans of equal
// length, and of each span it keeps when the fewest were down, when the most were, and how it
// ended. So no extreme is lost.
//
// What is drawn follows from the series and the title alone: equal runs make equal bytes.
// Colours are those of Okabe and Ito, which people who confuse red and green tell apart, and
// of two lines in one panel one is dashed.
package chart

package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"moult/store/bundle"
)

// Bounds reports whether the strategy of a class bounds how many of its nodes are down at
// once.
func (c *ClassOrder) Bounds() bool {
	return c.Strategy != bundle.StrategyAtOnce && c.Strategy != bundle.StrategyRandom
}

// drawEvery is how often a node draws a number under bundle.StrategyRandom.
const drawEvery = time.Minute

// byChance makes a node wait under bundle.StrategyRandom until its number comes up. Each
// minute, by its own clock, it draws one, which is a hash of the release, the node and the
// minute; the chance is such that of all that are left about Rate go in an hour. So a rollout
// that was paused does not go all at once when it is resumed. What has come up counts for the
// next minute too: meanwhile the node looks whether it could go.
func (d *decision) byChance() (Decision, bool) {
	if d.class.Strategy != bundle.StrategyRandom || d.now {
		return Decision{}, false
	}
	left := max(1, d.counts.open.n)
	chance := float64(d.class.Rate) * drawEvery.Hours() / float64(left)
	minute := d.Now.Unix() / int64(drawEvery/time.Second)
	if d.draws(minute) < chance || d.draws(minute-1) < chance {
		return Decision{}, false
	}
	next := drawEvery - d.Now.Sub(time.Unix(minute*int64(drawEvery/time.Second), 0))
	text := fmt.Sprintf("it goes by chance, about %d of class %s in an hour, and %d are left: its number has not come up", d.class.Rate, d.Class, left)
	return Decision{Reason: Reason{Code: CodeChance, Text: text, Command: d.nowCommand(), Retry: max(time.Second, next)}}, true
}

// draws is the node's number in a minute, at least 0 and less than 1.
func (d *decision) draws(minute int64) float64 {
	text := append(d.order.Manifest[:], d.Self[:]...)
	hash := sha256.Sum256(binary.BigEndian.AppendUint64(text, uint64(minute)))
	return float64(binary.BigEndian.Uint64(hash[:])>>11) / math.Exp2(53)
}

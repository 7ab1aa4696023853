package objects

import "time"

const (
	minPause = time.Second // between two tries of what must succeed; it grows
	maxPause = 30 * time.Second
	// placePause is when what was not here is looked for again.
	placePause = 500 * time.Millisecond
)

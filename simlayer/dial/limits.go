package dial

import "time"

const (
	// DefaultTTL is how long an answer is kept where Dialer.TTL is 0.
	DefaultTTL = time.Second
	// maxAnswers bounds the answers that are kept.
	maxAnswers = 4096
	// maxAnswer bounds what is read of one answer, in bytes.
	maxAnswer = 64 << 10
	// askTimeout bounds one question to the agent.
	askTimeout = 5 * time.Second
	// agentWait bounds the wait for an agent that is away, where nothing is known.
	agentWait = 10 * time.Second
	// The pauses between questions grow from the first to the second.
	minPause = 20 * time.Millisecond
	maxPause = 500 * time.Millisecond
)

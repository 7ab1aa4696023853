package control

import "time"

const (
	// RetryAfter is what callers are told while a process is not there.
	RetryAfter = time.Second

	// maxFrame bounds one message on the control socket, in bytes.
	maxFrame = 4 << 20
	// maxPassed bounds the sockets that one message carries (SCM_MAX_FD is 253).
	maxPassed = 200
)

package software

import "time"

const (
	// maxRecord bounds the record of the running software, in bytes: it has two
	// commands of at most 1 MiB, and JSON may write a byte as six.
	maxRecord = 16 << 20
	// earlyExit: software that ends sooner may have found its port taken.
	earlyExit = 10 * time.Second
	// privateTries bounds how often a port is looked for that is free for both networks.
	privateTries = 20
	// maxLine bounds a line of LastLines, in bytes.
	maxLine = 400
)

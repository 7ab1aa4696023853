package attach

const (
	// DefaultEntries is how many addresses a Steer can hold where Options does
	// not say. An address [::]:port may take two.
	DefaultEntries = 256
	// MaxEntries bounds Options.Entries.
	MaxEntries = 65536

	// maxPids bounds the processes that Take looks into and Family returns.
	maxPids = 4096
	// maxProcesses bounds the processes of the machine that Family reads.
	maxProcesses = 1 << 17
	// maxDescriptors bounds the descriptors of one process that Take looks at.
	maxDescriptors = 1 << 18
	// maxListeners bounds the lines of /proc/net/tcp and udp that are read to count
	// the sockets of an address.
	maxListeners = 1 << 16
	// maxLine bounds a line of a file in /proc, in bytes.
	maxLine = 1 << 16
	// maxPinned bounds the names read in the folder of a Steer.
	maxPinned = 256
)

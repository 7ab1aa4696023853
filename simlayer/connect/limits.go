package connect

const (
	// MaxEntries bounds a Table.
	MaxEntries = 1 << 16
	// maxSent bounds the memory of who is called by what address in datagrams
	// that are sent unconnected. Past it the longest unused is forgotten, and its
	// answers seem to come from where they come from.
	maxSent = 1 << 14
	// maxBinds bounds the addresses of a Binder.
	maxBinds = 256
	// maxName bounds Options.Name, in bytes.
	maxName = 64
)

package relay

// MaxTries bounds how often a call is made that fails at a node that accepts
// connections.
const MaxTries = 3

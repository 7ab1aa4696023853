package status

// maxNames is how many nodes are named before a reason that they share.
const maxNames = 6

// leastListed is how many nodes that need a look are listed, however small the screen.
const leastListed = 3

// leastName is how much of a name is shown on the narrowest screen: names differ at their ends.
const leastName = 30

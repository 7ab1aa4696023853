package simlayer

// relay2 gives a connection of HTTP/2 to the callProxy.
func (f *front) relay2() bool {
	f.setHand()
	return false
}

//go:build !linux

package simlayer

// There are no lanes on this system, so no call is in one.

func (c *lean) laneRead(*[]byte, int) (*[]byte, int, error) { return nil, 0, nil }

func (c *lean) tell(u *upstream) (int, error) { return u.conn.Write(c.out) }

func (c *lean) say(text []byte) error {
	_, err := c.front.conn.Write(text)
	return err
}

func (c *lean) alive(u *upstream) bool { return u.in.alive() }

package transforms

import (
	"errors"
	"fmt"

	"moult/store/durable"
)

// NeedBytes returns how many free bytes a transform from the slot old needs:
// room for a new slot of the same size, for throw-away copies of it and of what
// else the program is given (a future object's state) where they cannot be
// mounted read-only, and the reserve. A transform whose state grows needs more;
// the caller adds what it knows.
func NeedBytes(old string, given ...string) (int64, error) {
	u, err := measure(old)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", old, err)
	}
	need := u.disk
	if mayMount() {
		return need + diskReserve, nil
	}
	for _, dir := range append([]string{old}, given...) {
		u, err := measure(dir)
		if err != nil {
			return 0, fmt.Errorf("measure %s: %w", dir, err)
		}
		need += u.disk
	}
	return need + diskReserve, nil
}

// RehearsalBytes is NeedBytes for a rehearsal, which begins with a copy of all that.
func RehearsalBytes(old string, given ...string) (int64, error) {
	need, err := NeedBytes(old, given...)
	for _, dir := range append([]string{old}, given...) {
		u, measureErr := measure(dir)
		err = errors.Join(err, measureErr)
		need += u.disk
	}
	return need, err
}

// CheckSpace returns an error unless the disk of dir has need free bytes.
func CheckSpace(dir string, need int64) error {
	free, err := durable.FreeSpace(dir)
	if err != nil {
		return err
	}
	if free < need {
		return fmt.Errorf("the disk of %s has %s free, %s are needed: free some, or move the data folder", dir, size(free), size(need))
	}
	return nil
}

// size is a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

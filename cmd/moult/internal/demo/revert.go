package demo

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
)

// backAndForth has the release taken back, and gone forward to again, while clients call. It
// returns how long each took.
func (d *demo) backAndForth(ctx context.Context) (took []bundle.Duration, last control.Status, err error) {
	for _, turn := range []struct {
		undo  bool
		story string
	}{
		{false, "release 2 is taken back; what its clients have written goes back with it"},
		{true, "forward again: what version 1 could not hold was kept aside, and comes back"},
	} {
		if err := wait(ctx, warmUp/2); err != nil { // there is something to lose
			return nil, last, err
		}
		d.say("%s", turn.story)
		began := time.Now()
		if err := d.injector().Turn(ctx, cluster.Trust(d.dir), turn.undo); err != nil {
			return nil, last, err
		}
		if last, err = d.follow(ctx, operator.Goal{Release: 2, Back: !turn.undo}); err != nil {
			return nil, last, err
		}
		took = append(took, bundle.Duration(time.Since(began)))
	}
	return took, last, nil
}

// Reversible gives the release of a spec that WriteSpec has written, of version 2, the way back.
func Reversible(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const forward = `exec = ["./kv", "sample-node", "2", "migrate"]`
	if strings.Count(string(data), forward) != 1 {
		return fmt.Errorf("%s is no spec of release 2: it has no %s", path, forward)
	}
	text := strings.Replace(string(data), forward, forward+"\n      reverse {\n        exec = [\"./kv\", \"sample-node\", \"2\", \"back\"]\n      }", 1)
	return os.WriteFile(path, []byte(text), 0o600)
}

package trust

import (
	"errors"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Publisher and operator may be one, with one key or two. What that key signs in the one
// role is nothing in the other, it counts once in each, and each is taken from it apart.
func TestOneKeyInTwoRoles(t *testing.T) {
	one, fresh := testKey(t, "both"), testKey(t, "fresh")
	both := func(c *cluster, publisher, operator *signingKey) {
		c.publisher, c.operator = publisher, operator
		c.signTargets, c.signOperator = []*signingKey{publisher}, []*signingKey{operator}
		c.signSnapshot, c.signTimestamp = []*signingKey{operator}, []*signingKey{operator}
	}
	// replaced has a second root, whose keys are these, and goes on signing by one.
	replaced := func(c *cluster, publisher, operator *signingKey) {
		both(c, publisher, operator)
		c.roots = append(c.roots, c.makeRoot(2, nil, c.root))
		c.versions.Root = 2
	}
	for _, tc := range []struct {
		name   string
		class  error // nil: accepted
		change func(c *cluster)
	}{
		{"publisher and operator", nil, func(*cluster) {}},
		{"root, too", nil, func(c *cluster) {
			c.root = one
			c.roots = [][]byte{c.makeRoot(1, nil, one)}
		}},
		{"counted for two publishers", ErrUntrusted, func(c *cluster) {
			c.roots = [][]byte{c.makeRoot(1, func(r *metadata.RootType) {
				if err := r.AddKey(fresh.public, metadata.TARGETS); err != nil {
					t.Fatal(err)
				}
				r.Roles[metadata.TARGETS].Threshold = 2
			}, c.root)}
		}},
		{"a release among the orders", ErrMalformed, func(c *cluster) {
			c.onOperator = func(s *metadata.TargetsType) { s.Targets["releases/3.json"] = target(refOf([]byte("x"))) }
		}},
		{"an order among the releases", ErrMalformed, func(c *cluster) {
			c.onTargets = func(s *metadata.TargetsType) { s.Targets["rollouts/1.json"] = target(refOf([]byte("x"))) }
		}},
		{"its releases for its orders", ErrMalformed, func(c *cluster) {
			c.onOperator = func(s *metadata.TargetsType) {
				*s = metadata.Targets(s.Expires).Signed
				s.Version, s.Delegations = c.versions.Operator, delegation(one)
			}
		}},
		{"its orders for its releases", ErrMalformed, func(c *cluster) {
			c.onTargets = func(s *metadata.TargetsType) {
				*s = metadata.Targets(s.Expires).Signed
				s.Version = c.versions.Targets
			}
		}},
		{"replaced as the publisher, and it signs orders", nil, func(c *cluster) { replaced(c, fresh, one) }},
		{"replaced as the publisher, and it signs releases", ErrUntrusted, func(c *cluster) {
			replaced(c, fresh, one)
			c.signTargets = []*signingKey{one}
		}},
		{"replaced as the operator, and it signs releases", nil, func(c *cluster) { replaced(c, one, fresh) }},
		{"replaced as the operator, and it signs orders", ErrUntrusted, func(c *cluster) {
			replaced(c, one, fresh)
			c.signOperator = []*signingKey{one}
		}},
		{"replaced as both, and it signs releases", ErrUntrusted, func(c *cluster) {
			replaced(c, fresh, fresh)
			c.signTargets = []*signingKey{one}
		}},
		{"replaced as both, and it signs orders", ErrUntrusted, func(c *cluster) {
			replaced(c, fresh, fresh)
			c.signOperator = []*signingKey{one}
		}},
		{"replaced as both, and it signs a timestamp", ErrUntrusted, func(c *cluster) {
			replaced(c, fresh, fresh)
			c.signTimestamp = []*signingKey{one}
		}},
	} {
		c := newCluster(t)
		both(c, one, one)
		c.roots = [][]byte{c.makeRoot(1, nil, c.root)}
		tc.change(c)
		_, err := Verify(c.first(), nil, c.set())
		if (err == nil) != (tc.class == nil) || !errors.Is(err, tc.class) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.class)
		}
	}
}

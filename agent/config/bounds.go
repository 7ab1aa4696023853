package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2/gohcl"

	"moult/agent/account/bounds"
)

// setBounds takes what the node's programs are held to.
func (h agentHCL) setBounds(c *Config) error {
	var b bounds.Bounds
	var errs []error
	if h.Rlimits != nil {
		b.Limits = map[string]uint64{}
		for _, name := range slices.Sorted(maps.Keys(h.Rlimits.All)) {
			var word string // numbers are taken as texts, too
			if diags := gohcl.DecodeExpression(h.Rlimits.All[name].Expr, nil, &word); diags.HasErrors() {
				errs = append(errs, fmt.Errorf("rlimits: %s: want a number, or \"unlimited\": %w", name, diags))
				continue
			}
			n, err := strconv.ParseUint(word, 10, 63)
			if word == "unlimited" {
				n, err = bounds.Unlimited, nil
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("rlimits: %s = %q: want a number of bytes, files or the like, or \"unlimited\"", name, word))
			}
			b.Limits[name] = n
		}
	}
	if h.Umask != nil {
		n, err := strconv.ParseUint(*h.Umask, 8, 32)
		if err != nil {
			errs = append(errs, fmt.Errorf("umask = %q: want octal digits in quotes, such as \"027\"", *h.Umask))
		}
		mask := uint32(n)
		b.Umask = &mask
	}
	b.OOMScore = h.OOMScore
	if len(b.Limits) > 0 || b.Umask != nil || b.OOMScore != nil {
		c.Bounds = &b
	}
	return errors.Join(errs...)
}

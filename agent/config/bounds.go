package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/gohcl"

	"moult/agent/account/bounds"
	"moult/agent/account/cgroup"
)

// setBounds takes what the node's programs are held to.
func (h agentHCL) setBounds(c *Config, dir string) error {
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
	if h.CPUWeight != nil {
		if b.Together.CPUWeight = *h.CPUWeight; b.Together.CPUWeight == 0 {
			errs = append(errs, errors.New("cpu_weight = 0: want 1 to 10000; 100 is what others have"))
		}
	}
	if h.MemoryMax != nil {
		n, err := bytes(*h.MemoryMax)
		errs = append(errs, err)
		b.Together.MemoryMax = n
	}
	if set(&b.WorkingDir, h.WorkingDir); h.WorkingDir != nil {
		b.WorkingDir = from(dir, b.WorkingDir)
	}
	if len(b.Limits) > 0 || b.Umask != nil || b.OOMScore != nil || b.WorkingDir != "" || b.Together != (cgroup.Limits{}) {
		c.Bounds = &b
	}
	return errors.Join(errs...)
}

// bytes reads an amount of memory.
func bytes(text string) (uint64, error) {
	digits, unit := text, uint64(1)
	for i, name := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if s, ok := strings.CutSuffix(text, name); ok {
			digits, unit = strings.TrimRight(s, " "), 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("memory_max = %q: want a number of bytes, such as 1073741824, \"512MiB\" or \"10GiB\"", text)
	}
	return n * unit, nil
}

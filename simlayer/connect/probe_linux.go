package connect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Probe reports why Open would fail with these options, in words; nil if nothing
// is known that is in its way. It loads the programs, attaches none, and leaves
// nothing behind. An empty Dir is not looked at.
func Probe(o Options) error {
	if err := probe(o); err != nil {
		return fmt.Errorf("connect: %w", explain(err))
	}
	return nil
}

func probe(o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	parent := o.Cgroup
	if parent == "" {
		mount, err := findCgroup2()
		if err != nil {
			return err
		}
		parent = mount
	}
	if err := checkCgroup(parent); err != nil {
		return err
	}
	if err := unix.Access(parent, unix.W_OK); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make a cgroup below %s: %w", parent, err)
	}
	if o.Dir != "" {
		if err := checkDir(o.Dir); err != nil {
			return err
		}
	}
	return loadAll()
}

// loadAll loads the programs and lets go of them.
func loadAll() (err error) {
	var m shared
	defer func() { err = errors.Join(err, m.close()) }()
	specs := newSpecs()
	for _, one := range []struct {
		m    **ebpf.Map
		spec *ebpf.MapSpec
	}{{&m.table, specs.table}, {&m.dialled, specs.dialled}, {&m.sent, specs.sent}} {
		if *one.m, err = ebpf.NewMap(one.spec); err != nil {
			return fmt.Errorf("make a BPF map: %w", err)
		}
	}
	for _, h := range hooks() {
		prog, err := ebpf.NewProgram(h.spec(m))
		if err != nil {
			return fmt.Errorf("load the program for %s: %w", h.name, err)
		}
		if err := prog.Close(); err != nil {
			return err
		}
	}
	return nil
}

// explain adds to an error of the kernel what to do about it.
func explain(err error) error {
	_, verifier := errors.AsType[*ebpf.VerifierError](err)
	switch {
	case errors.Is(err, ErrNotSupported):
		return err
	case verifier && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: this kernel does not take the programs (%w)", err, ErrNotSupported)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: the kernel is too old or built without BPF for cgroups; it takes Linux 5.11 with CONFIG_CGROUP_BPF (%w)", err, ErrNotSupported)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: run the agent as root, or with CAP_BPF and CAP_NET_ADMIN and a cgroup that it may write; user %d may not (%w)", err, os.Geteuid(), ErrNotSupported)
	}
	return err
}

//go:build !unix

package account

import (
	"os/exec"

	"moult/agent/account/cgroup"
	"moult/agent/account/sandbox"
)

func lacks() error { return nil }

// Run calls f: agents do not run on this system.
func (a *Account) Run(f func() error) error { return f() }

// RunIn calls f.
func (a *Account) RunIn(_ *cgroup.Group, _ *sandbox.Sandbox, f func() error) error { return f() }

// Dress does nothing here.
func (a *Account) Dress(*exec.Cmd) {}

// Start starts cmd.
func (a *Account) Start(_ *cgroup.Group, _ *sandbox.Sandbox, cmd *exec.Cmd) error { return cmd.Start() }

// KeptFrom reports nothing here.
func (a *Account) KeptFrom(string, ...string) error { return nil }

// HiddenFrom reports nothing here.
func (a *Account) HiddenFrom(string) error { return nil }

// OpenTo says nothing here.
func (a *Account) OpenTo(string) string { return "" }

// Reaches reports nothing here.
func (a *Account) Reaches(string) error { return nil }

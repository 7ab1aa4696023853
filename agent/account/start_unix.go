//go:build unix

package account

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"moult/agent/account/cgroup"
	"moult/agent/account/sandbox"
)

// Run calls f where what it starts begins without rights that the account must not
// have: on a thread of the operating system of its own, which is thrown away. A process
// that ends with the thread that starts it, ends when f returns. f starts what it
// starts with Dress.
func (a *Account) Run(f func() error) error {
	if a == nil {
		return f()
	}
	return Aside(func() error {
		if err := a.Drop(); err != nil {
			return err
		}
		return f()
	})
}

// RunIn is Run for what works in a group and a sandbox, or by nil in none. In a sandbox, also where
// there is no account, what f starts begins without what it has no use for: see [Account.Drop].
func (a *Account) RunIn(g *cgroup.Group, s *sandbox.Sandbox, f func() error) error {
	if g == nil && s == nil {
		return a.Run(f)
	}
	return Aside(func() error {
		err := errors.Join(g.Enter(), s.Enter())
		if a != nil || s != nil {
			err = errors.Join(err, a.Drop())
		}
		if err != nil {
			return err
		}
		return f()
	})
}

// Aside calls f on a thread of the operating system of its own, which is thrown away with
// what f has made of it.
func Aside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if !isMainThread() {
			// Never unlocked: the thread ends with this goroutine.
			done <- f()
			return
		}
		// The main thread stands for the whole process. While it is occupied here,
		// another is found.
		defer runtime.UnlockOSThread()
		done <- Aside(f)
	}()
	return <-done
}

// Dress has cmd, whose SysProcAttr is set, begin as the account.
func (a *Account) Dress(cmd *exec.Cmd) {
	if !a.Others() {
		return
	}
	c := &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID)}
	for _, g := range a.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	cmd.SysProcAttr.Credential = c
}

// Start starts cmd as the account, in a group and a sandbox as for RunIn, for one that outlives
// the thread that starts it.
func (a *Account) Start(g *cgroup.Group, s *sandbox.Sandbox, cmd *exec.Cmd) error {
	a.Dress(cmd)
	done, err := g.Begin(cmd.SysProcAttr)
	if err != nil {
		return err
	}
	defer done()
	return a.RunIn(g, s, cmd.Start)
}

// Reaches reports whether the account's programs can begin in a folder: whether it can
// be entered, and whether the agent may become the account at all.
func (a *Account) Reaches(dir string) error {
	if !a.Others() {
		return nil
	}
	// What is to be run is not there, so nothing is: the folder is entered before that
	// is found out.
	cmd := &exec.Cmd{Path: "/nonexistent/moult", Args: []string{"moult"}, Dir: dir, SysProcAttr: &syscall.SysProcAttr{}, Env: []string{}}
	err := a.Start(nil, nil, cmd)
	switch {
	case err == nil:
		return errors.Join(errors.New("a program that is not there was started"), cmd.Wait())
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return fmt.Errorf("begin in %s as user %s: %w: each folder above it must let that user through (`chmod o+x`)", dir, a.Name, err)
}

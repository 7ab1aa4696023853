package selfupdate

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"moult/agent/config"
	"moult/agent/home"
	"moult/store"
	"moult/store/bundle"
)

// Start decides which build is the agent, before anything else of the agent begins: this
// process becomes that build, or goes on with the folder. A trial that was interrupted ends
// here. Where something is wrong with the builds, this program runs, and State and the log say
// so: a node has its agent. The error is that of a store which a build on trial has damaged, and
// which cannot be put back.
func Start(cfg config.Config, log *slog.Logger) (*Folder, error) {
	f := Open(cfg.Data, log)
	if f.role.kind == onTrial {
		return f, nil
	}
	if _, err := os.Stat(f.dir); errors.Is(err, fs.ErrNotExist) {
		f.role = role{} // no folder, no builds
		return f, nil
	}
	if err := f.take(); err != nil {
		f.problem = errors.Join(f.problem, err)
	}
	if f.problem != nil {
		log.Error("which build of the agent is good is not known, so the one that was started runs", "err", f.problem)
		return f, nil
	}
	if f.role.kind == "" {
		f.choose()
	}
	if f.doc.Trial != nil {
		return f, f.interrupted(cfg)
	}
	return f, nil
}

// choose becomes the confirmed build, if that is to run. It returns where this program is.
func (f *Folder) choose() {
	b := f.doc.Confirmed
	if b == nil {
		return
	}
	own, err := f.Own()
	if err != nil {
		f.log.Error("this program cannot be read, so it runs, whatever build is confirmed", "err", err)
		return
	}
	path := f.path(b.Digest)
	note := func(change func(*document)) {
		if err := f.change(change); err != nil {
			f.log.Error("what was decided of the agent's builds is not kept", "err", err)
		}
	}
	giveUp := func(reason string) {
		f.log.Error("a build of the agent is given up, and the packaged program runs", "build", b.Digest.Short(), "reason", reason)
		note(func(d *document) {
			d.fail(Failure{Build: *b, Reason: reason, At: f.now()})
			d.Confirmed, d.Starts, d.Packaged = nil, 0, bundle.Digest{}
		})
	}
	switch {
	case own == b.Digest || own != f.doc.Packaged:
		f.log.Info("a package was installed since another build of the agent was confirmed, and wins", "build", b.Digest.Short())
		note(func(d *document) { d.Confirmed, d.Starts, d.Packaged = nil, 0, bundle.Digest{} })
		return
	case f.doc.Starts >= MaxStarts:
		giveUp(fmt.Sprintf("it has ended %d times in a row before it was up", f.doc.Starts))
		return
	}
	if err := verify(path, b.Digest); err != nil {
		giveUp(err.Error())
		return
	}
	note(func(d *document) { d.Starts++ })
	packaged, err := os.Executable()
	if err == nil {
		err = become(path, environment(role{kind: confirmed, digest: b.Digest, packaged: packaged}))
	}
	giveUp(err.Error())
}

// interrupted ends a trial in which this agent's process has ended, with the machine or by
// itself. The build is not confirmed, and nothing speaks against it but that.
func (f *Folder) interrupted(cfg config.Config) error {
	b := f.doc.Trial.Build
	v := verdict{again: true, reason: "the trial was interrupted: the agent's process ended in it"}
	if err := endOrphan(cfg.Data, f.path(b.Digest)); err != nil {
		f.log.Error("a build on trial may still run", "err", err)
	}
	_, err := f.settle(cfg, b, v)
	return err
}

// verdict is what came of a trial.
type verdict struct {
	well   bool
	again  bool
	reason string
}

// settle ends a trial: what it has left is verified, and put back where it must be, and the
// verdict written down. It returns the verdict that stands. An error means that the store is
// damaged and cannot be put back: no agent may go on from it, and the next start tries again.
func (f *Folder) settle(cfg config.Config, b Build, v verdict) (verdict, error) {
	damaged, err := f.examine(cfg)
	if err != nil {
		// Where nothing can be said, as on a full disk, nothing is said against the build.
		v = verdict{again: v.again || !damaged, reason: joined(v.reason, "what it has left behind is not good: "+err.Error())}
	}
	if damaged {
		why := fmt.Sprintf("%v of the agent was on trial, and left the store damaged; what was there before is put back", b)
		if err := store.PutBack(cfg.Data, f.before(), why, store.Options{Log: f.log}); err != nil {
			return v, fmt.Errorf("%v of the agent was on trial, and has left the store damaged; what was there before is in %s, and cannot be put back: %w: see to that, and start the agent again", b, f.before(), err)
		}
	}
	// Before it is written down: a copy that is there at the next start is compared with what
	// the store is by then.
	if err := f.clear(); err != nil {
		f.log.Error("the copy of the store stays that was made before the trial", "err", err)
	}
	if err := f.note(b, v); err != nil {
		f.log.Error("what came of the trial is not written down", "err", err)
		if v.well {
			return verdict{reason: err.Error(), again: true}, nil
		}
		return v, nil
	}
	if !v.well {
		f.log.Error("a build of the agent was put back", "build", b.Digest.Short(), "reason", v.reason)
	}
	return v, nil
}

func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// note writes the verdict down.
func (f *Folder) note(b Build, v verdict) error {
	own, err := f.Own()
	if err != nil && v.well {
		return err
	}
	return f.change(func(d *document) {
		d.Trial = nil
		if !v.well {
			d.fail(Failure{Build: b, Reason: v.reason, At: f.now(), Again: v.again})
			return
		}
		if f.role.kind == "" {
			d.Packaged = own
		}
		d.Starts, d.Since = 0, f.now().UTC()
		d.forgive(func(g Failure) bool { return g.Digest == b.Digest })
		if d.Confirmed = &b; b.Digest == d.Packaged {
			d.Confirmed, d.Packaged = nil, bundle.Digest{}
		}
	})
}

func (f *Folder) before() string { return filepath.Join(f.dir, "before") }
func (f *Folder) after() string  { return filepath.Join(f.dir, "after") }

// examine reads, by this build, what a trial has left behind. damaged tells that it must be put
// back; an error without that, that nothing can be said.
func (f *Folder) examine(cfg config.Config) (damaged bool, err error) {
	if _, err := os.Stat(f.before()); err != nil {
		return false, nil // nothing was started before there was the copy
	}
	if store.Fatal(f.after()) {
		return true, errors.New("reading it has ended the agent's process")
	}
	if err := os.RemoveAll(f.after()); err != nil {
		return false, err
	}
	if err := store.Copy(cfg.Data, f.after()); err != nil {
		return false, err
	}
	old, err := home.Check(cfg, f.before(), f.log)
	if err != nil {
		return false, fmt.Errorf("the copy of before the trial: %w", err)
	}
	now, err := home.Check(cfg, f.after(), f.log)
	switch {
	case err != nil:
	case now.Node != old.Node || now.Cluster != old.Cluster:
		err = fmt.Errorf("it is of node %s now, and was of %s", now.Node.Short(), old.Node.Short())
	case now.Own < old.Own:
		err = fmt.Errorf("the node's own record is number %d, and was number %d", now.Own, old.Own)
	case now.Running != old.Running || now.Version < old.Version:
		err = fmt.Errorf("the node is at version %d and runs %d, and was at %d and ran %d", now.Version, now.Running, old.Version, old.Running)
	default:
		err = now.Standing.GoesOnFrom(old.Standing)
	}
	return err != nil, err
}

package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"moult/agent/control"
	"moult/agent/home"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/durable"
	"moult/transforms"
)

const (
	format       = 1
	manifestFile = "backup.json"
	maxManifest  = 64 << 10
	maxIdentity  = 64 << 10
	// copies is how often the state of objects is copied that is written to meanwhile.
	copies = 5
)

// Parts of a backup, each a folder but for the first.
const (
	partStore, partState, partObjects, partArtifacts = "store", "state", "objects", "artifacts"
)

// About says whose a backup is.
type About struct {
	Node    bundle.NodeID  `json:"node"`
	Cluster bundle.Digest  `json:"cluster"`
	Name    string         `json:"name"`
	Class   bundle.Class   `json:"class"`
	Version bundle.Version `json:"version"` // of the software that ran; 0: none did
	At      time.Time      `json:"at"`
	// Stateless: the state of the software is not in it.
	Stateless bool `json:"stateless,omitempty"`
}

type manifest struct {
	Format int `json:"format"`
	About
	Parts map[string]bundle.Digest `json:"parts"`
}

// Source is a node to be saved.
type Source struct {
	About
	Data string // its data folder
	// Store copies the store to a folder, which is made. State fills an empty folder with the state
	// of the software, as of one moment; nil: it is left out.
	Store func(to string) error
	State func(ctx context.Context, to string) error
	// Still is why what was copied does not belong together; nil: it does.
	Still func() error
	// One is held meanwhile, by one backup at a time; nil: nothing else can make one.
	One *sync.Mutex
}

// Whole is why a node is not saved; nil where it may be: nobody can go on from half of an upgrade,
// nor from what a node says that waits to hear what it has signed. The hint is for who upgrades.
func Whole(p upgrade.Phase, regaining bool, hint string) error {
	switch {
	case regaining:
		return control.Refused(errors.New("back up: this node was restored, and waits to hear from its peers what it has signed since"),
			"`moult status` says for whom it waits, and `moult skip` goes on without one")
	case p.Down() || p == upgrade.Probing:
		return control.Refused(fmt.Errorf("back up: this node is %s, in the midst of an upgrade", p), hint)
	}
	return nil
}

// Snapshot returns what fills a folder with the state of software that runs, by the job of a
// program that copies it to where its user gets.
func Snapshot(j transforms.Job, log *slog.Logger) func(ctx context.Context, to string) error {
	return func(ctx context.Context, to string) (err error) {
		if err := errors.Join(transforms.RemoveTree(j.New), os.Mkdir(j.New, 0o700), j.Account.Give(j.New)); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, transforms.RemoveTree(j.New)) }()
		r := transforms.Runner{Log: log}
		if _, err = r.Run(ctx, j); err == nil {
			_, err = r.Run(ctx, transforms.Job{Old: j.New, New: to})
		}
		return err
	}
}

// Make saves a node in the folder to, which must not be there. On an error nothing is.
func Make(ctx context.Context, s Source, to string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up to %s: %w", to, err)
		}
	}()
	if s.One != nil {
		if !s.One.TryLock() {
			return control.Refused(errors.New("another backup of this node is being made"), "try again when that has ended")
		}
		defer s.One.Unlock()
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, errors.New("it is there already: name a new folder"))
	}
	made := to + ".new"
	if err := os.Mkdir(made, 0o700); err != nil {
		return fmt.Errorf("%w; one that is left of a backup that was interrupted may be removed", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, transforms.RemoveTree(made))
		}
	}()
	m := manifest{Format: format, About: s.About, Parts: map[string]bundle.Digest{}}
	m.Stateless, m.At = s.State == nil, time.Now().UTC().Truncate(time.Second)
	if err := copyFile(filepath.Join(s.Data, home.IdentityFile), filepath.Join(made, home.IdentityFile)); err != nil {
		return err
	}
	if err := s.Store(filepath.Join(made, partStore)); err != nil {
		return err
	}
	if s.State != nil {
		slot := filepath.Join(made, partState, slotOf(s.Version))
		if err := os.MkdirAll(slot, 0o700); err != nil {
			return err
		}
		if err := s.State(ctx, slot); err != nil {
			return err
		}
	}
	for _, part := range []string{partObjects, partArtifacts} {
		if err := copyLive(ctx, filepath.Join(s.Data, part), filepath.Join(made, part), part == partObjects); err != nil {
			return err
		}
	}
	if s.Still != nil {
		if err := s.Still(); err != nil {
			return err
		}
	}
	if m.Parts, err = digests(made); err != nil {
		return err
	}
	data, err := json.Marshal(m)
	if err == nil {
		err = durable.WriteFile(filepath.Join(made, manifestFile), data, 0o600)
	}
	if err == nil {
		err = durable.SyncTree(made)
	}
	if err == nil {
		err = durable.Rename(made, to)
	}
	return err
}

func slotOf(v bundle.Version) string { return strconv.FormatUint(uint64(v), 10) }

func copyFile(from, to string) error {
	data, err := durable.ReadFile(from, maxIdentity)
	if err != nil {
		return err
	}
	return durable.WriteFile(to, data, 0o600)
}

// copyTree copies a folder to one that is made; where there is none, nothing.
func copyTree(ctx context.Context, from, to string, live bool) (torn bool, err error) {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return false, err
	}
	var r transforms.Runner
	result, err := r.Run(ctx, transforms.Job{Old: from, New: to, Live: live})
	return result.Torn, err
}

// copyLive copies what may be written to meanwhile; whole says that it must be of one moment.
func copyLive(ctx context.Context, from, to string, whole bool) error {
	for range copies {
		torn, err := copyTree(ctx, from, to, true)
		if err != nil || !torn || !whole {
			return err
		}
		if err := transforms.RemoveTree(to); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s is written to all the time: end the agent and the software, and try again", from)
}

// digests are those of all parts that there are.
func digests(dir string) (map[string]bundle.Digest, error) {
	all := map[string]bundle.Digest{}
	key, err := durable.ReadFile(filepath.Join(dir, home.IdentityFile), maxIdentity)
	if err != nil {
		return nil, err
	}
	all[home.IdentityFile] = bundle.Sum(key)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case slices.Contains([]string{manifestFile, home.IdentityFile}, name):
		case !slices.Contains([]string{partStore, partState, partObjects, partArtifacts}, name):
			return nil, fmt.Errorf("%s is no part of a backup", name)
		default:
			d, _, _, err := transforms.DigestTree(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			all[name] = d
		}
	}
	return all, nil
}

package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"moult/agent/home"
	"moult/store/bundle"
	"moult/store/durable"
	"moult/transforms"
)

// Look reads what a backup says of itself, and checks that all of it is as it was made.
func Look(dir string) (About, error) {
	m, err := look(dir)
	if err != nil {
		return About{}, fmt.Errorf("read the backup %s: %w", dir, err)
	}
	return m.About, nil
}

func look(dir string) (m manifest, err error) {
	data, err := durable.ReadFile(filepath.Join(dir, manifestFile), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("it is none, or not whole: %w", err)
	}
	if err != nil {
		return m, err
	}
	var f struct{ Format int }
	if err := json.Unmarshal(data, &f); err != nil {
		return m, fmt.Errorf("%s: %w", manifestFile, err)
	}
	if f.Format != format {
		return m, fmt.Errorf("it has format %d, and this moult reads format %d: use the moult that made it", f.Format, format)
	}
	if err := durable.StrictJSON(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", manifestFile, err)
	}
	found, err := digests(dir)
	if err != nil {
		return m, err
	}
	if !maps.Equal(found, m.Parts) {
		for part, d := range m.Parts {
			if found[part] != d {
				return m, fmt.Errorf("%s is not as it was saved: use another backup", part)
			}
		}
		return m, errors.New("it has more in it than was saved: use another backup")
	}
	key, err := home.ReadIdentity(dir)
	if err != nil {
		return m, err
	}
	if id := home.NodeOf(key); id != m.Node {
		return m, fmt.Errorf("its key is that of node %s, and it says that it is of node %s", id.Short(), m.Node.Short())
	}
	return m, nil
}

// Put puts a backup into the data folder data, which is made where it is not there. It must not
// have a node, unless that is half of the same backup.
func Put(ctx context.Context, from, data string, now time.Time) (About, error) {
	m, err := look(from)
	if err != nil {
		return About{}, fmt.Errorf("restore from %s: %w; nothing was written", from, err)
	}
	if err := m.put(ctx, from, data, now); err != nil {
		return About{}, fmt.Errorf("restore from %s to %s: %w", from, data, err)
	}
	return m.About, nil
}

func (m manifest) put(ctx context.Context, from, data string, now time.Time) error {
	if err := os.Mkdir(data, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := home.BeginRestore(data, bundle.Sum(fmt.Append(nil, m.Parts))); err != nil {
		return err
	}
	slots := filepath.Join(data, partState)
	places := map[string]string{filepath.Join(partStore, "db"): "db", partObjects: partObjects, partArtifacts: partArtifacts}
	if !m.Stateless && m.Version != 0 {
		slot := filepath.Join(partState, slotOf(m.Version))
		places[slot] = slot
		if err := os.MkdirAll(slots, 0o700); err != nil {
			return err
		}
	}
	for part, place := range places {
		to := filepath.Join(data, place)
		if err := transforms.RemoveTree(to); err != nil {
			return err
		}
		if _, err := copyTree(ctx, filepath.Join(from, part), to, false); err != nil {
			return err
		}
	}
	if !m.Stateless && m.Version != 0 {
		s, err := transforms.OpenSlots(slots)
		if err == nil {
			err = s.Switch(m.Version)
		}
		if err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(from, partStore, "floor.json"), filepath.Join(data, "floor.json")); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(from, home.IdentityFile), filepath.Join(data, home.IdentityFile)); err != nil {
		return err
	}
	for _, place := range places {
		if err := durable.SyncTree(filepath.Join(data, place)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := durable.SyncDir(data); err != nil {
		return err
	}
	why := fmt.Sprintf("the data folder was restored from the backup of %s", m.At.UTC().Format(time.DateTime))
	if err := home.Claim(data, why, now); err != nil {
		return err
	}
	return home.EndRestore(data)
}

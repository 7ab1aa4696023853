package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"moult/agent/account"
	"moult/agent/config"
	"moult/store"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/store/durable"
	"moult/transforms"
)

// folder is a node's data folder, open and locked: whose it is, and what it keeps.
type folder struct {
	firstRoot []byte
	genesis   *trust.Verified // what the first root says
	cluster   bundle.Digest
	key       ed25519.PrivateKey
	id        bundle.NodeID
	another   bool // the key was lost, so it is another node than before
	store     *store.Store
	depot     *artifact.Depot
	account   *account.Account // of the node's programs; nil: this process's user
	former    []int            // users whose state there is: the programs may have been theirs
	slots     *transforms.Slots
}

// openFolder opens the data folder of a configuration. What it has opened c closes,
// also where it fails.
func openFolder(cfg config.Config, log *slog.Logger, c *closers) (folder, error) {
	var f folder
	var err error
	if cfg.User != "" {
		if f.account, err = account.Resolve(cfg.User, cfg.Group, cfg.Groups); err != nil {
			return f, err
		}
	}
	if err := f.account.KeptFrom(cfg.Data, "state", "objects"); err != nil {
		return f, err
	}
	for _, file := range []string{cfg.File, cfg.Root, cfg.GossipKey, cfg.JoinToken, cfg.APIToken} {
		if err := f.account.KeptFrom(file); err != nil {
			return f, err
		}
	}
	if f.firstRoot, err = durable.ReadFile(cfg.Root, maxRootFile); err != nil {
		return f, fmt.Errorf("read the cluster's first root: %w; `moult trust init` makes it", err)
	}
	if f.genesis, err = trust.Genesis(f.firstRoot); err != nil {
		return f, fmt.Errorf("read the cluster's first root %s: %w", cfg.Root, err)
	}
	f.cluster = f.genesis.Cluster()
	if f.store, err = store.Open(cfg.Data, store.Options{Log: log}); err != nil {
		return f, err
	}
	c.add(f.store.Close)
	floor := f.store.Floor()
	if !floor.Cluster.IsZero() && floor.Cluster != f.cluster {
		return f, fmt.Errorf("data folder %s belongs to cluster %s, and %s is the root of cluster %s: give the agent another data folder or the other root",
			cfg.Data, floor.Cluster.Short(), cfg.Root, f.cluster.Short())
	}
	if f.key, f.another, err = loadIdentity(cfg.Data); err != nil {
		return f, err
	}
	f.another = f.another && !floor.Cluster.IsZero()
	if err := f.store.Raise(func(floor *store.Floor) { floor.Cluster = f.cluster }); err != nil {
		return f, err
	}
	f.id = bundle.NodeIDOf(f.key.Public().(ed25519.PublicKey))
	artifacts := filepath.Join(cfg.Data, "artifacts")
	if f.depot, err = artifact.Open(artifacts, artifact.Options{Log: log, CheckSpace: transforms.CheckSpace}); err != nil {
		return f, err
	}
	for _, dir := range []string{cfg.Data, artifacts} { // whatever the umask is
		if err := transforms.Enter(dir, f.account); err != nil {
			return f, err
		}
	}
	for _, file := range secrets(cfg) { // the folders are entered: they hide nothing any more
		if err := f.account.HiddenFrom(file); err != nil {
			return f, err
		}
	}
	if f.slots, err = transforms.OpenSlotsOf(f.account, filepath.Join(cfg.Data, "state")); err != nil {
		return f, err
	}
	if f.former, err = f.slots.Owners(); err != nil {
		return f, err
	}
	return f, errors.Join(f.account.Reaches(filepath.Join(cfg.Data, "state")), f.account.Reaches(artifacts))
}

// secrets are the files that the software's user must not read; "" is none.
func secrets(cfg config.Config) []string {
	return []string{filepath.Join(cfg.Data, identityFile), cfg.GossipKey, cfg.JoinToken}
}

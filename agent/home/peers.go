package home

import (
	"errors"

	"moult/store"
	"moult/store/bundle"
)

// Known is what is to be kept of a node: its signed record, and the name that is its, "" for
// none. One without a record is forgotten.
type Known struct {
	Node   bundle.NodeID
	Record []byte
	Name   string
}

// Remember writes what is known of nodes, at most RecordsPerBatch. It is a cache: what is
// lost comes back from peers.
func (h *Home) Remember(nodes []Known) error {
	return h.Store.Update(func(tx *store.Tx) error {
		for _, n := range nodes {
			if err := remember(tx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func remember(tx *store.Tx, n Known) error {
	id := n.Node.String()
	if n.Record == nil {
		return errors.Join(tx.Delete(bucketView, id), tx.Delete(bucketNames, id), tx.Delete(bucketSeen, id))
	}
	if err := tx.Put(bucketView, id, n.Record); err != nil {
		return err
	}
	if n.Name == "" {
		return tx.Delete(bucketNames, id)
	}
	return tx.Put(bucketNames, id, []byte(n.Name))
}

// Names returns the names that nodes had in earlier runs.
func (h *Home) Names() (map[bundle.NodeID]string, error) {
	names := map[bundle.NodeID]string{}
	err := h.Store.Each(bucketNames, func(key string, name []byte) error {
		if id, err := bundle.ParseNodeID(key); err == nil {
			names[id] = string(name)
		}
		return nil
	})
	return names, err
}

// Peers returns the addresses of peers seen in earlier runs.
func (h *Home) Peers() (addrs []string, err error) {
	err = h.Store.Each(bucketPeers, func(addr string, _ []byte) error {
		addrs = append(addrs, addr)
		return nil
	})
	return addrs, err
}

// AddPeers keeps addresses, with the names of those that are there: at most
// RecordsPerBatch.
func (h *Home) AddPeers(named map[string]string) error {
	return h.Store.Update(func(tx *store.Tx) error {
		for addr, name := range named {
			if err := tx.Put(bucketPeers, addr, []byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"moult/agent/membership"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// read looks for a document on the disk.
func (l *loop) read(doc node.Document) node.Event {
	data, ok, err := l.Depot.Blob(doc.Digest)
	switch {
	case err != nil && doc.Kind == node.KindBound:
		l.log.Warn("the rollout order in force is unreadable, so no newer one takes its place yet", "release", doc.Release, "err", err)
		return node.DocumentUnreadable{Document: doc, Problem: err.Error(), Again: true}
	case err != nil:
		l.log.Warn("document unreadable, fetching it again", "digest", doc.Digest.Short(), "err", err)
	case !ok && doc.Kind == node.KindBound:
		l.log.Warn("the rollout order in force is lost: the newer one cannot be compared with it", "release", doc.Release, "digest", doc.Digest.Short())
	}
	if err != nil || !ok {
		return node.DocumentMissing{Document: doc}
	}
	if doc.Kind == node.KindObject || doc.Known {
		return node.DocumentHere{Document: doc}
	}
	var read node.Event
	switch doc.Kind {
	case node.KindMembers, node.KindBoundMembers:
		var m *membership.Membership
		m, err = membership.Parse(data)
		read = node.MembersRead{Document: doc, Members: m}
	case node.KindManifest:
		var m *bundle.Manifest
		m, err = bundle.ParseManifest(data)
		read = node.ManifestRead{Document: doc, Manifest: m}
	default:
		var o *schedule.Order
		o, err = schedule.ParseOrder(data)
		read = node.OrderRead{Document: doc, Order: o}
	}
	if err != nil {
		return node.DocumentUnreadable{Document: doc, Problem: err.Error()}
	}
	return read
}

// checkOrder checks a handed-over rollout order before anything is stored.
func (l *loop) checkOrder(v *trust.Verified, n bundle.Version, data []byte) error {
	ref, ok := v.Order(n)
	if !ok || ref.Digest != bundle.Sum(data) {
		return fmt.Errorf("rollout order of release %d: the signed metadata name another document", n)
	}
	o, err := schedule.ParseOrder(data)
	if err != nil {
		return fmt.Errorf("the rollout order of release %d is not understood here: %w", n, err)
	}
	return l.node.JudgeOrder(node.MetadataOf(v), n, o, ref.Digest)
}

// checkMembers does that for who belongs to the cluster.
func checkMembers(v *trust.Verified, data []byte) error {
	if ref, ok := v.Members(); !ok || ref.Digest != bundle.Sum(data) {
		return errors.New("who belongs to the cluster: the signed metadata name another document")
	}
	if _, err := membership.Parse(data); err != nil {
		return fmt.Errorf("who belongs to the cluster is not understood here: %w", err)
	}
	return nil
}

// fetchDocuments asks peers for documents, in the background. Each is given some
// time; what has not come by then is asked for again.
func (l *loop) fetchDocuments(docs []node.Document) {
	if len(docs) == 0 {
		return
	}
	a := l.Agent
	a.spawn(func() {
		var wg sync.WaitGroup
		var got atomic.Int64
		for _, doc := range docs {
			wg.Go(func() {
				ctx, stop := a.untilStopped()
				defer stop()
				ctx, cancel := context.WithTimeout(ctx, documentTimeout)
				defer cancel()
				if err := a.fetchBlob(ctx, doc.Chunk); err != nil {
					a.log.Debug("document not fetched yet", "digest", doc.Digest.Short(), "err", err)
					return
				}
				got.Add(1)
				a.tell(node.DocumentFetched{Document: doc})
			})
		}
		wg.Wait()
		a.tell(node.FetchEnded{Got: int(got.Load())})
	})
}

// fetchBlob gets a document that may have come another way meanwhile.
func (a *Agent) fetchBlob(ctx context.Context, c bundle.Chunk) error {
	if _, ok, err := a.Depot.Blob(c.Digest); ok && err == nil {
		return nil
	}
	data, err := a.fetch.FetchBlob(ctx, c)
	if err != nil {
		return err
	}
	_, err = a.Depot.PutBlob(data)
	return err
}

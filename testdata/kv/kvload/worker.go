package kvload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"
)

// keysPerWorker is how many plain keys a worker goes round.
const keysPerWorker = 8

// retryPause is how long a worker waits before it obeys a Retry-After.
const retryPause = time.Second

// stepsPerRound is how many calls a worker makes before it begins again.
const stepsPerRound = 16

// worker is one client of one node.
type worker struct {
	load   *Load
	client *Client
	target int
	first  bool // of its target's workers

	plain     []*register
	binary    *register // first worker, version 2 and up
	removable *register // version 2 and up
	published uint64
	turn      int  // steps taken
	other     int  // which target was read last
	withheld  bool // version 1: the binary value has been denied
	last      bool // it reads all a last time
	sent      int  // times that the last call went out, but for those answered "try again"
}

func newWorker(l *Load, target, number int) *worker {
	w := &worker{load: l, client: l.clients[target], target: target, first: number == 0, other: target}
	stem := fmt.Sprintf("%s-v%d-%s-%d", l.config.Prefix, l.config.Version, l.config.Targets[target].Name, number)
	for i := range keysPerWorker {
		w.plain = append(w.plain, newRegister(fmt.Sprintf("%s-%d", stem, i), plainText))
	}
	// Nothing about a key is easy on what stands between client and node.
	w.plain[0] = newRegister(stem+"-/ ?&%é", plainText)
	if l.config.Version >= 2 {
		w.removable = newRegister(stem+"-gone", plainText)
		if w.first {
			w.binary = newRegister(binaryKey(l.config, l.config.Version, target), bytesType)
		}
	}
	return w
}

// binaryKey is where the clients of a version keep a target's binary value.
func binaryKey(c Config, version, target int) string {
	return fmt.Sprintf("%s-bin-v%d-%s", c.Prefix, version, c.Targets[target].Name)
}

// publishedKey is the n-th that a target's first worker writes for others.
func publishedKey(c Config, target int, n uint64) string {
	return fmt.Sprintf("%s-pub-v%d-%s-%d", c.Prefix, c.Version, c.Targets[target].Name, n)
}

// steps is what a worker does, one at a time, over and over. Version 1 puts
// plain writes in place of what it does not have.
func (w *worker) steps() [stepsPerRound]func(context.Context) {
	return [...]func(context.Context){
		w.write, w.read, w.publish, w.read,
		w.writeIf, w.readOther, w.write, w.read,
		w.writeBinary, w.readBinary, w.write, w.list,
		w.writeIfStale, w.read, w.remove, w.readRemoved,
	}
}

// pace takes steps until ctx ends. It is false if ctx ended before the first.
func (w *worker) pace(ctx context.Context, number, total int) bool {
	var tick <-chan time.Time
	if rate := w.load.config.Rate; rate > 0 {
		between := time.Duration(float64(time.Second) * float64(total) / rate)
		// Spread over the first round, so that they do not all call at once.
		select {
		case <-time.After(between * time.Duration(number) / time.Duration(total)):
		case <-ctx.Done():
			return false
		}
		t := time.NewTicker(max(between, time.Microsecond))
		defer t.Stop()
		tick = t.C
	}
	steps := w.steps()
	for ctx.Err() == nil {
		// What has begun is brought to its end.
		steps[w.turn%stepsPerRound](context.WithoutCancel(ctx))
		w.turn++
		if tick == nil {
			continue
		}
		select {
		case <-tick:
		case <-ctx.Done():
		}
	}
	return true
}

// sweep reads all that the worker has written.
func (w *worker) sweep(ctx context.Context) {
	w.last = true
	for range w.plain {
		w.turn++
		w.read(ctx)
	}
	w.readBinary(ctx)
	w.readRemoved(ctx)
	w.list(ctx)
}

// mayDeny reports whether a call that has no meaning at version 1 may be denied.
func (w *worker) mayDeny() bool {
	return w.load.config.Back || !w.load.upgraded[w.target].Load()
}

// aside reports whether what version 1 cannot hold may be missing now.
func (w *worker) aside() bool { return w.load.config.Back && !w.last }

// register returns the plain key whose turn it is: one for each two steps, so
// that a read follows a write, and another one for a step in the next round.
func (w *worker) register() *register {
	return w.plain[(w.turn/2+w.turn/stepsPerRound)%len(w.plain)]
}

func (w *worker) write(ctx context.Context) {
	w.put(ctx, w.register(), nil, false)
}

// put writes a register. mayDeny says that the call may have no meaning at the
// node's version.
func (w *worker) put(ctx context.Context, r *register, ifRevision *int64, mayDeny bool) {
	mayDeny = mayDeny && w.mayDeny()
	seq, v := r.next()
	var revision int64
	err := w.call(ctx, "put "+r.key, func(ctx context.Context) (err error) {
		revision, err = w.client.Put(ctx, r.key, v, ifRevision)
		return err
	})
	switch {
	case err == nil:
		err = w.putDone(r, seq, revision, ifRevision)
	case w.denied(err, mayDeny):
		return
	case ifRevision != nil && answered(err, http.StatusConflict) && w.sent > 1:
		err = w.resentDone(ctx, r, seq, *ifRevision)
	case ifRevision != nil && answered(err, http.StatusConflict):
		err = w.conflictDone(r, *ifRevision)
	default:
		r.abandon()
	}
	w.count(err)
}

// putDone checks what an acknowledged write says, and notes it. Each time that
// it was sent it may have been carried out.
func (w *worker) putDone(r *register, seq uint64, revision int64, ifRevision *int64) error {
	known := !w.load.config.Back || r.revision > 0 // else version 1 has written it, perhaps often
	before, existed, sent := r.highest(), r.exists(), int64(max(w.sent, 1))
	r.acked(seq, revision)
	switch {
	case w.client.version == 1, revision == 0 && w.load.config.Back:
		return nil // it is not known
	case revision > 0:
		w.load.upgraded[w.target].Store(true)
	}
	switch {
	case ifRevision != nil && revision != *ifRevision+1:
		return wrongf("put %q if at revision %d was carried out and gave revision %d", r.key, *ifRevision, revision)
	case before > 0 && (revision <= before || existed && known && revision > before+sent):
		return wrongf("put %q gave revision %d after %d", r.key, revision, before)
	}
	return nil
}

// conflictDone checks that a refused condition did not hold.
func (w *worker) conflictDone(r *register, ifRevision int64) error {
	if r.exists() && r.revision == ifRevision {
		return wrongf("put %q if at revision %d was refused, but it is at that", r.key, ifRevision)
	}
	return nil
}

// resentDone finds out what became of a conditional write that was sent more
// than once and then refused: the first one may have been carried out, and that
// is then why the second was refused.
func (w *worker) resentDone(ctx context.Context, r *register, seq uint64, ifRevision int64) error {
	got, err := w.get(ctx, r.key)
	switch {
	case err == nil && got.Revision == ifRevision+1 && sameValue(r.key, r.value(seq), got) == nil:
		r.acked(seq, got.Revision)
		return nil
	case err == nil && r.exists():
		err = r.check(got)
	case !r.exists() && answered(err, http.StatusNotFound):
		err = nil
	case err == nil:
		err = wrongf("get %q found %s, but it was never written, or was deleted", r.key, abridge(got.Data))
	}
	return errors.Join(err, w.conflictDone(r, ifRevision))
}

// writeIf writes on a condition that holds, or may hold where the revision is
// not known.
func (w *worker) writeIf(ctx context.Context) {
	if w.client.version == 1 {
		w.write(ctx)
		return
	}
	r := w.register()
	condition := max(r.revision, 1)
	w.put(ctx, r, &condition, true)
}

// writeIfStale writes on a condition that does not hold.
func (w *worker) writeIfStale(ctx context.Context) {
	if w.client.version == 1 {
		w.write(ctx)
		return
	}
	r := w.register()
	condition := r.revision + 1_000_000
	w.put(ctx, r, &condition, true)
}

func (w *worker) read(ctx context.Context) {
	w.readRegister(ctx, w.register())
}

// readRegister reads what may also not be there.
func (w *worker) readRegister(ctx context.Context, r *register) {
	got, err := w.get(ctx, r.key)
	switch {
	case err == nil && !r.exists():
		err = wrongf("get %q found %s, but it was never written, or was deleted", r.key, abridge(got.Data))
	case err == nil:
		if got.Revision > 0 {
			w.load.upgraded[w.target].Store(true)
		}
		if err = r.check(got); err != nil {
			err = fmt.Errorf("get %q at %s: %w", r.key, w.client.base, err)
		}
	case !r.exists() && answered(err, http.StatusNotFound):
		err = nil
	case r.kind != plainText && w.aside() && answered(err, http.StatusNotFound):
		err = nil
	case answered(err, http.StatusNotFound):
		err = wrongf("get %q at %s: it was acknowledged, and is not there: %w", r.key, w.client.base, err)
	}
	w.count(err)
}

// publish writes a key that is never written again, for others to read.
func (w *worker) publish(ctx context.Context) {
	if !w.first || !w.load.config.Repair {
		w.write(ctx)
		return
	}
	w.published++
	r := newRegister(publishedKey(w.load.config, w.target, w.published), plainText)
	w.put(ctx, r, nil, false)
	if r.exists() {
		w.load.newest[w.target].Store(w.published)
	}
}

// readOther reads from this worker's node what another node was given.
func (w *worker) readOther(ctx context.Context) {
	w.other = (w.other + 1) % len(w.load.clients)
	newest := w.load.newest[w.other].Load()
	if newest == 0 || w.other == w.target {
		w.read(ctx)
		return
	}
	r := newRegister(publishedKey(w.load.config, w.other, newest), plainText)
	seq, _ := r.next()
	r.acked(seq, 0)
	w.readRegister(ctx, r)
}

func (w *worker) writeBinary(ctx context.Context) {
	if w.binary == nil {
		w.write(ctx)
		return
	}
	w.put(ctx, w.binary, nil, true)
}

func (w *worker) readBinary(ctx context.Context) {
	switch {
	case w.client.version == 1:
		w.readWithheld(ctx)
	case w.binary != nil:
		w.readRegister(ctx, w.binary)
	default:
		w.read(ctx)
	}
}

// readWithheld reads, as a client of version 1, a value that it cannot be given.
func (w *worker) readWithheld(ctx context.Context) {
	key := binaryKey(w.load.config, 2, w.target)
	got, err := w.get(ctx, key)
	switch {
	case err == nil:
		err = wrongf("get %q at %s gave version 1 a binary value: %s", key, w.client.base, abridge(got.Data))
	case deniedBy(err) != nil:
		w.withheld = true
		w.load.deny(deniedBy(err))
		return
	case answered(err, http.StatusNotFound) && (!w.withheld || w.aside()):
		err = nil
	}
	w.count(err)
}

func (w *worker) remove(ctx context.Context) {
	r := w.removable
	switch {
	case r == nil:
		w.write(ctx)
		return
	case !r.exists():
		w.put(ctx, r, nil, false)
		return
	}
	mayDeny := w.mayDeny()
	err := w.call(ctx, "delete "+r.key, func(ctx context.Context) error { return w.client.Delete(ctx, r.key) })
	switch {
	case err == nil:
		r.removed()
	case w.sent > 1 && answered(err, http.StatusNotFound):
		r.removed() // the first time
		err = nil
	case w.denied(err, mayDeny):
		return
	case answered(err, http.StatusNotFound):
		r.abandon()
		err = wrongf("delete %q at %s: it was acknowledged, and is not there: %w", r.key, w.client.base, err)
	default:
		r.abandon()
	}
	w.count(err)
}

func (w *worker) readRemoved(ctx context.Context) {
	if w.removable == nil {
		w.read(ctx)
		return
	}
	w.readRegister(ctx, w.removable)
}

// list checks that the node lists all of the worker's keys that exist, and none
// that was deleted.
func (w *worker) list(ctx context.Context) {
	var keys []string
	err := w.call(ctx, "list", func(ctx context.Context) (err error) {
		keys, err = w.client.List(ctx)
		return err
	})
	for _, r := range append(slices.Clip(w.plain), w.binary, w.removable) {
		if err == nil && r != nil && !(r == w.binary && w.aside()) && r.exists() != slices.Contains(keys, r.key) {
			err = wrongf("list at %s: %d keys; %q exists: %v", w.client.base, len(keys), r.key, r.exists())
		}
	}
	w.count(err)
}

// get reads, and reads again where the node says that it is not sure.
func (w *worker) get(ctx context.Context, key string) (v Value, err error) {
	err = w.call(ctx, "get "+key, func(ctx context.Context) error {
		for {
			v, err = w.client.Get(ctx, key)
			if !answered(err, http.StatusServiceUnavailable) {
				return err
			}
			select {
			case <-ctx.Done():
				return errors.Join(err, ctx.Err())
			case <-time.After(retryPause):
				w.load.retried.Add(1)
				w.sent--
			}
		}
	})
	return v, err
}

// call carries out one call within the load's timeout and notes how long it
// took.
func (w *worker) call(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.load.config.Timeout)
	defer cancel()
	w.sent = 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { w.sent++ }})
	began := time.Now()
	err := do(ctx)
	w.load.resent.Add(int64(max(w.sent-1, 0)))
	w.load.took(what+" at "+w.load.config.Targets[w.target].Name, time.Since(began))
	return err
}

// denied counts a denied call if err is one and it may be.
func (w *worker) denied(err error, may bool) bool {
	s := deniedBy(err)
	if s == nil || !may {
		return false
	}
	w.load.deny(s)
	return true
}

func (w *worker) count(err error) {
	if err != nil {
		w.load.fail(err)
		return
	}
	w.load.ok.Add(1)
}

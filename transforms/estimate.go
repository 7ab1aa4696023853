package transforms

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"moult/store/bundle"
)

// Estimate is how long it is likely to take to copy a state.
type Estimate struct {
	Files int
	Bytes int64
	Takes time.Duration
}

// EstimateCopy measures the state of v and copies a sample of it, for the time that a copy
// of the whole is likely to take: part of it goes with the number of files, the rest with
// their bytes. The state may be changing meanwhile. It may run beside everything else.
func (s *Slots) EstimateCopy(ctx context.Context, v bundle.Version) (e Estimate, err error) {
	dir := s.Path(v)
	if err := CheckSpace(s.dir, sampleFiles*sampleFileBytes+sampleBytes+diskReserve); err != nil {
		return e, err
	}
	scratch, err := os.MkdirTemp(s.dir, oldPrefix+"estimate-*") // OpenSlots clears it, should it be left
	if err != nil {
		return e, fmt.Errorf("estimate how long %s takes to copy: %w", dir, err)
	}
	defer func() { err = errors.Join(err, removeTree(scratch)) }()
	if e, err = estimate(ctx, dir, scratch); err != nil {
		return e, fmt.Errorf("estimate how long %s takes to copy: %w", dir, err)
	}
	return e, nil
}

func estimate(ctx context.Context, dir, scratch string) (e Estimate, err error) {
	began := time.Now()
	u, err := measure(dir)
	if err != nil {
		return e, err
	}
	walked := time.Since(began)
	e.Files, e.Bytes = u.objects, u.disk
	few, large, err := choose(dir, u.objects)
	if err != nil {
		return e, err
	}
	small, err := sample(ctx, dir, filepath.Join(scratch, "few"), few, sampleFileBytes)
	if err != nil {
		return e, err
	}
	var bulk sampled
	if e.beyond(small) > 0 && large.info != nil {
		if bulk, err = sample(ctx, dir, filepath.Join(scratch, "large"), []copyItem{large}, sampleBytes); err != nil {
			return e, err
		}
	}
	e.reckon(walked, small, bulk)
	return e, nil
}

// beyond is how many bytes of the state are more than so many files as small as those of a
// sample have.
func (e *Estimate) beyond(small sampled) int64 {
	if small.files == 0 {
		return 0
	}
	return e.Bytes - small.bytes*int64(e.Files)/int64(small.files)
}

// reckon says how long the copy takes, by how long it took to walk the state, and to copy
// some of its files and a part of a large one.
func (e *Estimate) reckon(walked time.Duration, small, bulk sampled) {
	e.Takes = estimateWalks * walked // a transform goes through the old and the new state besides
	if small.files > 0 {
		e.Takes += time.Duration(float64(small.took) * float64(e.Files) / float64(small.files))
	}
	if rest := e.beyond(small); rest > 0 && bulk.bytes > 0 {
		e.Takes += time.Duration(float64(bulk.took) * float64(rest) / float64(bulk.bytes))
	}
}

// choose picks files from all over a tree of so many, and the largest.
func choose(dir string, of int) (few []copyItem, large copyItem, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, large, err
	}
	defer root.Close()
	each, i := max(1, of/sampleFiles), 0
	err = walkLive(root, func(name string, info fs.FileInfo) error {
		if !info.Mode().IsRegular() {
			return nil
		}
		if i%each == 0 && len(few) < sampleFiles {
			few = append(few, copyItem{name, info})
		}
		if i++; large.info == nil || info.Size() > large.info.Size() {
			large = copyItem{name, info}
		}
		return nil
	})
	return few, large, err
}

// sampled is what was copied.
type sampled struct {
	files int
	bytes int64
	took  time.Duration
}

// sample copies the beginnings of files, as copyTree would, into a new folder.
func sample(ctx context.Context, dir, to string, files []copyItem, most int64) (done sampled, err error) {
	if err := os.Mkdir(to, 0o700); err != nil {
		return done, err
	}
	src, err := os.OpenRoot(dir)
	if err != nil {
		return done, err
	}
	defer src.Close()
	dst, err := os.OpenRoot(to)
	if err != nil {
		return done, err
	}
	defer dst.Close()
	c := &copier{from: src, to: dst, owned: mayOwn(), names: map[inode]string{}}
	began := time.Now()
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := make(chan int)
	for range copyWorkers {
		workers.Go(func() {
			for i := range next {
				n, err := c.beginning(ctx, files[i], strconv.Itoa(i), most)
				if err != nil {
					continue // it is gone or has changed; whether a copy is possible is looked at elsewhere
				}
				mu.Lock()
				done.files, done.bytes = done.files+1, done.bytes+n
				mu.Unlock()
			}
		})
	}
	for i := range files {
		next <- i
	}
	close(next)
	workers.Wait()
	if err := errors.Join(context.Cause(ctx), syncTree(to)); err != nil {
		return done, err
	}
	done.took = time.Since(began)
	return done, nil
}

// beginning copies the beginning of a file under another name, and returns how much disk
// that is.
func (c *copier) beginning(ctx context.Context, f copyItem, as string, most int64) (int64, error) {
	in, err := openRegular(c.from, f.name, f.info)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := c.to.OpenFile(as, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	if err = copyData(ctx, out, in, min(f.info.Size(), most)); err == nil {
		err = c.dressOpen(copyItem{as, f.info}, out, in)
	}
	info, serr := out.Stat()
	if err = errors.Join(err, serr, out.Close()); err != nil {
		return 0, err
	}
	return onDisk(info), nil
}
